"""Rows for slabs without the table of `state`: fresh columns for some entities, and a judge fed a stream cut anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_daemon.domain.columns import OBSERVATIONS, Column
from anomaly_daemon.state.segments import lay_out
from anomaly_daemon.thresholds.base import JUDGED
from anomaly_daemon.thresholds.judge import Judge

CHANNELS = ("prediction", "reconstruction")


def fresh_rows(columns: Iterable[Column], entities: int = 1, z: float = 4.0, level: float = 0.9) -> dict[str, Tensor]:
    rows = {column.name: torch.from_numpy(column.fresh(entities)) for column in columns}
    rows[OBSERVATIONS.name] = torch.zeros(entities, dtype=torch.int64)
    rows["slot"] = torch.arange(entities)
    rows[JUDGED] = torch.ones(entities, dtype=torch.float64)
    rows["parameter.z"] = torch.full((entities,), z, dtype=torch.float64)
    rows["parameter.level"] = torch.full((entities,), level, dtype=torch.float64)
    return rows


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class Stream:
    """A judge, the state of its entities, and the verdicts so far in log order."""

    def __init__(self, judge: Judge, entities: int = 1, z: float = 4.0, level: float = 0.9) -> None:
        self.judge, self.state = judge, fresh_rows(judge.columns(), entities, z, level)

    def feed(
        self, slots: NDArray[np.int64], evidence: NDArray[np.float64], fresh: NDArray[np.bool_] | None = None, cuts: Sequence[int] = ()
    ) -> dict[str, NDArray[np.float64]]:
        """evidence, fresh: [records, channels] in log order; batches end before each of `cuts`."""
        fresh = np.ones_like(evidence, np.bool_) if fresh is None else fresh
        if not len(slots):
            return self._batch(slots, evidence, fresh)
        edges = [0, *sorted(set(cuts)), len(slots)]
        batches = [self._batch(slots[a:b], evidence[a:b], fresh[a:b]) for a, b in pairwise(edges) if a < b]
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}

    def _batch(self, slots: NDArray[np.int64], evidence: NDArray[np.float64], fresh: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
        layout = lay_out(slots)
        chosen = torch.from_numpy(layout.slots)
        rows = {name: column[chosen] for name, column in self.state.items()}
        columns: Mapping[str, NDArray[np.float64]] = dict(zip(CHANNELS, evidence[layout.order].T, strict=True))
        news = dict(zip(CHANNELS, fresh[layout.order].T, strict=True))
        verdicts = self.judge.judge(
            layout, rows, {name: torch.tensor(column) for name, column in columns.items()}, {name: torch.tensor(new) for name, new in news.items()}
        )
        for name, column in rows.items():
            self.state[name][chosen] = column
        in_log_order = {}
        for name in ("anomaly_score", "tail_probability", "threshold", "is_anomaly", "grade", "phase", "deviations", "parts"):
            column = getattr(verdicts, name).numpy()
            in_log_order[name] = np.empty_like(column)
            in_log_order[name][layout.order] = column
        return in_log_order
