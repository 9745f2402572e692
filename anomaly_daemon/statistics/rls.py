"""Recursive least squares as a slab: what usually follows from some inputs, learned from each row after it was foretold, and slowly forgotten.

All outputs share the inputs, so they share the inverse of the inputs' moments too. On the host, with numpy, as novelty is.
Sources: Plackett 1950, "Some Theorems in Least Squares"; Haykin, "Adaptive Filter Theory" (exponential forgetting); Huber 1964 (bounded errors).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_daemon.domain.columns import Column

Floats = NDArray[np.float64]

_PRIOR = 1.0  # the inverse moments start here: a ridge of 1
# Forgetting stops where inputs that hardly move would let the inverse moments grow for ever.
_TRACE_MAX = 1e3
# An error so many deviations off teaches as much as one that lies there.
_GATE = 4.0
_TRUSTED_COUNT = 30
# Rows for each input before errors are told: those of a beginner are many and wild.
_LEAD_IN = 10
_SPREAD_RATE = 1 - 0.5 ** (1 / 1000)
_DEVIATION_MIN = 0.02


class Rls:
    """Weights, float64 [outputs, inputs], inverse moments, [inputs, inputs], variances of the errors, [outputs], and rows learned from."""

    def __init__(self, name: str, inputs: int, outputs: int, half_life: float) -> None:
        """half_life: rows after which one counts half."""
        self._names = tuple(f"{name}.{part}" for part in ("weights", "inverse", "variance", "learned"))
        self._kept = 0.5 ** (1 / half_life)
        self._trace_max = _TRACE_MAX * inputs
        weights, inverse, variance, learned = self._names
        self.columns = (
            Column(weights, "float64", (outputs, inputs)),
            Column(inverse, "float64", (inputs, inputs), _PRIOR * np.eye(inputs)),
            Column(variance, "float64", (outputs,), 1.0),
            Column(learned, "float64"),
        )

    def errors(self, widths: Sequence[int], rows: Mapping[str, Tensor], inputs: Floats, targets: Floats) -> Floats:
        """What the forecast from its inputs missed of each row, [N, outputs]; then it is learned, and the columns are changed in place.

        widths: [T] rows of each step, those of the same entities first. inputs: [N, inputs], finite, of a size of about 1. targets: [N, outputs];
        NaN = missing, no error and nothing learned. NaN too until an entity has been learned from ten times as often as there are inputs.
        """
        columns = [rows[name].cpu().numpy().copy() for name in self._names]
        found = np.full_like(targets, np.nan)
        start = 0
        for width in widths:
            here = slice(start, start + width)
            told = ~np.isnan(targets[here])
            is_told = told.any(1)
            if is_told.all():
                found[here] = self._step([column[:width] for column in columns], inputs[here], targets[here], told)
            elif is_told.any():
                chosen = np.flatnonzero(is_told)
                own = [column[chosen] for column in columns]
                found[start + chosen] = self._step(own, inputs[here][chosen], targets[here][chosen], told[chosen])
                for column, changed in zip(columns, own, strict=True):
                    column[chosen] = changed
            start += width
        for name, column in zip(self._names, columns, strict=True):
            rows[name].copy_(torch.from_numpy(column))
        return found

    def _step(self, kept: Sequence[Floats], x: Floats, y: Floats, told: NDArray[np.bool_]) -> Floats:
        """One row of each of n entities: x [n, inputs], y and told [n, outputs], at least one told. kept: their columns, changed in place."""
        weights, inverse, variance, learned = kept
        error = y - np.add.reduce(weights * x[:, None], axis=2)
        error[~told] = 0.0
        limit = _GATE * np.maximum(np.sqrt(variance), _DEVIATION_MIN)
        bounded = np.clip(error, -limit, limit)
        # A row weighs with the inverse moments as much as with the output that takes it most seriously.
        weight = np.maximum.reduce(limit / np.maximum(limit, np.abs(error)), axis=1)
        spread = np.add.reduce(inverse * x[:, None], axis=2)
        gain = spread / (self._kept + weight * np.add.reduce(spread * x, axis=1))[:, None]
        weights += bounded[:, :, None] * gain[:, None]
        inverse -= (weight[:, None] * gain)[:, :, None] * spread[:, None]
        is_growing = np.trace(inverse, axis1=1, axis2=2) < self._trace_max
        inverse *= np.where(is_growing, 1 / self._kept, 1.0)[:, None, None]
        taught = np.where(learned[:, None] < _TRUSTED_COUNT, error, bounded)
        rate = np.maximum(_SPREAD_RATE, 1 / (learned + 2))[:, None]
        variance += np.where(told, rate * (taught * taught - variance), 0.0)
        is_known = told & (learned >= _LEAD_IN * x.shape[1])[:, None]
        learned += 1
        return np.where(is_known, error, np.nan)
