"""Rolling quantile: the value that a given share of an entity's last values lies beyond."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from anomaly_daemon.domain.columns import Column
from anomaly_daemon.statistics.window import TAIL_PROBABILITY_MIN, Window, begun

_ALIKE = 0.01  # what never varied exceeds itself by a hundredth of a deviation


class RollingQuantile:
    """The 1 − tail quantile of the window, interpolated linearly between neighbours, and brought up to date as the window says.

    The one that the next of values alike exceeds with that very probability, whatever their distribution: numpy's `weibull`. River's and numpy's
    default is exceeded half as often again where the window holds two so rare.
    Source: Hyndman & Fan 1996, "Sample Quantiles in Statistical Packages", definition 6.
    """

    def __init__(self, name: str, window: Window, tail: float) -> None:
        """window: of values in some unit, deviations. tail: the probability of a value beyond `quantile`."""
        self.window, self._tail = window, tail
        self.quantile = f"{name}.quantile"
        self._highest_count = min(window.length, math.ceil(tail * window.length) + 2)

    def columns(self) -> tuple[Column, ...]:
        """The window and the quantile."""
        return begun([*self.window.columns(), Column(self.quantile, "float64")], [self.quantile], self._refit)

    def tail_probability(self, rows: Mapping[str, Tensor], value: Tensor) -> Tensor:
        """Probability of a value as high by its rank in the window, float64 [n] in [1e-4, 1]."""
        return self.window.rank(rows, value - _ALIKE).clamp_(min=TAIL_PROBABILITY_MIN)

    def learn(self, rows: Mapping[str, Tensor], value: Tensor, weight: Tensor) -> None:
        """Take value [n] in at weight [n] in [0, 1]; see Window for weights below 1."""
        due = self.window.learn(rows, value, weight)
        if len(due):
            self._refit(rows, due)

    def _refit(self, rows: Mapping[str, Tensor], due: Tensor) -> None:
        highest = self.window.highest(rows, due, self._highest_count)
        held = rows[self.window.learned][due].clamp_(max=self.window.length)
        from_top = ((held + 1).to(torch.float64) * self._tail - 1).clamp_(min=0.0)
        above = from_top.floor()
        upper = highest.gather(1, above.long().unsqueeze(1)).squeeze(1)
        lower = highest.gather(1, (above.long() + 1).minimum(held - 1).unsqueeze(1)).squeeze(1)
        rows[self.quantile][due] = upper + (lower - upper) * (from_top - above) + _ALIKE
