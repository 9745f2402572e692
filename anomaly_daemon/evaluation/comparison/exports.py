"""A side of a comparison from exported scores: its incidents read off the rows, which are streamed with flat memory."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from anomaly_daemon.domain.entity import EntityMatcher, Profiles
from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.domain.records import Partition, Phase, Transition
from anomaly_daemon.evaluation.comparison import INCIDENTS_MAX, ModelName, Side, SideIncident
from anomaly_daemon.evaluation.notes import ExportNotes, notes_of
from anomaly_daemon.evaluation.scores import NO_CODE, NO_TIME, Column, ScoreFile
from anomaly_daemon.incidents.incident import severity_of
from anomaly_daemon.incidents.machine import IncidentMachine, Judged, push
from anomaly_daemon.settings import Incidents, Override

_COLUMNS: Final = ("topic", "partition", "offset", "entity", "timestamp", "phase", "anomaly_score", "is_anomaly", "grade", "incident_id")
_VERDICTS_MAX: Final = 63
_LIVE: Final = Phase.LIVE.name.lower()


class _Recovery(msgspec.Struct, frozen=True):
    recovery: dict[str, Any]


class _RuleSettings(msgspec.Struct, frozen=True):
    """The part of noted settings that says when an incident closes."""

    incidents: _Recovery
    overrides: list[dict[str, Any]]


@dataclass(slots=True)
class _Seen:
    """An incident while its rows come. verdicts: of the newest judged rows, newest in bit 0; `judged` counts all."""

    partition: Partition
    entity: int
    first_offset: int
    starts_at_us: int
    until_offset: int = 0
    ends_at_us: int = NO_TIME
    peak_grade: float = 0.0
    peak_score: float = 0.0
    verdicts: int = 0
    judged: int = 0


def read_export(path: Path) -> Side:
    """The side that an export is. Raises InputError as `ScoreFile` does, and for one of another format or with too many incidents."""
    with ScoreFile(path) as file:
        origin = notes_of(file)
        rows = _Rows(path, file)
        for batch in file.batches(_COLUMNS):
            rows.add(batch)
        model = origin.model
        return Side(
            name=str(path),
            is_export=True,
            detector_ids=_known(origin.detector_id),
            topics=frozenset(partition.topic for partition in rows.ranges),
            models=frozenset({ModelName(model.name, model.version, model.fingerprint)} if model.name else ()),
            settings_hashes=_known(origin.settings_hash),
            settings=origin.settings or None,
            version=origin.version or None,
            ranges=rows.ranges,
            seen_us=rows.seen_us(),
            history=_history(origin),
            incidents=rows.incidents(origin),
            notes=() if origin.settings else (f"{path}: notes neither settings nor model, so changes cannot be explained by them",),
        )


def _known(text: str) -> frozenset[str]:
    return frozenset({text} if text else ())


def _history(notes: ExportNotes) -> dict[str, str]:
    """What the state before the first row was built from, so far as it is noted."""
    history = {} if notes.started_from is None else {"started_from": str(notes.started_from)}
    read = {name: partition.warm_up_from for name, partition in notes.partitions.items()}
    return history | {f"warm-up of {name}": f"from offset {offset}" for name, offset in read.items() if offset is not None}


class _Rows:
    """Folds batches of rows into incidents, ranges and the times at which entities were seen."""

    def __init__(self, path: Path, file: ScoreFile) -> None:
        self._path, self._file = path, file
        self._seen: dict[int, _Seen] = {}
        self._first_us, self._last_us = np.empty(0, np.int64), np.empty(0, np.int64)
        self._latest_incident = np.empty(0, np.int32)
        self.ranges: dict[Partition, range] = {}

    def add(self, batch: Mapping[str, Column]) -> None:
        """Take the next rows of the file."""
        for partition, rows in partitions_of(self._file, batch):
            offsets = batch["offset"][rows]
            known = self.ranges.get(partition, range(int(offsets[0]), 0))
            self.ranges[partition] = range(min(known.start, int(offsets.min())), max(known.stop, int(offsets.max()) + 1))
            inside = rows[batch["incident_id"][rows] != NO_CODE]
            self._add_incidents(partition, {name: batch[name][inside] for name in _COLUMNS})
        self._note_entities(batch["entity"], batch["timestamp"], batch["incident_id"])

    def _add_incidents(self, partition: Partition, rows: Mapping[str, Column]) -> None:
        """Rows of a partition that lie in incidents, in offset order."""
        order = np.argsort(rows["incident_id"], kind="stable")
        codes = rows["incident_id"][order]
        bounds = [*np.flatnonzero(np.diff(codes, prepend=NO_CODE)).tolist(), len(codes)]
        live = self._file.words["phase"].index(_LIVE) if _LIVE in self._file.words["phase"] else NO_CODE
        is_judged = (rows["phase"] == live) & ~np.isnan(rows["anomaly_score"])
        for first, last in itertools.pairwise(bounds):
            own = order[first:last]
            code, opening = int(codes[first]), own[0]
            seen = self._seen.get(code)
            if seen is None:
                seen = self._seen[code] = _Seen(partition, *(int(rows[name][opening]) for name in ("entity", "offset", "timestamp")))
                self._refuse_too_many()
            seen.until_offset = int(rows["offset"][own[-1]])
            judged = own[is_judged[own]]
            seen.judged += len(judged)
            for is_anomaly in rows["is_anomaly"][judged[-_VERDICTS_MAX:]].tolist():
                seen.verdicts = push(seen.verdicts, is_anomaly)
            anomalous = judged[rows["is_anomaly"][judged]]
            if len(anomalous):
                seen.ends_at_us = max(seen.ends_at_us, int(rows["timestamp"][anomalous].max()))
                seen.peak_grade = max(seen.peak_grade, float(rows["grade"][anomalous].max()))
                seen.peak_score = max(seen.peak_score, float(rows["anomaly_score"][anomalous].max()))

    def _refuse_too_many(self) -> None:
        if len(self._seen) > INCIDENTS_MAX:
            raise InputError(f"{self._path}: more than {INCIDENTS_MAX:,} incidents; compare a shorter range, or raise threshold.z")

    def _note_entities(self, entities: Column, times_us: Column, incident_ids: Column) -> None:
        more = len(self._file.words["entity"]) - len(self._first_us)
        if more > 0:
            more += len(self._first_us)  # doubling, so that growth stays linear over the file
            self._first_us = np.append(self._first_us, np.full(more, np.iinfo(np.int64).max))
            self._last_us = np.append(self._last_us, np.full(more, NO_TIME))
            self._latest_incident = np.append(self._latest_incident, np.full(more, NO_CODE, np.int32))
        is_scored = (entities != NO_CODE) & (times_us != NO_TIME)
        scored = entities[is_scored]
        np.minimum.at(self._first_us, scored, times_us[is_scored])
        np.maximum.at(self._last_us, scored, times_us[is_scored])
        self._latest_incident[scored] = incident_ids[is_scored]  # rows of an entity stand in order: its last one wins

    def seen_us(self) -> dict[str, tuple[int, int]]:
        """Per entity the first and last event time."""
        names = self._file.words["entity"]
        return dict(zip(names, zip(self._first_us[: len(names)].tolist(), self._last_us[: len(names)].tolist(), strict=True), strict=True))

    def incidents(self, origin: ExportNotes) -> list[SideIncident]:
        """All of them, finished."""
        ids, names = self._file.words["incident_id"], self._file.words["entity"]
        rules = _Rules.of(origin)
        found = []
        for code, seen in self._seen.items():
            is_partial, is_open = (False, None) if rules is None else rules.standing(ids[code], names[seen.entity], seen)
            if is_open and self._latest_incident[seen.entity] != code:
                is_open = None  # forgotten with its entity, closed under rules that a reload brought, or accepted as its new normal
            severity, number = severity_of(seen.peak_grade)
            found.append(
                SideIncident(
                    incident_id=ids[code],
                    partition=seen.partition,
                    entity=names[seen.entity],
                    first_offset=seen.first_offset,
                    until_offset=seen.until_offset,
                    starts_at_us=seen.starts_at_us,
                    ends_at_us=None if seen.ends_at_us == NO_TIME else seen.ends_at_us,
                    is_open=is_open,
                    is_partial=is_partial,
                    severity=severity,
                    severity_number=number,
                    peak_score=seen.peak_score,
                )
            )
        return found


@dataclass(frozen=True, slots=True)
class _Rules:
    """The incident rules of an export's run; asks the machine itself whether an incident was open at the range's end."""

    detector_id: str
    profiles: Profiles
    rules: Sequence[Incidents]

    @classmethod
    def of(cls, origin: ExportNotes) -> _Rules | None:
        """None where the settings are of a version that spelled the rules otherwise."""
        try:
            noted = msgspec.convert(origin.settings, _RuleSettings)
            base = Incidents.model_validate({"recovery": noted.incidents.recovery, "trigger": {"count": 1, "of": 1}})
            overrides = [Override.model_validate(override) for override in noted.overrides]
            parts = [{name: value for name, value in override.incidents.items() if name == "recovery"} for override in overrides]
            rules = [base, *map(base.overridden, parts)]
        except (msgspec.ValidationError, ValidationError):
            return None
        return cls(origin.detector_id, Profiles([EntityMatcher(override.match) for override in overrides]), rules)

    def standing(self, incident_id: str, entity: str, seen: _Seen) -> tuple[bool, bool | None]:
        """Whether it opened before its first row, and whether it was open after its last; None where earlier rows decide.

        A machine that opens at a single anomaly is given the opening and the newest verdicts, as many as a recovery looks at.
        """
        profile = self.profiles.index(entity)
        machine = IncidentMachine(self.detector_id, seen.partition, self.rules)
        opening = _judged(seen.first_offset, is_anomaly=True)
        is_partial = machine.advance(entity, profile, 0, [opening]).incident_ids != [incident_id]
        if seen.verdicts & 1:
            return is_partial, True
        recovery = self.rules[profile].recovery.of
        rows = min(seen.judged - (not is_partial), recovery)
        verdicts = [_judged(seen.first_offset + 1, is_anomaly=bool(seen.verdicts >> back & 1)) for back in reversed(range(rows))]
        turns = machine.advance(entity, profile, 1, verdicts).turns
        if any(turn.transition is Transition.CLOSED for turn in turns):
            return is_partial, False
        return is_partial, None if is_partial and rows < recovery else True


def _judged(offset: int, *, is_anomaly: bool) -> Judged:
    return Judged(offset, 0, is_anomaly=is_anomaly, is_judged=True, anomaly_score=0.0, tail_probability=1.0, threshold=0.0, grade=0.0)


def partitions_of(file: ScoreFile, batch: Mapping[str, Column]) -> list[tuple[Partition, NDArray[np.int64]]]:
    """The partitions of a batch, each with its rows in file order; the batch must hold columns topic and partition."""
    keys = (batch["topic"].astype(np.int64) << 32) | batch["partition"]
    return [(Partition(file.words["topic"][key >> 32], key & 0xFFFF_FFFF), np.flatnonzero(keys == key)) for key in np.unique(keys).tolist()]
