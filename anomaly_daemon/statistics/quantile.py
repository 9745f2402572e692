"""Rolling quantile: the score that a given share of an entity's last scores lies beyond."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from anomaly_daemon.domain.columns import Column
from anomaly_daemon.statistics.window import REFIT_EVERY, SCORE_MAX, TAIL_PROBABILITY_MIN, Window


class RollingQuantile:
    """The 1 − tail quantile of the last `length` scores, interpolated linearly between neighbours.

    As river.stats.RollingQuantile(1 − tail, length) and numpy's default, brought up to date every `refit_every` scores.
    Until the first time nothing is beyond it.
    """

    def __init__(self, name: str, length: int, tail: float, refit_every: int = REFIT_EVERY) -> None:
        self.window = Window(name, length, refit_every)
        self.quantile = f"{name}.quantile"
        self._tail = tail
        self._highest_count = min(length, math.ceil(tail * length) + 2)

    def columns(self) -> tuple[Column, ...]:
        """The window and the quantile."""
        return (*self.window.columns(), Column(self.quantile, "float64", fill=SCORE_MAX))

    def tail_probability(self, rows: Mapping[str, Tensor], score: Tensor) -> Tensor:
        """Probability of a score as high by its rank in the window, float64 [n] in [1e-4, 1]."""
        return self.window.rank(rows, score).clamp_(min=TAIL_PROBABILITY_MIN)

    def learn(self, rows: Mapping[str, Tensor], score: Tensor, weight: Tensor) -> None:
        """Take score [n] ≥ 0 in at weight [n] in [0, 1]; see Window for weights below 1."""
        due = self.window.learn(rows, score, weight)
        if len(due):
            highest = self.window.highest(rows, due, self._highest_count)
            held = rows[self.window.learned][due].clamp_(max=self.window.length)
            from_top = (held - 1).to(torch.float64) * self._tail
            above = from_top.floor()
            upper = highest.gather(1, above.long().unsqueeze(1)).squeeze(1)
            lower = highest.gather(1, (above.long() + 1).minimum(held - 1).unsqueeze(1)).squeeze(1)
            rows[self.quantile][due] = upper + (lower - upper) * (from_top - above)
