"""How far from the mean a value counts: what lies beyond counts as if it lay there. Needs no torch.

A mean and a deviation that anything can carry off are carried off by what they are to tell: by a score just short of a suspect, by hours of a
machine at rest, whose errors are a hundred times below its usual ones. Errors and scores have long tails to the right and are told by these;
so less is needed of them on the left.
Source: Huber 1964, "Robust Estimation of a Location Parameter".
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

BELOW: Final = 1.36
ABOVE: Final = 2.27
"""Deviations."""

NORMAL: Final = 1.1
"""The deviation of a normal distribution over that of what counts of it: by so much the latter is widened."""

_STEPS = 50


def moments_within(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and widened variance of [n] values, n ≥ 1, of which each counts as far as it is within reach of that mean."""
    mean, deviation = float(values.mean()), NORMAL * float(values.std())
    for _ in range(_STEPS):
        within = np.clip(values, mean - BELOW * deviation, mean + ABOVE * deviation)
        mean, deviation = float(within.mean()), NORMAL * float(within.std())
    return mean, deviation**2
