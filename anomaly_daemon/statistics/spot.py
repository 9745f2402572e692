"""Window-SPOT: the tail of an entity's last values as a generalised Pareto distribution, refitted as they pass."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from anomaly_daemon.domain.columns import Column
from anomaly_daemon.statistics.window import TAIL_PROBABILITY_MIN, Window, begun

_PEAK_SHARE = 20  # one value in 20 is a peak: the excess over the .95 quantile
_PEAKS_MIN = 10  # of a short window more of it counts as tail, up to a quarter
_SHAPE_MIN, _SHAPE_MAX = -0.2, 0.5
_SHAPE_NONE = 1e-9  # in place of 0, from which expm1 and log1p still tell it
_SCALE_MIN = 0.1  # what never varied exceeds itself by a hundredth of a deviation
_SURE = 1 - 1e-12  # beyond the end of a tail that has one


class Spot:
    """Tail probability of a value and the value at a given tail probability.

    The peaks over u, the .95 quantile of the window, are fitted by probability-weighted moments every `refit_every` values; below u the rank in the
    window counts.
    Sources: Siffer et al. 2017, "Anomaly Detection in Streams with Extreme Value Theory" (SPOT); Hosking & Wallis 1987,
    "Parameter and Quantile Estimation for the Generalized Pareto Distribution".
    """

    def __init__(self, name: str, window: Window, tail: float) -> None:
        """window: of values in some unit, deviations. tail: the probability, at least 1e-4, of a value beyond `quantile`."""
        self.window, self._tail = window, tail
        self.quantile = f"{name}.quantile"
        self._peak, self._scale, self._shape, self._peak_tail = (f"{name}.{part}" for part in ("peak", "scale", "shape", "peak_tail"))
        length = window.length
        self._highest_count = min(length, max(length // _PEAK_SHARE, min(_PEAKS_MIN, length // 4), math.ceil(tail * length)) + 2)

    def columns(self) -> tuple[Column, ...]:
        """The window and the fit: u, σ, ξ, the share of values beyond u, and the value at `tail`."""
        fit = (self._peak, self._scale, self._shape, self._peak_tail, self.quantile)
        return begun([*self.window.columns(), *(Column(name, "float64") for name in fit)], fit, self._refit)

    def tail_probability(self, rows: Mapping[str, Tensor], value: Tensor) -> Tensor:
        """Probability of a value as high, float64 [n] in [1e-4, 1]."""
        peak, shape = rows[self._peak], rows[self._shape]
        excess = ((value - peak) / rows[self._scale]).clamp_(min=0)
        beyond = torch.exp(-torch.log1p((excess * shape).clamp_(min=-_SURE)) / shape) * rows[self._peak_tail]
        return torch.where(value > peak, beyond, self.window.rank(rows, value)).clamp_(TAIL_PROBABILITY_MIN, 1.0)

    def learn(self, rows: Mapping[str, Tensor], value: Tensor, weight: Tensor) -> None:
        """Take value [n] in at weight [n] in [0, 1]; see Window for weights below 1."""
        due = self.window.learn(rows, value, weight)
        if len(due):
            self._refit(rows, due)

    def _refit(self, rows: Mapping[str, Tensor], due: Tensor) -> None:
        highest = self.window.highest(rows, due, self._highest_count)
        held = rows[self.window.learned][due].clamp_(max=self.window.length)
        peaks = (held // _PEAK_SHARE).maximum((held // 4).clamp_(max=_PEAKS_MIN))
        peak = highest.gather(1, peaks.unsqueeze(1)).squeeze(1)
        excess = (highest - peak.unsqueeze(1)).clamp_(min=0)
        # cumsum adds in order along a row: the same bits however many rows there are.
        rank = torch.arange(self._highest_count, dtype=torch.float64, device=highest.device)
        b0 = excess.cumsum(1)[:, -1] / peaks
        b1 = (excess * rank).cumsum(1)[:, -1] / (peaks * (peaks - 1).clamp_(min=1))
        shape = (2 - b0 / (b0 - 2 * b1).clamp_(min=1e-300)).clamp_(_SHAPE_MIN, _SHAPE_MAX)
        shape = torch.where(shape.abs() < _SHAPE_NONE, _SHAPE_NONE, shape)
        scale = (b0 * (1 - shape)).clamp_(min=_SCALE_MIN)
        peak_tail = peaks.to(torch.float64) / held
        extrapolated = peak + scale * torch.expm1(shape * torch.log(peak_tail / self._tail).clamp_(min=0)) / shape
        within = highest.gather(1, (held.to(torch.float64) * self._tail).long().unsqueeze(1)).squeeze(1)
        quantile = torch.where(peak_tail > self._tail, extrapolated, within)
        fit = ((self._peak, peak), (self._scale, scale), (self._shape, shape), (self._peak_tail, peak_tail), (self.quantile, quantile))
        for name, fitted in fit:
            rows[name][due] = fitted
