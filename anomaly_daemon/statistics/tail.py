"""How rare a score is for its entity: the far quantiles of its deviations, each followed online, from what training showed.

A quantile moves up where it is exceeded and down a little where it is not, so that in the long run it is exceeded as often as it
says whatever the scores' distribution and however they drift; a fitted tail promises that only while its family and its past hold.
Sources: Robbins & Monro 1951, "A Stochastic Approximation Method"; Gibbs & Candès 2021, "Adaptive Conformal Inference Under Distribution Shift".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from anomaly_daemon.domain.columns import Column
from anomaly_daemon.statistics.score_prior import FIRST_MIN, GAP_MAX, GAP_MIN, LEVELS
from anomaly_daemon.statistics.window import TAIL_PROBABILITY_MIN

# The prior of each quantile counts as so many observations and so many exceedances: both measured on public sets and simulations.
_PRIOR_OBSERVATIONS, _PRIOR_EXCEEDANCES = 200.0, 1.75
# Of a gap's growth, what the gaps beyond it grow with: a heavier body bodes a heavier tail, but not surely.
_SHARED = 0.5
_GROWTH_MAX = 1.0
_FIRST_MAX = 1000.0
# Suspects teach at full weight while this credit lasts, one each; it comes back over a thousand observations. An ordinary heavy tail never uses
# it up, a long incident does at once.
_CREDIT, _CREDIT_BACK = 20.0, 0.02


class Tail:
    """Tail probability of a deviation: between two quantiles as an exponential tail between them, below the first as the normal distribution.

    State: the first quantile and the gaps to each next one, float32 [K]; the credit of suspects, float32.
    """

    def __init__(self, name: str, half_life: float, quantiles: Sequence[float]) -> None:
        """half_life: observations after which what an exceedance taught counts half. quantiles: an entity's first, by LEVELS."""
        self._gaps, self._credit = f"{name}.gaps", f"{name}.credit"
        self._start = np.diff(quantiles, prepend=0.0)
        self._observations_max = half_life / math.log(2)
        self._levels = torch.tensor(LEVELS, dtype=torch.float64)
        self._drops = torch.log(self._levels[:-1] / self._levels[1:])  # [K − 1], of the log probability over each gap

    def columns(self) -> tuple[Column, ...]:
        """Quantiles and credit, 36 bytes."""
        return (Column(self._gaps, "float32", (len(LEVELS),), self._start), Column(self._credit, "float32", fill=_CREDIT))

    def known(self, rows: Mapping[str, Tensor]) -> Tensor:
        """The quantiles as they stand, a copy, float32 [n, K]."""
        return rows[self._gaps].clone()

    def probability(self, known: Tensor, deviations: Tensor) -> Tensor:
        """Of a deviation [n] as high, float64 [n] in [1e-4, 1], by what was `known` [n, K] before it."""
        gaps = known.double()
        levels, drops = self._levels.to(gaps.device), self._drops.to(gaps.device)
        quantiles = gaps.cumsum(1)
        passed = (deviations[:, None] > quantiles).sum(1)
        below = (passed - 1).clamp_(0, len(LEVELS) - 2)
        here = below[:, None]
        share = ((deviations - quantiles.gather(1, here)[:, 0]) / gaps.gather(1, here + 1)[:, 0]).clamp_(0.0, 1.0)
        tail = levels[below] * torch.exp(-share * drops[below])
        body = 1 - (1 - LEVELS[0]) * torch.special.ndtr(deviations) / torch.special.ndtr(gaps[:, 0])
        found = torch.where(passed == 0, body, tail)
        return torch.where(passed == len(LEVELS), TAIL_PROBABILITY_MIN, found).clamp_(TAIL_PROBABILITY_MIN, 1.0)

    def learn(self, rows: Mapping[str, Tensor], deviations: Tensor, weight: Tensor, seen: Tensor) -> None:
        """Take deviations [n] in at `weight` [n] in [0, 1], below 1 suspect; `seen` [n] float64 says how much was learned before.

        A weight of 0 changes no bit.
        """
        gaps, credit = rows[self._gaps].double(), rows[self._credit]
        levels, drops = self._levels.to(gaps.device), self._drops.to(gaps.device)
        taught = weight
        if bool((weight == 1).all()):
            credit.add_(_CREDIT_BACK).clamp_(max=_CREDIT)
        else:
            is_trusted = (weight > 0) & (weight < 1) & (credit >= 1)
            credit.copy_(torch.where(weight > 0, (credit - is_trusted.to(credit.dtype) + _CREDIT_BACK).clamp_(max=_CREDIT), credit))
            taught = torch.where(is_trusted, 1.0, weight)
        counted = seen.clamp(max=self._observations_max) + _PRIOR_OBSERVATIONS
        exceeds = (deviations[:, None] > gaps.cumsum(1)).to(gaps.dtype)
        # A step of a quantile at level p is its local scale, gap over drop, times this.
        rate = taught[:, None] * (exceeds - levels) / (counted[:, None] * levels + _PRIOR_EXCEEDANCES)
        growth = rate[:, 1:] / drops
        grown = torch.lerp(growth, growth.cumsum(1), _SHARED).clamp_(max=_GROWTH_MAX).exp_()
        first = gaps[:, :1] + gaps[:, 1:2] * rate[:, :1] / drops[0]
        rows[self._gaps].copy_(torch.cat([first.clamp_(FIRST_MIN, _FIRST_MAX), (gaps[:, 1:] * grown).clamp_(GAP_MIN, GAP_MAX)], 1))
