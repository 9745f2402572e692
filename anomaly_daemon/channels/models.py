"""Every model of an artifact at work: each entity is served by the one whose pattern it fits first, else by the fleet's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_daemon.channels.engine import Engine, Window, Work
from anomaly_daemon.domain.columns import Column
from anomaly_daemon.domain.entity import EntityMatcher, Profiles
from anomaly_daemon.model.artifact import Artifact
from anomaly_daemon.settings import Settings
from anomaly_daemon.state.segments import Layout, part_of
from anomaly_daemon.state.table import Rows, Table


@dataclass(frozen=True, slots=True)
class Part:
    """What one model made of its entities' rows."""

    engine: Engine
    work: Work


@dataclass(frozen=True, slots=True)
class Observed:
    """What all models made of a micro-batch, N rows in layout order; kept until its alerts are written.

    error, fresh: by channel, see Evidence. part: int64 [N], whose work a row is; row: int64 [N], its place there.
    """

    error: Mapping[str, Tensor]
    fresh: Mapping[str, Tensor]
    parts: Sequence[Part]
    part: NDArray[np.int64]
    row: NDArray[np.int64]


class Models:
    """The engines of the fleet's model and of those that some entities have for themselves. Their columns are the same."""

    def __init__(self, artifact: Artifact, settings: Settings, device: str) -> None:
        self._engines = [Engine(one, settings, device) for one in artifact.all]
        self._choice = Profiles([EntityMatcher(match) for match, _ in artifact.own])
        self.columns: tuple[Column, ...] = self._engines[0].columns
        self.gathered: tuple[str, ...] = self._engines[0].gathered

    def of(self, entities: Sequence[str]) -> NDArray[np.int64]:
        """Which model serves each entity: 0 is the fleet's."""
        if len(self._engines) == 1:
            return np.zeros(len(entities), np.int64)
        return np.array([self._choice.index(entity) for entity in entities], np.int64)

    def observe(
        self, model: NDArray[np.int64], layout: Layout, rows: Rows, table: Table, values: NDArray[np.float32], gaps_s: NDArray[np.float64]
    ) -> Observed:
        """Advance every entity over its observations by its own model; see Engine. model: int64 [B]."""
        if len(self._engines) == 1:
            work = self._engines[0].observe(layout, rows, table, values, gaps_s)
            every = np.arange(len(values))
            error, fresh = {name: one.error for name, one in work.evidence.items()}, {name: one.fresh for name, one in work.evidence.items()}
            return Observed(error, fresh, [Part(self._engines[0], work)], np.zeros_like(every), every)
        parts: list[Part] = []
        places: list[NDArray[np.int64]] = []
        for number in np.unique(model).tolist():
            ranks = np.flatnonzero(model == number)
            own_layout, own_places = part_of(layout, ranks)
            index = torch.from_numpy(ranks).to(next(iter(rows.values())).device)
            own = {name: column.index_select(0, index) for name, column in rows.items()}
            work = self._engines[number].observe(own_layout, own, table, values[own_places], gaps_s[own_places])
            for name in self.gathered:
                rows[name].index_copy_(0, index, own[name])
            parts.append(Part(self._engines[number], work))
            places.append(own_places)
        return _joined(parts, places, len(values))

    def remember(self, observed: Observed) -> None:
        """Write the observations into the ring; after this the windows of what was observed can no longer be told."""
        for part in observed.parts:
            part.engine.remember(part.work)

    def explain(self, observed: Observed, rows: NDArray[np.int64], points: int, weights: Mapping[str, NDArray[np.float64]]) -> list[Window]:
        """What the channels make of each row; see Engine."""
        found: dict[int, Window] = {}
        for number, part in enumerate(observed.parts):
            own = np.flatnonzero(observed.part[rows] == number)
            if len(own):
                weighted = {name: column[own] for name, column in weights.items()}
                windows = part.engine.explain(part.work, observed.row[rows[own]], points, weighted)
                found |= zip(own.tolist(), windows, strict=True)
        return [found[place] for place in range(len(rows))]


def _joined(parts: Sequence[Part], places: Sequence[NDArray[np.int64]], rows: int) -> Observed:
    part, row = np.empty(rows, np.int64), np.empty(rows, np.int64)
    for number, own in enumerate(places):
        part[own], row[own] = number, np.arange(len(own))
    found = [one.work.evidence for one in parts]
    names = tuple(found[0]) if found else ()
    order = torch.from_numpy(np.argsort(np.concatenate(places))) if places else torch.empty(0, dtype=torch.int64)

    def in_order(columns: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(columns)).index_select(0, order.to(columns[0].device))

    error = {name: in_order([evidence[name].error for evidence in found]) for name in names}
    fresh = {name: in_order([evidence[name].fresh for evidence in found]) for name in names}
    return Observed(error, fresh, parts, part, row)
