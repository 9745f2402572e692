"""Values on the scale the network was trained on: first the fleet's, from the artifact, then the entity's own.

Training and serving share these formulas. The fleet's scale is fitted on the training part of the range only. An
entity's scale lives in fleet space and starts as (0, 1), the fleet's; the entity's own observations outweigh that start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Values = NDArray[np.float64]
Tails = Literal["clip", "asinh"]

# The fleet's deviation counts as this many observations in an entity's own.
PRIOR_OBSERVATIONS = 16
# While an entity is young its n-th value takes 3 / (n + 4) of the average, so that the first ones, which may be anything, fade; later it takes
# 3 / (2n - 12), so that each weighs as the root of n.
YOUNG_OBSERVATIONS = 16
# A value farther from the mean than this counts as if it lay there: deviations of the fleet or, where they reach farther, of the entity itself,
# while young and later. So what training saw counts in full, an entity unlike the fleet is learned all the same, and neither one wild value nor
# a fault that is short beside `scale_observations` makes its feature deaf.
_FLEET_REACH, _YOUNG_REACH, _REACH = 4.0, 4.0, 1.75
# In fleet space. A smaller one lets slow drift in a quiet channel drown everything else (measured: VUS-PR .405 at .01, .543 at .05).
DEVIATION_FLOOR = 0.05
# Deviations beyond which the network sees no difference.
CLIP = 10.0
FLEET_MAX = 1e6
GAP_CLIP = 5.0
# Single values far beyond all others, such as 65535 for a sensor that failed, count as if this many times the extent of nearly all lay between.
_NEARLY_ALL, _EXTENTS_MAX, _SAMPLE_MAX = (0.005, 0.995), 5.0, 100_000
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


def fit_fleet(values: NDArray[Any], gaps_s: Values, *, draws_in_wild: bool = False) -> FleetScale:
    """The scale of all training rows together.

    values: [R, F], NaN = missing; a feature missing throughout gets (0, 1), and one that never varied is taken in its own unit.
    gaps_s: [R], NaN where unknown. draws_in_wild: whether single values out of all proportion count little, as where entities have scales of their
    own; where they have none the rare spikes of training are part of the measure.
    """
    present = np.isfinite(values)
    count = np.maximum(present.sum(0), 1)
    rows = np.where(present, values, 0.0).astype(np.float64)
    if draws_in_wild:
        rows = _without_wild(rows, present)
    center = rows.sum(0) / count
    spread = np.sqrt(np.where(present, (rows - center) ** 2, 0.0).sum(0) / count)
    extent = np.where(present, rows, -np.inf).max(0, initial=-np.inf) - np.where(present, rows, np.inf).min(0, initial=np.inf)
    floor = np.maximum(np.maximum(RANGE_SHARE_MIN * np.maximum(extent, 0.0), LEVEL_SHARE_MIN * np.abs(center)), DEVIATION_MIN)
    deviation = np.where(extent > 0, np.maximum(spread, floor), 1.0)
    logs = np.log1p(np.maximum(gaps_s[np.isfinite(gaps_s)], 0.0))
    gap_mean, gap_deviation = (float(logs.mean()), float(logs.std())) if len(logs) else (0.0, 1.0)
    return FleetScale(center, deviation, gap_mean, max(gap_deviation, RANGE_SHARE_MIN))


def _without_wild(rows: Values, present: NDArray[np.bool_]) -> Values:
    """[R, F] with what is out of all proportion drawn near; a feature of which nearly all values are one is left as it is."""
    every = max(1, len(rows) // _SAMPLE_MAX)
    sample = np.where(present[::every], rows[::every], np.nan)
    sample[:, np.isnan(sample).all(0)] = 0.0
    low, high = np.nanquantile(sample, _NEARLY_ALL, axis=0)
    extent = np.where(high > low, _EXTENTS_MAX * (high - low), np.inf)
    return np.clip(rows, low - extent, high + extent)


def learn_scale(count: Tensor, mean: Tensor, variance: Tensor, values: Tensor, learns: Tensor) -> None:
    """Take `values` in where `learns`; `count`, `mean` and `variance` of an entity's own in fleet space, (0, 0, 1) at first, change in place.

    Elementwise; values may be missing where nothing is learned, and there no bit changes.
    Source: Huber 1964, "Robust Estimation of a Location Parameter" (deviations beyond a bound count as the bound), taken one value at a time.
    """
    number = count.float() + 1
    own_reach = torch.where(number <= YOUNG_OBSERVATIONS, _YOUNG_REACH, _REACH) * variance.sqrt()
    reach = own_reach.clamp(min=_FLEET_REACH)
    rate = torch.where(learns, 3 / torch.maximum(number + 4, 2 * number + (4 - YOUNG_OBSERVATIONS)), 0.0)
    deviation = torch.where(learns, values - mean, 0.0).clamp_(-reach, reach)
    step = rate * deviation
    mean.add_(step)
    variance.add_(step * deviation).mul_(1 - rate)
    count.add_(learns)


def own_scale(count: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """An entity's (mean, deviation) in fleet space from `count` own values, the deviation drawn towards 1, the fleet's; elementwise.

    s² = (n·variance + n0) / (n + n0), s ≥ 0.05.
    """
    return mean, torch.sqrt((count * variance + PRIOR_OBSERVATIONS) / (count + PRIOR_OBSERVATIONS)).clamp(min=DEVIATION_FLOOR)


def entity_scales(values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The scales entities have after `values`, [T, F] each in fleet space, NaN = missing: float32 means and deviations, each [entities, F]."""
    steps = pad_sequence(list(values), padding_value=torch.nan)
    count, mean, variance = torch.zeros_like(steps[0]), torch.zeros_like(steps[0]), torch.ones_like(steps[0])
    for step in steps:
        learn_scale(count, mean, variance, step, ~step.isnan())
    return own_scale(count, mean, variance)


def scale_with(values: Tensor, mean: Tensor, deviation: Tensor, tails: Tails = "clip") -> Tensor:
    """What the network sees: (x − m) / s, with `asinh` its area sine, within ±10, elementwise, NaN kept; (0, 1) leaves the fleet's scale.

    Returns float32.
    """
    scaled = (values - mean) / deviation
    return (torch.asinh(scaled) if tails == "asinh" else scaled).clamp(-CLIP, CLIP).float()


def unscaled(scaled: Tensor, mean: Tensor, deviation: Tensor, tails: Tails = "clip") -> Tensor:
    """Back into fleet space, as far as the tails allow."""
    return (torch.sinh(scaled) if tails == "asinh" else scaled) * deviation + mean
