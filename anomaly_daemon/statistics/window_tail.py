"""How rare a score is for its entity, by a window of its last deviations, and by how often what the window said came true.

A window follows a stream that changes its ways, but late, and neighbours are alike: so its quantiles are exceeded too often as long as a stream
grows wilder. Each exceedance stretches them, each other deviation takes a little back, in that ratio in which they stand still where exceedances
come as often as they should.
Source: Gibbs & Candès 2021, "Adaptive Conformal Inference Under Distribution Shift".
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from anomaly_daemon.domain.columns import Column
from anomaly_daemon.statistics.credit import Credit
from anomaly_daemon.statistics.quantile import RollingQuantile
from anomaly_daemon.statistics.spot import Spot

_CREDIT, _CREDIT_BACK = 5.0, 4.0  # the latter in tails: four times what comes by chance
_BEYOND = 1.0  # deviations
_STRETCHED, _STRETCHED_MAX = 0.05, math.log(2)  # by one exceedance, by all; logs


class WindowTail:
    """As Tail, of a window.

    Suspects teach while they are few (see Credit), for without them the quantile ends lower and lower; but none as more than a deviation beyond
    the quantile, so that a short incident does not make its entity deaf.
    """

    def __init__(self, name: str, statistic: Spot | RollingQuantile, tail: float) -> None:
        """name: of what is kept beside the statistic's own. tail: its probability."""
        self._statistic, self._tail = statistic, tail
        self._stretch = Column(f"{name}.stretch", "float64")
        self._credit = Credit(f"{name}.credit", _CREDIT, _CREDIT_BACK * tail)

    def columns(self) -> tuple[Column, ...]:
        """The window, what is read off it, by how much that is stretched, a logarithm, and the credit of suspects."""
        return (*self._statistic.columns(), self._stretch, self._credit.column())

    def quantile(self, rows: Mapping[str, Tensor]) -> Tensor:
        """The deviation that a normal one exceeds with the statistic's probability, [n], a new tensor."""
        quantile = rows[self._statistic.quantile]
        return torch.where(quantile > 0, quantile * rows[self._stretch.name].exp(), quantile)

    def known(self, rows: Mapping[str, Tensor], deviations: Tensor) -> Tensor:
        """The probability itself, [n]: a copy of the window would be dearer."""
        return self._statistic.tail_probability(rows, torch.where(deviations > 0, deviations * (-rows[self._stretch.name]).exp_(), deviations))

    def probability(self, known: Tensor, _deviations: Tensor) -> Tensor:
        """See Tail."""
        return known

    def learn(self, rows: Mapping[str, Tensor], known: Tensor, deviations: Tensor, weight: Tensor, is_taught: Tensor, _seen: Tensor) -> None:
        """See Tail; once their credit is used up, of suspects at weight 1/k every k-th is taken in, and none stretches anything."""
        within = torch.where(weight < 1, deviations.minimum(self.quantile(rows) + _BEYOND), deviations)
        taught = self._credit.weighed(rows, weight, is_taught)
        is_beyond = (known <= self._tail) & (taught == 1)
        stretched = _STRETCHED * (is_beyond.double() - self._tail * taught)
        rows[self._stretch.name].add_(stretched).clamp_(-_STRETCHED_MAX, _STRETCHED_MAX)
        self._statistic.learn(rows, within, taught)
