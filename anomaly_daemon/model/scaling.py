"""Values on the scale the network was trained on: first the fleet's, from the artifact, then the entity's own.

Training and serving share these formulas. The fleet's scale is fitted on the training part of the range only. An
entity's scale lives in fleet space and starts as (0, 1), the fleet's; the entity's own observations outweigh that start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Values = NDArray[np.float64]
Tails = Literal["clip", "asinh"]

# The start of an entity's own scale counts as this many observations.
PRIOR_OBSERVATIONS = 16
# In fleet space. A smaller one lets slow drift in a quiet channel drown everything else (measured: VUS-PR .405 at .01, .543 at .05).
DEVIATION_FLOOR = 0.05
# Deviations beyond which the network sees no difference.
CLIP = 10.0
FLEET_MAX = 1e6
GAP_CLIP = 5.0
# A channel that hardly moves: at least this share of its range, of its level (float32's precision) and this in its own unit.
RANGE_SHARE_MIN = 0.05
LEVEL_SHARE_MIN = 1e-6
DEVIATION_MIN = 1e-6


@dataclass(frozen=True, slots=True)
class FleetScale:
    """Mean and deviation of each feature over every entity, and of the log time gap. float64 [F]."""

    center: Values
    deviation: Values
    gap_mean: float
    gap_deviation: float

    def transform(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """[N, F] in the features' unit → float32 in fleet space, NaN kept, within ±1e6: far beyond any use, within float32."""
        return np.clip((values - self.center) / self.deviation, -FLEET_MAX, FLEET_MAX).astype(np.float32)

    def inverse(self, scaled: NDArray[Any]) -> Values:
        """[N, F] in fleet space → float64 in the features' unit."""
        return np.asarray(scaled * self.deviation + self.center, np.float64)

    def gap(self, seconds: Values) -> NDArray[np.float32]:
        """Seconds since the entity's previous observation, [N], NaN for its first → scaled log within ±5, 0 where unknown."""
        scaled = (np.log1p(np.maximum(seconds, 0.0)) - self.gap_mean) / self.gap_deviation
        return np.nan_to_num(np.clip(scaled, -GAP_CLIP, GAP_CLIP), nan=0.0).astype(np.float32)


def fit_fleet(values: NDArray[Any], gaps_s: Values) -> FleetScale:
    """The scale of all training rows together.

    values: [R, F], NaN = missing; a feature missing throughout gets (0, 1), and one that never varied is taken in its own unit.
    gaps_s: [R], NaN where unknown.
    """
    present = np.isfinite(values)
    count = np.maximum(present.sum(0), 1)
    rows = np.where(present, values, 0.0).astype(np.float64)
    center = rows.sum(0) / count
    spread = np.sqrt(np.where(present, (rows - center) ** 2, 0.0).sum(0) / count)
    extent = np.where(present, rows, -np.inf).max(0, initial=-np.inf) - np.where(present, rows, np.inf).min(0, initial=np.inf)
    floor = np.maximum(np.maximum(RANGE_SHARE_MIN * np.maximum(extent, 0.0), LEVEL_SHARE_MIN * np.abs(center)), DEVIATION_MIN)
    deviation = np.where(extent > 0, np.maximum(spread, floor), 1.0)
    logs = np.log1p(np.maximum(gaps_s[np.isfinite(gaps_s)], 0.0))
    gap_mean, gap_deviation = (float(logs.mean()), float(logs.std())) if len(logs) else (0.0, 1.0)
    return FleetScale(center, deviation, gap_mean, max(gap_deviation, RANGE_SHARE_MIN))


def shrunk_scale(count: Tensor, mean: Tensor, variance: Tensor, prior_observations: float = PRIOR_OBSERVATIONS) -> tuple[Tensor, Tensor]:
    """An entity's (mean, deviation) in fleet space from `count` own values, drawn towards (0, 1). Elementwise, float64.

    m = n·mean / (n + n0), s² = (n·variance + n0) / (n + n0), s ≥ 0.05. With no own values it is (0, 1).
    """
    total = count + prior_observations
    deviation = torch.sqrt((count * variance + prior_observations) / total).clamp(min=DEVIATION_FLOOR)
    return count * mean / total, deviation


def entity_scale(values: Tensor, prior_observations: float = PRIOR_OBSERVATIONS) -> tuple[Tensor, Tensor]:
    """The scale an entity has after `values`, [T, F] in fleet space, NaN = missing: float64 mean and deviation, each [F]."""
    present = ~torch.isnan(values)
    count = present.sum(0).double()
    own = torch.where(present, values.double(), 0.0)
    mean = own.sum(0) / count.clamp(min=1.0)
    variance = torch.where(present, (own - mean) ** 2, 0.0).sum(0) / count.clamp(min=1.0)
    return shrunk_scale(count, mean, variance, prior_observations)


def scale_with(values: Tensor, mean: Tensor | float, deviation: Tensor | float, tails: Tails = "clip") -> Tensor:
    """What the network sees: (x − m) / s, with `asinh` its area sine, within ±10, elementwise, NaN kept; (0, 1) leaves the fleet's scale.

    Returns float32.
    """
    scaled = (values - mean) / deviation
    return (torch.asinh(scaled) if tails == "asinh" else scaled).clamp(-CLIP, CLIP).float()


def unscaled(scaled: Tensor, mean: Tensor, deviation: Tensor, tails: Tails = "clip") -> Tensor:
    """Back into fleet space, as far as the tails allow."""
    return (torch.sinh(scaled) if tails == "asinh" else scaled) * deviation + mean
