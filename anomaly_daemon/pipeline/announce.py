"""From verdicts to alerts: advance the incidents of those entities that have anything to do with one, and word each turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from anomaly_daemon.channels.engine import Window
from anomaly_daemon.channels.models import Models, Observed
from anomaly_daemon.domain.records import Alert, ChannelShare, FeatureReading, Observations, Offset, Partition, Phase, Record, Transition, WindowPoint
from anomaly_daemon.incidents.alerts import AlertContext, Explanation, build_alert
from anomaly_daemon.incidents.incident import OF_READINGS, Turn
from anomaly_daemon.incidents.machine import Advance, IncidentMachine, Judged, aged
from anomaly_daemon.incidents.regime import Effect
from anomaly_daemon.incidents.wording import CHARTS
from anomaly_daemon.state.segments import Layout
from anomaly_daemon.thresholds.judge import Verdicts

_EXPLAINED_ROWS = 256  # at once, for what is known of a row is wide


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Observations that were judged together. B entities, longest run first; the layout's rows are N.

    owners: [B], the partition of each. profile: int64 [B], the rules each entity lives under.
    recent: int64 [B], its history of verdicts, advanced in place.
    """

    observations: Observations
    layout: Layout
    entities: Sequence[str]
    owners: Sequence[Partition]
    profile: NDArray[np.int64]
    recent: NDArray[np.int64]
    observed: Observed
    verdicts: Verdicts


@dataclass(frozen=True, slots=True)
class Announced:
    """What a micro-batch led to. incident_ids: in log order. restarted: ranks of entities that start anew after it.

    opened: the partition of each incident of readings that opened, said or not. alerts: of records from `emit_from` on.

    waiting: places in the log order of rows that must be judged after what a lasting change does to their entity. Where there are any, nothing is
    announced and the incidents stand as before: the micro-batch is to be judged again without those rows.
    """

    alerts: list[Alert]
    opened: list[Partition]
    incident_ids: list[str | None]
    restarted: list[int]
    waiting: list[int]


@dataclass(frozen=True, slots=True)
class Announcer:
    """Turns incidents and explains them; the models look again at each record that an alert is about. told: see FeatureTransforms."""

    models: Models
    told: Mapping[str, Sequence[int]]
    channels: tuple[str, ...]
    context: AlertContext
    window_points: int
    judges_in_warmup: bool

    def announce(self, micro: MicroBatch, machines: Mapping[Partition, IncidentMachine], emit_from: Mapping[Partition, Offset]) -> Announced:
        """The alerts, by partition and offset, and the incident each observation belongs to. emit_from: see Processor.process."""
        layout = micro.layout
        incident_ids: list[str | None] = [None] * len(layout.order)
        alerts: list[Alert] = []
        opened: list[Partition] = []
        restarted: list[int] = []
        turns: list[tuple[Turn, int, Partition]] = []
        concerned = _concerned(micro, machines)
        _age(micro, concerned, self.judges_in_warmup)
        if not concerned.any():
            return Announced(alerts, opened, incident_ids, restarted, [])
        judged = _Judgements(micro, self.channels)
        advances, waiting = _advanced(micro, machines, judged, np.flatnonzero(concerned).tolist(), self.judges_in_warmup)
        if waiting:
            return Announced([], [], incident_ids, [], waiting)
        for rank, (places, advance) in advances.items():
            micro.recent[rank] = advance.recent
            if advance.effect is Effect.RESTARTS:
                restarted.append(rank)
            for row, incident_id in zip(places, advance.incident_ids, strict=True):
                incident_ids[layout.order[row]] = incident_id
            row_of = {judged.offset(row): row for row in places} if advance.turns else {}
            owner = micro.owners[rank]
            opened += [owner for turn in advance.turns if turn.transition is Transition.OPENED and turn.kind in OF_READINGS]
            # What was said before is not worded again: an explanation costs as much as some dozen records.
            turns += [(turn, row_of[turn.at.offset], owner) for turn in advance.turns if turn.at.offset >= emit_from.get(owner, 0)]
        for first in range(0, len(turns), _EXPLAINED_ROWS):
            told = turns[first : first + _EXPLAINED_ROWS]
            explanations = self._explain(micro, np.array([row for _, row, _ in told]))
            for (turn, row, owner), explanation in zip(told, explanations, strict=True):
                alerts.append(build_alert(turn, explanation, self.context, owner, judged.phase(row)))
        alerts.sort(key=lambda alert: (alert.partition, alert.offset))
        return Announced(alerts, opened, incident_ids, restarted, [])

    def _explain(self, micro: MicroBatch, rows: NDArray[np.int64]) -> Iterator[Explanation]:
        """What an alert says of each of some rows: readings per feature, and the window before it."""
        weights = micro.verdicts.parts[torch.from_numpy(rows)].cpu().numpy()
        windows = self.models.explain(micro.observed, rows, max(self.window_points, 1), dict(zip(self.channels, weights.T, strict=True)))
        for window, weight in zip(windows, weights.tolist(), strict=True):
            total = sum(weight)
            shares = [ChannelShare(name, one / total if total > 0 else 1 / len(weight)) for name, one in zip(self.channels, weight, strict=True)]
            readings = tuple(_reading(name, window, columns) for name, columns in self.told.items())
            channels = tuple(sorted(shares, key=lambda one: -one.contribution))
            yield Explanation(readings, self._points(window) if self.window_points else (), channels)

    def _points(self, window: Window) -> tuple[WindowPoint, ...]:
        """Those at which there was a value, the newest last."""
        there = np.flatnonzero(~np.isnan(window.actual).all(1))[-self.window_points :]
        back = len(window.actual) - 1 - there
        return tuple(map(WindowPoint, back.tolist(), self._numbers(window.actual[there]), self._numbers(window.rebuilt[there])))

    def _numbers(self, values: NDArray[np.float64]) -> list[tuple[float | None, ...]]:
        """Of each point's values, [W, F], one a name; several together are no number."""
        first = values[:, [columns[0] for columns in self.told.values()]]
        is_number = np.isfinite(first) & [len(columns) == 1 for columns in self.told.values()]
        numbers = first.astype(object)
        numbers[~is_number] = None
        return [tuple(row) for row in numbers.tolist()]


class _Judgements:
    """Verdicts on the host, for the few rows that an incident looks at."""

    def __init__(self, micro: MicroBatch, channels: Sequence[str]) -> None:
        verdicts = micro.verdicts
        self._parts, self._charts = verdicts.parts.cpu().numpy(), [place for place, name in enumerate(channels) if name in CHARTS]
        self._order, self._observations = micro.layout.order, micro.observations
        self._score, self._tail = verdicts.anomaly_score.cpu().numpy(), verdicts.tail_probability.cpu().numpy()
        self._threshold, self._grade = verdicts.threshold.cpu().numpy(), verdicts.grade.cpu().numpy()
        self._phase, self._is_anomaly = verdicts.phase.cpu().numpy(), verdicts.is_anomaly.cpu().numpy()
        self._is_judged = {in_warmup: _is_judged(verdicts, in_warmup=in_warmup) for in_warmup in (False, True)}

    def at(self, row: int, *, in_warmup: bool) -> Judged:
        """The verdict of a layout row, in Python's own numbers."""
        position = self._order[row]
        record: Record = self._observations.records[position]
        score = float(self._score[row])
        parts = self._parts[row].tolist()
        return Judged(
            offset=record.offset,
            time_us=int(self._observations.times_us[position]),
            is_anomaly=bool(self._is_anomaly[row]),
            is_judged=bool(self._is_judged[in_warmup][row]),
            anomaly_score=score,
            tail_probability=float(self._tail[row]),
            threshold=float(self._threshold[row]),
            grade=float(self._grade[row]),
            evidence=sum(parts, 0.0),
            chart_evidence=sum((parts[place] for place in self._charts), 0.0),
        )

    def offset(self, row: int) -> Offset:
        record: Record = self._observations.records[self._order[row]]
        return record.offset

    def phase(self, row: int) -> Phase:
        return Phase(int(self._phase[row]))


def _advanced(
    micro: MicroBatch, machines: Mapping[Partition, IncidentMachine], judged: _Judgements, ranks: Sequence[int], judges_in_warmup: bool
) -> tuple[dict[int, tuple[list[int], Advance]], list[int]]:
    """By rank the rows of an entity and what they led to; and the places in the log order of rows that must wait, where nothing was led anywhere."""
    layout = micro.layout
    advances: dict[int, tuple[list[int], Advance]] = {}
    before = []
    waiting: list[int] = []
    for rank in ranks:
        machine, entity = machines[micro.owners[rank]], micro.entities[rank]
        places = (layout.starts[: np.count_nonzero(layout.widths > rank)] + rank).tolist()
        before.append((machine, entity, machine.kept(entity)))
        is_heard = judges_in_warmup and not machine.regimes.is_restarted(entity)
        seen = [judged.at(row, in_warmup=is_heard) for row in places]
        advance = machine.advance(entity, int(micro.profile[rank]), int(micro.recent[rank]), seen)
        advances[rank] = places, advance
        waiting += [int(layout.order[row]) for row in places[len(advance.incident_ids) :]]
    if waiting:
        for machine, entity, kept in reversed(before):
            machine.put_back(entity, kept)
    return advances, waiting


def _is_judged(verdicts: Verdicts, *, in_warmup: bool) -> NDArray[np.bool_]:
    """[N], the rows that count for an incident: they have a score, and their entity is known well enough, or its warm-up is judged too."""
    has_score: NDArray[np.bool_] = ~np.isnan(verdicts.anomaly_score.cpu().numpy())
    return has_score if in_warmup else has_score & (verdicts.phase.cpu().numpy() == Phase.LIVE.value)


def _concerned(micro: MicroBatch, machines: Mapping[Partition, IncidentMachine]) -> NDArray[np.bool_]:
    """[B], the entities that an incident may concern: anomalous now, or tracked by their machine."""
    tracked = (machines[owner].is_tracked(entity) for owner, entity in zip(micro.owners, micro.entities, strict=True))
    concerned = np.fromiter(tracked, np.bool_, len(micro.entities))
    concerned[micro.layout.rank[micro.verdicts.is_anomaly.cpu().numpy()]] = True
    return concerned


def _age(micro: MicroBatch, concerned: NDArray[np.bool_], judges_in_warmup: bool) -> None:
    """What was anomalous of late lies farther back for each normal observation of the entities that no incident concerns."""
    aging = np.flatnonzero(~concerned & (micro.recent != 0)).tolist()
    if not aging:
        return
    judged = np.bincount(micro.layout.rank[_is_judged(micro.verdicts, in_warmup=judges_in_warmup)], minlength=len(concerned))
    for rank in aging:
        micro.recent[rank] = aged(int(micro.recent[rank]), int(judged[rank]))


def _reading(name: str, window: Window, columns: Sequence[int]) -> FeatureReading:
    """What is told under one name: of several columns only their share of the evidence, for together they are no number."""
    column = columns[0]
    actual = _number(window.actual[-1, column])
    if len(columns) > 1:
        return FeatureReading(name, None, None, None, None, contribution=float(window.contribution[columns].sum()), imputed=actual is None)
    return FeatureReading(
        feature=name,
        actual=actual,
        expected=_number(window.expected[column]),
        lower=_number(window.lower[column]),
        upper=_number(window.upper[column]),
        contribution=float(window.contribution[column]),
        imputed=actual is None,
    )


def _number(value: float) -> float | None:
    """None, never NaN."""
    return float(value) if np.isfinite(value) else None
