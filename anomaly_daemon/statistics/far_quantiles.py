"""Far quantiles of what an entity shows, each followed online, from what training showed.

A quantile moves up where it is exceeded and down a little where it is not, so that in the long run it is exceeded as often as it
says whatever the distribution and however it drifts.
Sources: Robbins & Monro 1951, "A Stochastic Approximation Method"; Gibbs & Candès 2021, "Adaptive Conformal Inference Under Distribution Shift".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from anomaly_daemon.domain.columns import Column
from anomaly_daemon.statistics.score_prior import FIRST_MIN, GAP_MAX, GAP_MIN, LEVELS

# The prior of each quantile counts as so many observations and so many exceedances: both measured on public sets and simulations.
_PRIOR_OBSERVATIONS, _PRIOR_EXCEEDANCES = 200.0, 1.75
# Of a gap's growth, what the gaps beyond it grow with: a heavier body bodes a heavier tail, but not surely.
_SHARED = 0.375
_GROWTH_MAX = 1.0
_FIRST_MAX = 1000.0


class FarQuantiles:
    """Quantiles by LEVELS; between two an exponential tail, likewise beyond the last, below the first the normal distribution.

    State: the first quantile and the gaps to each next one, float32 [K].
    """

    def __init__(self, name: str, half_life: float, quantiles: Sequence[float]) -> None:
        """half_life: observations after which what an exceedance taught counts half. quantiles: an entity's first, by LEVELS."""
        self.gaps = Column(f"{name}.gaps", "float32", (len(LEVELS),), np.diff(quantiles, prepend=0.0))
        self._observations_max = half_life / math.log(2)
        self._levels = torch.tensor(LEVELS, dtype=torch.float64)
        self._drops = torch.log(self._levels[:-1] / self._levels[1:])  # [K - 1], of the log probability over each gap

    def log_probability(self, gaps: Tensor, quantiles: Tensor, deviations: Tensor) -> tuple[Tensor, Tensor]:
        """Of a deviation [n] as high, and the log density where it is above the first quantile; gaps, their sums `quantiles`: float64 [n, K]."""
        levels, drops = self._levels.to(gaps.device), self._drops.to(gaps.device)
        passed = (deviations[:, None] > quantiles).sum(1)
        below = (passed - 1).clamp_(0, len(LEVELS) - 2)
        here = below[:, None]
        slope = drops[below] / gaps.gather(1, here + 1)[:, 0]
        tail = levels[below].log_() - (deviations - quantiles.gather(1, here)[:, 0]) * slope
        body = 1 - (1 - LEVELS[0]) * torch.special.ndtr(deviations) / torch.special.ndtr(gaps[:, 0])
        return torch.where(passed == 0, body.log_(), tail), tail + slope.log()

    def learned(self, gaps: Tensor, quantiles: Tensor, deviations: Tensor, weight: Tensor, seen: Tensor) -> Tensor:
        """The gaps after deviations [n] at `weight` [n] in [0, 1]; `seen` [n] float64 says how much was learned before.

        A weight of 0 changes no bit.
        """
        levels, drops = self._levels.to(gaps.device), self._drops.to(gaps.device)
        counted = seen.clamp(max=self._observations_max) + _PRIOR_OBSERVATIONS
        exceeds = (deviations[:, None] > quantiles).to(gaps.dtype)
        # A step of a quantile at level p is its local scale, gap over drop, times this.
        rate = weight[:, None] * (exceeds - levels) / (counted[:, None] * levels + _PRIOR_EXCEEDANCES)
        growth = rate[:, 1:] / drops
        grown = torch.lerp(growth, growth.cumsum(1), _SHARED).clamp_(max=_GROWTH_MAX).exp_()
        first = gaps[:, :1] + gaps[:, 1:2] * rate[:, :1] / drops[0]
        return torch.cat([first.clamp_(FIRST_MIN, _FIRST_MAX), (gaps[:, 1:] * grown).clamp_(GAP_MIN, GAP_MAX)], 1)
