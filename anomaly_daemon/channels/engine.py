"""All evidence of one model, a micro-batch at a time: scale, ask every channel, remember.

Observations come laid out time-major. No bit of what comes out depends on where the stream was cut into micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_daemon.channels.adaptive import ADAPTIVE, AdaptiveChannel
from anomaly_daemon.channels.base import Channel, Evidence, Seen
from anomaly_daemon.channels.chart import LEVEL, LINEAR, LevelChannel, LinearChannel
from anomaly_daemon.channels.novelty import NOVELTY, NoveltyChannel
from anomaly_daemon.channels.own_scale import OwnScale
from anomaly_daemon.channels.recurrent import Memory, Recurrent, in_fleet_space
from anomaly_daemon.channels.ring import Index, Ring
from anomaly_daemon.channels.surprise import SURPRISE, SurpriseChannel
from anomaly_daemon.domain.columns import OBSERVATIONS, Column
from anomaly_daemon.domain.errors import ArtifactError
from anomaly_daemon.model.artifact import Artifact
from anomaly_daemon.model.scaling import scale_with, unscaled
from anomaly_daemon.settings import Settings
from anomaly_daemon.state.segments import Layout
from anomaly_daemon.state.table import Rows, Table
from anomaly_daemon.statistics.ordered import summed

_BAND_LEVELS = 3.0


@dataclass(frozen=True, slots=True)
class Window:
    """The entity's observations up to and at a record, oldest first; W points, F features, in the features' own units.

    actual, rebuilt: [W, F] float64, NaN = missing or not rebuilt. steps_back: [W], 0 = the record itself.
    expected, lower, upper: [F], of the record itself. contribution: [F] float64, sums to 1.
    """

    actual: NDArray[np.float64]
    rebuilt: NDArray[np.float64]
    expected: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    contribution: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Work:
    """What one micro-batch brought to light, in layout order; kept until its alerts are written."""

    seen: Seen
    evidence: Mapping[str, Evidence]
    memory: Memory | None


def _others(artifact: Artifact, settings: Settings, device: str) -> dict[str, Callable[[], Channel]]:
    """How the channels that need no network are made."""
    evidence = settings.evidence
    columns = [feature.is_context for feature in settings.record.features for _ in feature.columns]
    watched = [place for place, is_context in enumerate(columns) if not is_context]
    return {
        LEVEL: lambda: LevelChannel(artifact.level, evidence.level, device),
        LINEAR: lambda: LinearChannel(artifact.linear, artifact.linear_chart, evidence.linear, device),
        SURPRISE: lambda: SurpriseChannel(artifact.surprise, artifact.scale, device),
        NOVELTY: lambda: NoveltyChannel(watched, evidence.novelty),
        ADAPTIVE: lambda: AdaptiveChannel(watched, len(columns), evidence.adaptive),
    }


class Engine:
    """The channels of one model in a row. Reads and writes the rows it is handed and, of the table, only its ring."""

    def __init__(self, artifact: Artifact, settings: Settings, device: str) -> None:
        engine, model, wanted = settings.engine, settings.model, settings.evidence.channels
        if engine.decode_steps > artifact.decode_steps:
            raise ArtifactError(
                f"the artifact rebuilds {artifact.decode_steps} steps, engine.decode_steps asks for {engine.decode_steps}; train again"
            )
        for key, asked, trained in (("scale", model.scale, artifact.scale_kind), ("tails", model.tails, artifact.tails)):
            if asked != trained:
                raise ArtifactError(f"model.{key}: {asked}: the artifact was trained with {trained}; train again or set it back")
        unknown = [name for name in wanted if name not in artifact.calibration]
        if unknown:
            raise ArtifactError(
                f"evidence.channels: {', '.join(unknown)}: the artifact was trained without; train again with these settings, or leave them out"
            )
        self._scale, self._settings, self._device, self._wanted, self._tails = artifact.scale, engine, device, wanted, model.tails
        self._own_scale = OwnScale(artifact.shape.features, model.scale_observations) if model.scale == "entity" else None
        self._ring = Ring(engine.ring, artifact.shape.features)
        self._recurrent = Recurrent(artifact, settings, self._ring, device) if settings.evidence.is_network_asked else None
        self._others = [make() for name, make in _others(artifact, settings, device).items() if name in wanted]
        parts = (self._recurrent, self._own_scale, *self._others)
        self._gathered: tuple[Column, ...] = tuple(column for part in parts if part is not None for column in part.columns)

    @property
    def columns(self) -> tuple[Column, ...]:
        """All that is kept per entity."""
        return (*self._gathered, self._ring.column)

    @property
    def gathered(self) -> tuple[str, ...]:
        """The columns handed in as rows; the ring is read and written in place."""
        return tuple(column.name for column in self._gathered)

    @torch.inference_mode()
    def observe(self, layout: Layout, rows: Rows, table: Table, values: NDArray[np.float32], gaps_s: NDArray[np.float64]) -> Work:
        """Advance every entity over its observations.

        values: float32 [N, F] in layout order, NaN = missing. gaps_s: float64 [N] seconds since the entity's previous record.
        rows: this engine's columns and `observations` of the layout's entities; the former are written in place.
        """
        observed = torch.from_numpy(values).to(self._device)
        fleet = in_fleet_space(self._scale, observed)
        center, spread = self._own_scale.before(layout, rows, fleet) if self._own_scale else (torch.zeros_like(fleet), torch.ones_like(fleet))
        seen = Seen(
            layout=layout,
            index=Index(layout, rows[OBSERVATIONS.name].long(), self._device),
            rows=rows,
            table=table,
            values=observed,
            scaled=scale_with(fleet, center, spread, self._tails),
            center=center,
            spread=spread,
            gaps=torch.from_numpy(np.ascontiguousarray(self._scale.gap(gaps_s))).to(self._device),
        )
        evidence, memory = self._recurrent.observe(seen) if self._recurrent is not None else ({}, None)
        for channel in self._others:
            evidence |= channel.observe(seen)
        return Work(seen, {name: evidence[name] for name in self._wanted}, memory)

    @torch.inference_mode()
    def remember(self, work: Work) -> None:
        """Write the observations into the ring; after this the work's windows can no longer be told."""
        self._ring.remember(work.seen.layout, work.seen.index, work.seen.table, work.seen.values)

    @torch.inference_mode()
    def explain(self, work: Work, rows: NDArray[np.int64], points: int, weights: Mapping[str, NDArray[np.float64]]) -> list[Window]:
        """What the channels make of each of n rows, equal whatever the batch and the rows.

        weights: [n] of each channel, how much it had to say there, at least 0.
        """
        seen, steps = work.seen, self._settings.decode_steps
        length = max(1, min(points, self._settings.ring))
        chosen = torch.from_numpy(rows).to(self._device)
        recent = self._ring.history(seen.index, seen.table, seen.values, chosen, length).double().cpu().numpy()
        center, spread = (scale.index_select(0, chosen)[:, None] for scale in (seen.center, seen.spread))

        def told(scaled: Tensor) -> NDArray[np.float64]:
            return np.asarray(self._scale.inverse(unscaled(scaled, center, spread, self._tails).cpu().numpy()), np.float64)

        expected, band = torch.zeros_like(center), torch.full_like(center, _BAND_LEVELS)
        rebuilt = np.full(recent.shape, np.nan)
        if self._recurrent is not None and work.memory is not None:
            expected, band = work.memory.expected.index_select(0, chosen)[:, None], _BAND_LEVELS * self._recurrent.prediction_level
            rebuilt[:, :steps] = told(self._recurrent.rebuilt(work.memory, chosen))[:, :length]
        bands = (told(band_edge)[:, 0] for band_edge in (expected, expected - band, expected + band))
        shares = _shares_of(work.evidence, weights, chosen).numpy()
        return list(map(Window, recent[:, ::-1], rebuilt[:, ::-1], *bands, shares))


def _shares_of(evidence: Mapping[str, Evidence], weights: Mapping[str, NDArray[np.float64]], chosen: Tensor) -> Tensor:
    """Each feature's share of what all channels say of a row, float64 [n, F], summing to 1: in a channel by its terms, over channels by weight."""
    parts = [_shared(evidence[name].terms(chosen).cpu().double()) * torch.from_numpy(weight)[:, None] for name, weight in weights.items()]
    total = summed(torch.stack(parts, 1))
    return torch.where((total > 0).any(1, keepdim=True), _shared(total), 1 / total.shape[1])


def _shared(terms: Tensor) -> Tensor:
    """[n, F] by the sum of each row; 0 where that is 0."""
    amount = summed(terms)[:, None]
    return torch.where(amount > 0, terms / amount, 0.0)
