"""The incidents that other settings would have brought: the kept rows of an export, led through the product's own IncidentMachine.

As `pipeline.announce` does, a record is passed over when only the history of verdicts moves with it: it is not anomalous and its stream is not
tracked; here also when it is anomalous, but in no window with enough others to open anything.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from anomaly_daemon.domain.records import Offset, Partition, Transition
from anomaly_daemon.evaluation.scores import NO_TIME
from anomaly_daemon.evaluation.tuning.rows import HISTORY, KeptRows, Sensitivity
from anomaly_daemon.incidents.machine import IncidentMachine, Judged, Turn, aged

if TYPE_CHECKING:
    from anomaly_daemon.pipeline.rules import Rules

FIXED_SENSITIVITY: Final = 0.5  # between the verdicts 0 and 1, where a method's own are kept
_FOLLOWED: Final = 32  # rows of an open incident looked at together


@dataclass(frozen=True, slots=True)
class FoundIncident:
    """One incident under the settings at hand. closed_*: None while it is open at the end. *_row: the record's place among all of its stream."""

    incident_id: str
    stream: int
    first_offset: Offset
    opened_us: int
    opened_row: int
    closing_offset: Offset | None
    closed_us: int | None
    closed_row: int | None


@dataclass(frozen=True, slots=True)
class Ruling:
    """Settings, ready to be held against kept rows. limits: float64 [S], each stream's z or level. profile: int64 [S]."""

    rules: Rules
    profile: NDArray[np.int64]
    limits: NDArray[np.float64]

    @classmethod
    def of(cls, rules: Rules, profile: NDArray[np.int64], sensitivity: Sensitivity) -> Ruling:
        """profile: of each stream under `rules.profiles`."""
        limits = np.full(len(profile), FIXED_SENSITIVITY) if sensitivity == "fixed" else rules.parameters[sensitivity][profile]
        return cls(rules, profile, limits)


def profiles_of(rules: Rules, rows: KeptRows) -> NDArray[np.int64]:
    """[S] which rules each stream lives under."""
    return np.fromiter((rules.profiles.index(entity) for entity in rows.entities), np.int64, len(rows.entities))


def early_rows(rows: KeptRows, until_us: int) -> NDArray[np.bool_]:
    """[n] rows up to the last one before a time, stream by stream: whatever opens before it opens in them."""
    inside = np.flatnonzero(rows.time_us < until_us)
    last = np.full(len(rows.bounds) - 1, -1)
    last[rows.stream[inside]] = inside  # a stream's rows stand in order: its last one wins
    return np.asarray(np.arange(len(rows.stream)) <= last[rows.stream])


def incidents_under(
    rows: KeptRows, ruling: Ruling, detector_id: str, *, within: NDArray[np.bool_] | None = None, opened_max: int | None = None
) -> list[FoundIncident] | None:
    """All incidents, by stream and offset; None as soon as there are more than `opened_max`. within: [n], the only rows looked at."""
    is_hot = rows.value > (ruling.limits[0] if (ruling.limits == ruling.limits[0]).all() else ruling.limits[rows.stream])
    hot = _promising(rows, ruling, np.flatnonzero(is_hot if within is None else is_hot & within))
    machines: dict[Partition, IncidentMachine] = {}
    found: list[FoundIncident] = []
    edges = np.flatnonzero(np.diff(rows.stream[hot], prepend=-1, append=-1))
    for first, last in itertools.pairwise(edges.tolist()):
        stream = int(rows.stream[hot[first]])
        partition = rows.partitions[stream]
        if partition not in machines:
            machines[partition] = IncidentMachine(detector_id, partition, ruling.rules.incidents)
        end = int(rows.bounds[stream + 1])
        if within is not None:
            end = int(rows.bounds[stream]) + int(np.count_nonzero(within[rows.bounds[stream] : end]))
        walk = _Walk(rows, machines[partition], stream, int(ruling.profile[stream]), float(ruling.limits[stream]), end)
        for one in walk.incidents(hot[first:last]):
            found.append(one)
            if opened_max is not None and len(found) > opened_max:
                return None
    return found


def _promising(rows: KeptRows, ruling: Ruling, hot: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of the anomalous rows those that some trigger window may count: it holds enough of them. The others open nothing and leave no trace."""
    windows = [rules.trigger for rules in ruling.rules.incidents]
    profile = ruling.profile[rows.stream[hot]]
    count, of = (np.array([getattr(window, name) for window in windows])[profile] for name in ("count", "of"))
    stream, ordinal, place = rows.stream[hot], rows.ordinal[hot], np.arange(len(hot))
    first = np.maximum(place - (count - 1), 0)
    is_full = (place >= count - 1) & (stream[first] == stream) & (ordinal - ordinal[first] < of)
    after = np.append(np.flatnonzero(is_full), len(hot))
    following = after[np.searchsorted(after, place)]  # the next row at which a window is full
    is_last = following == len(hot)
    following[is_last] = 0
    return np.asarray(hot[~is_last & (stream[following] == stream) & (ordinal[following] - ordinal < of)])


class _Walk:
    """One stream on its way through the machine. end: the row after its last."""

    def __init__(self, rows: KeptRows, machine: IncidentMachine, stream: int, profile: int, limit: float, end: int) -> None:
        self._rows, self._machine, self._stream, self._profile, self._limit, self._end = rows, machine, stream, profile, limit, end
        self._entity = rows.entities[stream]
        self._recent, self._ordinal = 0, -HISTORY

    def incidents(self, hot: NDArray[np.int64]) -> Iterator[FoundIncident]:
        """hot: the stream's anomalous rows."""
        rows = self._rows
        places, ordinals = hot.tolist(), rows.ordinal[hot].tolist()
        offsets, times_us = rows.offset[hot].tolist(), rows.time_us[hot].tolist()
        after = at = 0
        while at < len(places):
            if self._machine.is_tracked(self._entity):
                self._let_cool(after, places[at])
            turn = self._step(ordinals[at], offsets[at], times_us[at], is_anomaly=True)
            after, at = places[at] + 1, at + 1
            if turn is None:
                continue
            place, closing = self._follow(after)
            closed = (None, None, None) if closing is None else (closing.at.offset, closing.at.time_us, int(rows.row[place]))
            opened_row = int(rows.row[after - 1])
            yield FoundIncident(turn.incident_id, self._stream, turn.first_offset, turn.starts_at_us, opened_row, *closed)
            after = place + 1
            at = int(np.searchsorted(hot, after))

    def _follow(self, place: int) -> tuple[int, Turn | None]:
        """Every row from `place` on until the open incident closes: where it does, and the turn."""
        rows = self._rows
        while place < self._end:
            part = slice(place, min(place + _FOLLOWED, self._end))
            is_anomalous = (rows.value[part] > self._limit).tolist()
            columns = (rows.ordinal[part].tolist(), rows.offset[part].tolist(), rows.time_us[part].tolist(), is_anomalous)
            for ordinal, offset, time_us, is_anomaly in zip(*columns, strict=True):
                turn = self._step(ordinal, offset, time_us, is_anomaly=is_anomaly)
                if turn is not None and turn.transition is Transition.CLOSED:
                    return place, turn
                place += 1
        return place, None

    def _let_cool(self, after: int, place: int) -> None:
        """Let the rows passed over end a cooldown: the latest of them decides, whatever the order of times."""
        latest_us = int(self._rows.unseen_us[after : place + 1].max())
        if place > after:
            latest_us = max(latest_us, int(self._rows.time_us[after:place].max()))
        if latest_us != NO_TIME:
            self._machine.advance(self._entity, self._profile, self._recent, [_judged(-1, latest_us, is_anomaly=False)])

    def _step(self, ordinal: int, offset: int, time_us: int, *, is_anomaly: bool) -> Turn | None:
        """Take one row; the history first moves on by what was passed over."""
        recent = aged(self._recent, ordinal - self._ordinal - 1)
        advance = self._machine.advance(self._entity, self._profile, recent, [_judged(offset, time_us, is_anomaly=is_anomaly)])
        self._recent, self._ordinal = advance.recent, ordinal
        return advance.turns[0] if advance.turns else None


def _judged(offset: int, time_us: int, *, is_anomaly: bool) -> Judged:
    """What an incident's opening and closing depend on; its peak and its severity are not asked for."""
    return Judged(offset, time_us, is_anomaly, True, 0.0, 1.0, 0.0, 0.0)
