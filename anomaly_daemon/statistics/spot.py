"""Window-SPOT: the tail of an entity's last scores as a generalised Pareto distribution, refitted as they pass."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from anomaly_daemon.domain.columns import Column
from anomaly_daemon.statistics.window import REFIT_EVERY, SCORE_MAX, TAIL_PROBABILITY_MIN, Window

_PEAK_SHARE = 20  # one score in 20 is a peak: the excess over the .95 quantile
_PEAKS_MIN = 10  # while the window is short, more of it counts as tail, up to a quarter
_SHAPE_MIN, _SHAPE_MAX = 1e-9, 0.5  # from the exponential tail, where expm1 and log1p still tell 1e-9 from 0, to the heaviest
_SCALE_FLOOR_ABSOLUTE, _SCALE_FLOOR_RELATIVE = 1e-6, 1e-3


class Spot:
    """Tail probability of a score and the score at a given tail probability.

    The peaks over u, the .95 quantile of the last `length` scores, are fitted by probability-weighted moments every
    `refit_every` scores; below u the rank in the window counts. Until the first fit nothing is beyond the threshold.
    Sources: Siffer et al. 2017, "Anomaly Detection in Streams with Extreme Value Theory" (SPOT); Hosking & Wallis 1987,
    "Parameter and Quantile Estimation for the Generalized Pareto Distribution".
    """

    def __init__(self, name: str, length: int, tail: float, refit_every: int = REFIT_EVERY) -> None:
        """tail: the probability, at least 1e-4, of a score beyond `quantile`."""
        self.window = Window(name, length, refit_every)
        self.quantile = f"{name}.quantile"
        self._peak, self._scale, self._shape, self._peak_tail = (f"{name}.{part}" for part in ("peak", "scale", "shape", "peak_tail"))
        self._tail = tail
        self._highest_count = min(length, max(length // _PEAK_SHARE, min(_PEAKS_MIN, length // 4), math.ceil(tail * length)) + 2)

    def columns(self) -> tuple[Column, ...]:
        """The window and the fit: u, σ, ξ, the share of scores beyond u, and the threshold."""
        fit = ((self._peak, SCORE_MAX), (self._scale, 1.0), (self._shape, _SHAPE_MIN), (self._peak_tail, 1.0), (self.quantile, SCORE_MAX))
        return (*self.window.columns(), *(Column(name, "float64", fill=fill) for name, fill in fit))

    def tail_probability(self, rows: Mapping[str, Tensor], score: Tensor) -> Tensor:
        """Probability of a score as high, float64 [n] in [1e-4, 1]."""
        peak, shape = rows[self._peak], rows[self._shape]
        excess = ((score - peak) / rows[self._scale]).clamp_(min=0)
        beyond = torch.exp(-torch.log1p(excess * shape) / shape) * rows[self._peak_tail]
        return torch.where(score > peak, beyond, self.window.rank(rows, score)).clamp_(TAIL_PROBABILITY_MIN, 1.0)

    def learn(self, rows: Mapping[str, Tensor], score: Tensor, weight: Tensor) -> None:
        """Take score [n] ≥ 0 in at weight [n] in [0, 1]; see Window for weights below 1."""
        due = self.window.learn(rows, score, weight)
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
        scale = (b0 * (1 - shape)).maximum(peak * _SCALE_FLOOR_RELATIVE + _SCALE_FLOOR_ABSOLUTE)
        peak_tail = peaks.to(torch.float64) / held
        extrapolated = peak + scale * torch.expm1(shape * torch.log(peak_tail / self._tail).clamp_(min=0)) / shape
        within = highest.gather(1, (held.to(torch.float64) * self._tail).long().unsqueeze(1)).squeeze(1)
        quantile = torch.where(peak_tail > self._tail, extrapolated, within)
        fit = ((self._peak, peak), (self._scale, scale), (self._shape, shape), (self._peak_tail, peak_tail), (self.quantile, quantile))
        for name, fitted in fit:
            rows[name][due] = fitted
