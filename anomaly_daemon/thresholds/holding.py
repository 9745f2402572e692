"""What holds a score back, however high it is: it hardly lasted, it is no higher than the entity's reference, or it recovers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anomaly_daemon.domain.columns import OBSERVATIONS, Column
from anomaly_daemon.settings import Threshold as ThresholdSettings
from anomaly_daemon.thresholds.base import PREFIX, Rows


class RecentAverage:
    """The log score averaged over about `span` records, the last ones most: 2 / (span + 1) of it is the record at hand."""

    def __init__(self, span: int, lowest: float) -> None:
        self._rate = 2 / (span + 1)
        self._recent = Column(f"{PREFIX}.recent", "float64", fill=lowest)

    def columns(self) -> tuple[Column, ...]:
        """The average after the last record; of a span of 1 nothing need be kept."""
        return () if self._rate == 1 else (self._recent,)

    def after(self, rows: Rows, log_score: Tensor, learned: Tensor) -> Tensor:
        """The average with the record at hand in it, float64 [n]. learned: [n], how much was learned before; the first ones count alike."""
        if self._rate == 1:
            return log_score
        recent = rows[self._recent.name]
        return (log_score - recent).mul_(self._share(learned)).add_(recent)

    def needed(self, rows: Rows, average: Tensor, learned: Tensor) -> Tensor:
        """The log score of the record at hand that brings the average to `average`."""
        if self._rate == 1:
            return average
        recent = rows[self._recent.name]
        return (average - recent).div_(self._share(learned)).add_(recent)

    def learn(self, rows: Rows, average: Tensor, is_judged: Tensor) -> None:
        """Keep what `after` said, where there was a score."""
        if self._rate < 1:
            recent = rows[self._recent.name]
            recent.copy_(torch.where(is_judged, average, recent))

    def _share(self, learned: Tensor) -> Tensor:
        return (learned.double() + 1).reciprocal_().clamp_(min=self._rate)


class Holding:
    """Averaged log scores that must be exceeded beside the threshold's own; see `reference_observations` and `recovery` of the settings.

    The peak is the highest since the score was last usual, and counts half after `half_life` records.
    """

    def __init__(self, settings: ThresholdSettings, lowest: float) -> None:
        """lowest: a log score that none goes below."""
        self._reference_observations = settings.reference_observations
        self._fall = math.log(settings.recovery) if settings.recovery > 0 else None
        self._decay = math.log(2) / settings.half_life
        self._lowest = lowest
        self._floor, self._peak = (Column(f"{PREFIX}.{name}", "float64", fill=lowest) for name in ("floor", "peak"))

    def columns(self) -> tuple[Column, ...]:
        """The highest of the reference and the peak, where they are asked for."""
        return (*([self._floor] if self._reference_observations else []), *([self._peak] if self._fall is not None else []))

    def limit(self, rows: Rows) -> Tensor | None:
        """What an average must exceed, float64 [n]; None where nothing is held back."""
        limit = rows[self._floor.name] if self._reference_observations else None
        if self._fall is None:
            return limit
        fallen = rows[self._peak.name] + self._fall
        return fallen if limit is None else torch.maximum(fallen, limit)

    def learn(self, rows: Rows, average: Tensor, is_usual: Tensor, is_judged: Tensor) -> None:
        """Take the average [n] in where there was a score. is_usual: bool [n], whether it is back at its mean."""
        if self._reference_observations:
            floor = rows[self._floor.name]
            is_reference = is_judged & (rows[OBSERVATIONS.name] < self._reference_observations)
            floor.copy_(torch.where(is_reference, torch.maximum(floor, average), floor))
        if self._fall is not None:
            peak = rows[self._peak.name]
            risen = torch.where(is_usual, self._lowest, torch.maximum(peak - self._decay, average))
            peak.copy_(torch.where(is_judged, risen, peak))
