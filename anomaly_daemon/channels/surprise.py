"""Surprise: features that go farther than they usually do, added up over the features and over the recent past.

For entities with little history each and much to be said of a single record: what is rare, for the hour, the place or the
amount, adds up within a session, where a network's mean error over all features dilutes it.
"""

from __future__ import annotations

from anomaly_daemon.channels.base import Evidence, Seen
from anomaly_daemon.domain.columns import Column
from anomaly_daemon.model.scaling import FleetScale
from anomaly_daemon.model.surprise import SurpriseFit, gaps_s
from anomaly_daemon.statistics.ordered import summed
from anomaly_daemon.statistics.recent import RecentSums

SURPRISE = "surprise"


class SurpriseChannel:
    """The recent surprises of every entity, held against what training saw."""

    def __init__(self, fit: SurpriseFit, scale: FleetScale, device: str) -> None:
        self._fit, self._scale = fit.on(device), scale
        self._recent = RecentSums(SURPRISE, fit.half_lives_s)

    @property
    def columns(self) -> tuple[Column, ...]:
        """What it keeps per entity."""
        return self._recent.columns

    def observe(self, seen: Seen) -> dict[str, Evidence]:
        """See Channel."""
        terms = self._fit.terms(seen.scaled)
        sums = self._recent.advance(seen.layout.widths.tolist(), seen.rows, summed(terms), gaps_s(seen.gaps, self._scale))
        is_told = (~seen.values.isnan() & self._fit.is_evidence).any(1)
        error = self._fit.error(sums).where(is_told, float("nan"))
        return {SURPRISE: Evidence(error, is_told, lambda chosen: terms.index_select(0, chosen))}
