"""Novelty: values unlike any that the entity showed before; for streams of few features. Needs no training and no network."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from anomaly_daemon.channels.base import Evidence, Seen
from anomaly_daemon.domain.columns import Column
from anomaly_daemon.domain.errors import SettingsError
from anomaly_daemon.settings import Novelty as NoveltySettings
from anomaly_daemon.statistics.novelty import Novelty
from anomaly_daemon.statistics.peaks import Peaks

NOVELTY = "novelty"
FEATURES_MAX = 16


class NoveltyChannel:
    """The memories of the features that are evidence."""

    def __init__(self, features: Sequence[int], settings: NoveltySettings) -> None:
        """features: their places among all; the same for every model, as the columns are. Raises SettingsError where they are too many."""
        if len(features) > FEATURES_MAX:
            raise SettingsError(
                f"evidence.channels: novelty remembers every feature by itself, {FEATURES_MAX} at most, here {len(features)}: leave it out, or mark "
                "features in record.features with `context: true`"
            )
        self._features = list(features)
        self._memories = Novelty(NOVELTY, len(self._features), settings.remembered)
        self._peaks = Peaks(NOVELTY, settings.refractory)

    @property
    def columns(self) -> tuple[Column, ...]:
        """What it keeps per entity."""
        return (*self._memories.columns, *self._peaks.columns)

    def observe(self, seen: Seen) -> dict[str, Evidence]:
        """Evidence of each row's values in their own units: a row is as new as its newest feature; then learn."""
        widths = seen.layout.widths.tolist()
        found = self._memories.scores(widths, seen.rows, seen.values[:, self._features].double()).clamp(min=0.0)
        newest = torch.where(found.isnan().all(1), torch.nan, found.nan_to_num(nan=0.0).amax(1))
        error = self._peaks.passed(widths, seen.rows, newest)
        terms = torch.zeros(seen.values.shape, dtype=torch.float64, device=found.device)
        terms[:, self._features] = found.nan_to_num(nan=0.0)
        return {NOVELTY: Evidence(error, ~error.isnan(), lambda chosen: terms.index_select(0, chosen))}
