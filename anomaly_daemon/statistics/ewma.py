"""Exponentially weighted mean and variance as a slab: what an entity's value usually is, and how far it strays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from anomaly_daemon.domain.columns import Column
from anomaly_daemon.statistics.reach import ABOVE, BELOW, NORMAL

_SETTLED_AFTER = 16  # observations, from which a mean and a deviation tell what is far from them


class Ewma:
    """Mean and variance that forget: an observation counts half after `half_life` further ones.

    While an entity is young, and so the forgetting rate below 1/(observations), it is the plain mean and (population)
    variance, begun from a prior that counts as `prior_observations`. Equal to river.stats.EWMean and EWVar at a constant
    rate, to river.stats.Mean and Var while young, but for what is out of reach where `is_bounded`.
    Sources: West 1979, "Updating mean and variance estimates"; Finch 2009, "Incremental calculation of weighted mean and variance".
    """

    def __init__(
        self,
        name: str,
        half_life: float,
        prior: tuple[ArrayLike, ArrayLike] = (0.0, 0.0),
        prior_observations: int = 0,
        shape: tuple[int, ...] = (),
        deviation_floor: float = 0.0,
        *,
        is_bounded: bool = False,
    ) -> None:
        """prior: mean and variance, each broadcast to `shape`; deviation_floor: what `deviation` never goes below.

        is_bounded: whether, once the entity is settled, an observation counts as far as it is within reach of the mean, see `reach`; `deviation` is
        widened then.
        """
        self.mean, self.variance = f"{name}.mean", f"{name}.variance"
        self._rate_min = 1 - 0.5 ** (1 / half_life)
        self._prior = tuple(np.broadcast_to(np.asarray(part, np.float64), shape) for part in prior)
        self._prior_observations = prior_observations
        self._shape = shape
        self._deviation_floor = deviation_floor
        self._is_bounded, self._widening = is_bounded, NORMAL if is_bounded else 1.0

    def columns(self) -> tuple[Column, ...]:
        """Mean and variance, float64 of `shape`."""
        return tuple(Column(name, "float64", self._shape, fill) for name, fill in zip((self.mean, self.variance), self._prior, strict=True))

    def deviation(self, rows: Mapping[str, Tensor]) -> Tensor:
        """The standard deviation, a new tensor [n, …]."""
        return rows[self.variance].sqrt().mul_(self._widening).clamp_(min=self._deviation_floor)

    def learn(self, rows: Mapping[str, Tensor], x: Tensor, weight: Tensor, seen: Tensor) -> None:
        """Take x [n, …] in, at `weight` [n, …] in [0, 1]; `seen` [n, …] float64 says how much was learned before.

        Of a suspect, at a weight below 1, and of what is above reach a young entity learns no more than it would later: else one incident of hours
        makes it deaf for a day.
        rows: the columns of these n entities, changed in place. |x| up to 1e150 keeps everything finite; a weight of 0 changes no bit.
        """
        mean, variance = rows[self.mean], rows[self.variance]
        rate = (seen + (self._prior_observations + 1)).reciprocal_().clamp_(min=self._rate_min)
        is_odd, difference = weight < 1, x - mean
        if self._is_bounded:
            is_settled, deviation = seen >= _SETTLED_AFTER, self.deviation(rows)
            is_odd |= is_settled & (difference > ABOVE * deviation)
            difference = torch.where(is_settled, difference.maximum(-BELOW * deviation), difference)
            difference = torch.where(is_odd, difference.minimum(ABOVE * deviation), difference)
        rate = torch.where(is_odd, self._rate_min, rate).mul_(weight)
        step = rate * difference
        mean.add_(step)
        variance.addcmul_(step, difference)
        variance.addcmul_(variance, rate, value=-1)
