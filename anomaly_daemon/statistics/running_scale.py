"""Numbers on the scale that their own series had before them: mean and deviation that forget, on the host as numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_daemon.domain.columns import Column

Floats = NDArray[np.float64]

KEPT = ("count", "mean", "variance", "lowest", "highest")
VALUE_MAX = 1e150
"""The square of anything within is finite."""
_RATE = 1 - 0.5 ** (1 / 1000)
_FLOOR_OF_RANGE = 0.05
_DEVIATION_MIN = 1e-300
_DEVIATIONS_MAX = 50.0  # from the mean; farther out all is the same
# Once so many values are known, one wild value moves the mean by no more than one that lies so many deviations off.
_TRUSTED_COUNT = 30
_LEARNED_DEVIATIONS_MAX = 10.0


def standardised(kept: Floats, value: Floats) -> tuple[Floats, Floats]:
    """The area sine of each value's deviations from its mean, [n], within ±4.7, and the value as far as it counts, [n]; then learn.

    kept: [len(KEPT), n], changed in place. value: [n], finite, within ±VALUE_MAX; a quotient may overflow.
    """
    count, mean, variance, lowest, highest = kept
    is_first = count == 0
    if is_first.any():
        for start in (mean, lowest, highest):
            start[is_first] = value[is_first]
    deviation = np.maximum(np.sqrt(variance), _FLOOR_OF_RANGE * (highest - lowest))
    difference = value - mean
    scaled: Floats = np.arcsinh(np.clip(difference / np.maximum(deviation, _DEVIATION_MIN), -_DEVIATIONS_MAX, _DEVIATIONS_MAX))
    is_trusted = count > _TRUSTED_COUNT
    reach = np.where(is_trusted & (deviation > 0), _DEVIATIONS_MAX * deviation, np.inf)
    counted: Floats = np.clip(value, mean - reach, mean + reach)
    limit = np.where(is_trusted, _LEARNED_DEVIATIONS_MAX * deviation, np.inf)
    difference = np.clip(difference, -limit, limit)
    rate = np.maximum(_RATE, 1 / (count + 2))
    mean += rate * difference
    variance[:] = (1 - rate) * (variance + rate * difference * difference)
    np.minimum(lowest, counted, out=lowest)
    np.maximum(highest, counted, out=highest)
    count += 1
    return scaled, counted


class RunningScale:
    """The scale of every feature of every entity."""

    def __init__(self, name: str, features: int) -> None:
        self._kept = f"{name}.running_scale"
        self.columns = (Column(self._kept, "float64", (len(KEPT), features)),)

    def standardised(self, widths: Sequence[int], rows: Mapping[str, Tensor], values: Floats) -> Floats:
        """Each value on the scale known before it, [N, F], NaN where missing; the column is advanced in place.

        widths: [T] rows of each step, those of the same entities first. values: [N, F]; NaN = missing, teaches nothing.
        """
        features = values.shape[1]
        kept = np.ascontiguousarray(rows[self._kept].cpu().numpy().transpose(1, 0, 2)).reshape(len(KEPT), -1)  # a copy
        flat = np.clip(values, -VALUE_MAX, VALUE_MAX).ravel()
        found = np.full_like(flat, np.nan)
        start = 0
        with np.errstate(over="ignore"):  # farther out than any deviation is as far as fifty
            for width in widths:
                here = slice(start, start + width * features)
                at = np.flatnonzero(~np.isnan(flat[here]))
                own = kept[:, at]
                found[start + at], _ = standardised(own, flat[here][at])
                kept[:, at] = own
                start += width * features
        rows[self._kept].copy_(torch.from_numpy(kept.reshape(len(KEPT), -1, features).transpose(1, 0, 2).copy()))
        return found.reshape(values.shape)
