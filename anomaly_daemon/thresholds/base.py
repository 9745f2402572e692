"""The seam between a score and a verdict: how high a score of this entity may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from anomaly_daemon.domain.columns import FROZEN, Column

Rows = Mapping[str, Tensor]
"""The columns of the n entities at hand, contiguous, changed in place; a Threshold reads and writes all n of each."""

PREFIX = "threshold"
"""Every threshold's columns begin with it: only one method is at work in a daemon."""

WARMUP_MARGIN = 0.2
"""By how much the prior's deviation is widened for an entity never seen: it may be unlike those that training saw."""

GIVEN = ("slot", "parameter.z", "parameter.level")
"""What the pipeline puts beside the columns: the entity's place in the table, int64, and parameters that may differ by entity, float64."""

JUDGED = "judged"
"""What the judge puts beside them at each step: float64 [n], 1 where any channel had something to say, else 0."""

HELD_BACK = float("-inf")
"""Deviations of a score that no sensitivity calls an anomaly."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a threshold says of one step's scores; n entities, on the device of the scores.

    threshold:        float64 [n], on the scale of the score, at least 0.
    is_anomaly:       bool [n].
    is_suspect:       bool [n], whether the score teaches little. It follows no parameter that may change while the daemon runs, so that
                      what is learned does not depend on how loud the detector is; a river estimator's alone does.
    tail:             columns [n, …] that `Threshold.tail_probability` tells from; for all rows of a micro-batch at once.
    deviations:       float64 [n], of the log score above its mean: anomalous where above z; HELD_BACK where it is no anomaly at any z or level;
                      NaN where the method knows none.
    """

    threshold: Tensor
    is_anomaly: Tensor
    is_suspect: Tensor
    tail: tuple[Tensor, ...]
    deviations: Tensor


class Threshold(Protocol):
    """A judging method. Its rows hold its columns, `GIVEN`, `JUDGED`, and `observations`, the count before the one at hand.

    is_checkpointable: all its state is in its columns; where it is not, an entity's state is rebuilt from the log.
    """

    is_checkpointable: bool

    def columns(self) -> tuple[Column, ...]:
        """What it keeps per entity."""
        ...

    def judge(self, rows: Rows, score: Tensor) -> Judgement:
        """Judge score [n] float64 ≥ 0 by what was learned before; nothing is learned."""
        ...

    def tail_probability(self, *tail: Tensor) -> Tensor:
        """Of a normal score as high as each row's, float64 [n] in [1e-4, 1]; see `Judgement.tail`."""
        ...

    def learn(self, rows: Rows, score: Tensor, weight: Tensor, judgement: Judgement, /) -> None:
        """Take the scores just judged in, in place, at weight [n] in [0, 1]; below 1 they are suspect.

        judgement: what `judge` said of these scores. Weight 0 changes no bit where the row is unjudged or frozen; of a suspect it may teach a tail.
        """
        ...


def may_teach(rows: Rows) -> Tensor:
    """Which of the rows' scores may teach at all: bool [n], judged and of no entity that is frozen."""
    is_judged = rows[JUDGED] > 0
    return is_judged & ~rows[FROZEN] if FROZEN in rows else is_judged
