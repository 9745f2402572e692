"""Any anomaly detector or quantile estimator of river as a threshold: one Python object per entity, slower than a slab."""

from __future__ import annotations

import bisect
from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor

from anomaly_daemon.domain.columns import OBSERVATIONS, Column
from anomaly_daemon.settings import Threshold as ThresholdSettings
from anomaly_daemon.statistics.window import TAIL_PROBABILITY_MIN
from anomaly_daemon.thresholds.base import Judgement, Rows
from anomaly_daemon.thresholds.estimators import Estimator, factory

_SCORES_KEPT = 256
_TAIL_MAX = 0.5


@dataclass(slots=True)
class _Seat:
    """An entity's estimator, and the last scores it learned, by time and by size: a score's rank is its tail probability."""

    estimator: Estimator
    by_time: deque[float] = field(default_factory=deque)
    by_size: list[float] = field(default_factory=list)

    def tail_probability(self, score: float) -> float:
        as_high = len(self.by_size) - bisect.bisect_left(self.by_size, score)
        return (1 + as_high) / (1 + len(self.by_size))

    def learn(self, score: float) -> None:
        if len(self.by_time) == _SCORES_KEPT:
            del self.by_size[bisect.bisect_left(self.by_size, self.by_time.popleft())]
        self.by_time.append(score)
        bisect.insort(self.by_size, score)
        self.estimator.learn(score)


class RiverThreshold:
    """`river:MODULE.CLASS` with `threshold.parameters` as keyword arguments, fed the fused score s.

    Supervised detectors (GaussianScorer) take s as y; the others take {"score": s / (1 + s)}, in [0, 1) as HalfSpaceTrees
    needs it. A detector's reading is held against `level`, a filter classifies it itself; a quantile (Quantile,
    RollingQuantile, Max, RollingMax) is the threshold by itself, with q = 1 − tail and window_size = window unless given. `seed` is 0
    unless given. The tail probability is the score's rank among the last 256; in the lower half it is no anomaly, even to a
    two-sided detector. Suspect scores, at weight below 1, are not learned.
    Raises SettingsError when the class or its parameters do not exist, or it cannot judge single numbers.
    """

    is_checkpointable = False

    def __init__(self, settings: ThresholdSettings) -> None:
        self._make = factory(settings)
        self._seats: dict[int, _Seat] = {}

    def columns(self) -> tuple[Column, ...]:
        """None: an estimator is a Python object, kept by rows["slot"], as bounded as the table, and begun anew where `observations` is 0."""
        return ()

    def judge(self, rows: Rows, score: Tensor) -> Judgement:
        """See Threshold; reads rows["slot"], rows["observations"] and rows["parameter.level"]."""
        thresholds, flags, tails = [], [], []
        observations, levels = rows[OBSERVATIONS.name].tolist(), rows["parameter.level"].tolist()
        for slot, seen, one, level in zip(rows["slot"].tolist(), observations, score.tolist(), levels, strict=True):
            if seen == 0 or slot not in self._seats:
                self._seats[slot] = _Seat(self._make())
            seat = self._seats[slot]
            tail = seat.tail_probability(one)
            threshold, is_anomaly = seat.estimator.judge(one, level)
            is_high = tail <= _TAIL_MAX
            thresholds.append(threshold if is_high else max(threshold, one))
            flags.append(is_anomaly and is_high)
            tails.append(tail)
        beyond = torch.tensor(flags, dtype=torch.bool, device=score.device)
        probability = score.new_tensor(tails).clamp_(min=TAIL_PROBABILITY_MIN)
        return Judgement(score.new_tensor(thresholds), beyond, beyond, (probability,), torch.full_like(score, torch.nan))

    def tail_probability(self, *tail: Tensor) -> Tensor:
        """See Threshold."""
        return tail[0]

    def learn(self, rows: Rows, score: Tensor, weight: Tensor, _judgement: Judgement) -> None:
        """See Threshold; of the scores just judged those at weight 1 are learned."""
        for slot, one, share in zip(rows["slot"].tolist(), score.tolist(), weight.tolist(), strict=True):
            if share == 1:
                self._seats[slot].learn(one)
