"""How far beyond a quantile an entity goes when it goes beyond it: a generalized Pareto distribution by its first two moments, online.

Sources: Pickands 1975, "Statistical Inference Using Extreme Order Statistics"; Hosking & Wallis 1987, "Parameter and Quantile Estimation for the
Generalized Pareto Distribution" (the estimator by moments).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from anomaly_daemon.domain.columns import Column
from anomaly_daemon.statistics.score_prior import EXCESS_MIN, SHAPE_MIN

_PRIOR_EXCESSES = 10.0  # what the prior counts as
_SHAPE_MAX = 0.5  # beyond it a second moment does not exist
_SHAPE_ZERO = 1e-3  # nearer to 0 the distribution is as good as this shape's
_EXCESS_MAX = 10.0  # in mean excesses; one beyond it teaches as much as one there, so that a single wild one leaves the moments sound
_LOG_END = math.log(1e-12)  # beyond the end of a bounded tail


class Excesses:
    """State: mean and mean square of the excesses, float32 [2]. An excess counts half after a half-life of observations."""

    def __init__(self, name: str, level: float, half_life: float, excess: float, shape: float) -> None:
        """level: share of observations beyond the quantile. excess, shape: of an entity's first distribution, its mean and ξ below 1/2."""
        square = excess * excess * 2 * (1 - shape) / (1 - 2 * shape)
        self.moments = Column(f"{name}.excesses", "float32", (2,), np.array([excess, square]))
        self._level, self._observations_max = level, half_life / math.log(2)

    def log_probability(self, moments: Tensor, excess: Tensor) -> tuple[Tensor, Tensor]:
        """Of an excess [n] as high once there is one, and the log density; moments: float64 [n, 2]."""
        mean, square = moments.unbind(1)
        shape = (1 - mean * mean / (square - mean * mean).clamp_(min=EXCESS_MIN * EXCESS_MIN)).mul_(0.5).clamp_(SHAPE_MIN, _SHAPE_MAX)
        shape = torch.where(shape.abs() < _SHAPE_ZERO, _SHAPE_ZERO, shape)
        scale = mean * (1 - shape)
        reach = (shape * excess / scale).clamp_(min=math.expm1(_LOG_END)).log1p_()
        return -reach / shape, -(1 + 1 / shape) * reach - scale.log()

    def learned(self, moments: Tensor, excess: Tensor, weight: Tensor, seen: Tensor) -> Tensor:
        """The moments after excesses [n] at `weight` [n] in [0, 1]; `seen` [n] float64: observations learned before, excesses or not."""
        counted = seen.clamp(max=self._observations_max) * self._level + _PRIOR_EXCESSES
        least = torch.minimum(excess, moments[:, 0] * _EXCESS_MAX)
        taken = torch.stack([least, least * least], 1)
        after: Tensor = torch.lerp(moments, taken, (weight / (counted + 1))[:, None])
        return after.clamp_(min=EXCESS_MIN * EXCESS_MIN)
