"""Every model of an artifact at work: each entity is served by the one whose pattern it fits first, else by the fleet's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from anomaly_daemon.channels.base import Evidence
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
class Findings:
    """What all models made of a micro-batch, N rows in layout order; kept until its alerts are written.

    evidence: by channel. part: int64 [N], whose work a row is; row: int64 [N], its place there.
    """

    evidence: Mapping[str, Evidence]
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
    ) -> Findings:
        """Advance every entity over its observations by its own model; see Engine. model: int64 [B]."""
        if len(self._engines) == 1:
            work = self._engines[0].observe(layout, rows, table, values, gaps_s)
            every = np.arange(len(values))
            return Findings(work.evidence, [Part(self._engines[0], work)], np.zeros_like(every), every)
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

    def remember(self, findings: Findings) -> None:
        """Write the observations into the ring; after this the windows of the findings can no longer be told."""
        for part in findings.parts:
            part.engine.remember(part.work)

    def explain(self, findings: Findings, row: int, points: int, weights: Mapping[str, float]) -> Window:
        """What the channels make of one row; see Engine."""
        part = findings.parts[findings.part[row]]
        window: Window = part.engine.explain(part.work, int(findings.row[row]), points, weights)
        return window


def _joined(parts: Sequence[Part], places: Sequence[NDArray[np.int64]], rows: int) -> Findings:
    part, row = np.empty(rows, np.int64), np.empty(rows, np.int64)
    for number, own in enumerate(places):
        part[own], row[own] = number, np.arange(len(own))
    names = parts[0].work.evidence if parts else {}
    order = torch.from_numpy(np.argsort(np.concatenate(places))) if places else torch.empty(0, dtype=torch.int64)

    def joined(name: str) -> Evidence:
        found = [one.work.evidence[name] for one in parts]
        back = order.to(found[0].error.device)
        error, fresh = (torch.cat(columns).index_select(0, back) for columns in ([one.error for one in found], [one.fresh for one in found]))
        return Evidence(error, fresh, lambda at: found[part[at]].terms(int(row[at])))

    return Findings({name: joined(name) for name in names}, parts, part, row)
