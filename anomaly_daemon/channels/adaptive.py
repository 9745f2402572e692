"""Adaptive: values, and errors of a forecast that goes on learning from the entity's own history, unlike any before; needs no training.

A fixed recurrent encoder, shared by all, and a linear readout of each entity, learned online by recursive least squares. What is held against
the entity is the novelty of the readout's errors beside that of the values: a value known of old is news where something else was due.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from anomaly_daemon.channels.base import Evidence, Seen
from anomaly_daemon.domain.columns import Column
from anomaly_daemon.domain.errors import SettingsError
from anomaly_daemon.settings import Adaptive as AdaptiveSettings
from anomaly_daemon.statistics.novelty import Novelty
from anomaly_daemon.statistics.peaks import Peaks
from anomaly_daemon.statistics.reservoir import Reservoir
from anomaly_daemon.statistics.rls import Rls
from anomaly_daemon.statistics.running_scale import RunningScale

ADAPTIVE = "adaptive"
FEATURES_MAX = 8


class AdaptiveChannel:
    """Encoder, readout and memories of the features that are evidence; features that are context speak to the encoder."""

    def __init__(self, watched: Sequence[int], features: int, settings: AdaptiveSettings) -> None:
        """watched: the places of the evidence among all features. Raises SettingsError where they are too many."""
        if len(watched) > FEATURES_MAX:
            raise SettingsError(
                f"evidence.channels: adaptive remembers every feature and its errors, {FEATURES_MAX} at most, here {len(watched)}: leave it out, or "
                "mark features in record.features with `context: true`"
            )
        self._watched, self._share = list(watched), settings.error_share
        self._scale = RunningScale(ADAPTIVE, features)
        self._encoder = Reservoir(ADAPTIVE, features, settings.units)
        self._readout = Rls(ADAPTIVE, settings.units + 1, len(watched), settings.half_life)
        self._memories = Novelty(ADAPTIVE, 2 * len(watched), settings.remembered)
        self._peaks = Peaks(ADAPTIVE, settings.refractory)

    @property
    def columns(self) -> tuple[Column, ...]:
        """See Channel."""
        parts = (self._scale, self._encoder, self._readout, self._memories, self._peaks)
        return tuple(column for part in parts for column in part.columns)

    def observe(self, seen: Seen) -> dict[str, Evidence]:
        """See Channel."""
        widths, watched = seen.layout.widths.tolist(), self._watched
        values = seen.values.cpu().double().numpy()
        scaled = self._scale.standardised(widths, seen.rows, values)
        states = self._encoder.before(widths, seen.rows, scaled)
        inputs = np.concatenate([states, np.ones((len(states), 1))], 1)
        errors = self._readout.errors(widths, seen.rows, inputs, scaled[:, watched])
        both = torch.from_numpy(np.concatenate([values[:, watched], errors], 1))
        found = self._memories.scores(widths, seen.rows, both).clamp_(min=0.0)
        found[:, len(watched) :] *= self._share
        is_silent = found.isnan().all(1)
        found = found.nan_to_num_(nan=0.0).to(seen.values.device)
        error = self._peaks.passed(widths, seen.rows, torch.where(is_silent.to(found.device), torch.nan, found.amax(1)))
        terms = torch.zeros(seen.values.shape, dtype=torch.float64, device=found.device)
        terms[:, watched] = torch.maximum(found[:, : len(watched)], found[:, len(watched) :])
        return {ADAPTIVE: Evidence(error, ~error.isnan(), lambda chosen: terms.index_select(0, chosen))}
