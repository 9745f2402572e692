"""Two sides' incidents held against each other: added, gone, moved, re-graded, each with its causes; pure.

`comparison_exports` and `comparison_alerts` read a side, `comparison_causes` says what differs between two; the verb `diff` prints.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.domain.records import Offset, Partition
from anomaly_daemon.incidents.incident import Severity

ChangeKind = Literal["added", "gone", "moved", "re-graded"]
Cause = Literal["settings", "model", "version", "data", "unknown"]
CHANGE_KINDS: Final[tuple[ChangeKind, ...]] = ("added", "gone", "moved", "re-graded")
INCIDENTS_MAX: Final = 1_000_000
# What shapes incidents that no record of an export names: silences, faults of records, lasting changes.
UNEXPORTED: Final = re.compile(
    r"incidents\.silence_after|quality\..*|regime\..*|record\.features(\.\d+\.possible.*)?|overrides(\.\d+\.(match|incidents|regime).*)?"
)
_NAMED_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class SideIncident:
    """An incident as one side tells it, up to the end of its range.

    until_offset:  of the last record known to belong to it. ends_at_us: latest event time of an anomalous record; None where none is known.
    is_open:       at the range's end; None where the side cannot tell.
    peak_score:    None where the incident has no score: a silence, faults of records.
    is_partial:    it opened before the range, of which the side shows the rest only: start, severity and peak are of that rest.
    """

    incident_id: str
    partition: Partition
    entity: str
    first_offset: Offset
    until_offset: Offset
    starts_at_us: int
    ends_at_us: int | None
    is_open: bool | None
    is_partial: bool
    severity: Severity
    severity_number: int
    peak_score: float | None

    @property
    def order(self) -> tuple[int, str, str]:
        """By start, then by what is the same on every log."""
        return (self.starts_at_us, self.entity, self.incident_id)


@dataclass(frozen=True, slots=True, order=True)
class ModelName:
    """Which model; alerts do not tell the fingerprint."""

    name: str
    version: str
    fingerprint: str | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.version}" + ("" if self.fingerprint is None else f" ({self.fingerprint[:12]})")


@dataclass(frozen=True, slots=True)
class Side:
    """What one side is, and its incidents.

    Sets hold what was met, and are empty where the side does not tell. settings: the whole tree, where noted.
    ranges:  per partition the offsets [first, after the last) that the side covers; None where it does not say.
    seen_us: per entity the first and last event time in the range; None likewise.
    history: what the state was built from, by name, such as `started_from`; empty where it is not noted.
    """

    name: str
    is_export: bool
    detector_ids: frozenset[str]
    topics: frozenset[str]
    models: frozenset[ModelName]
    settings_hashes: frozenset[str]
    settings: Mapping[str, Any] | None
    version: str | None
    ranges: Mapping[Partition, range] | None
    seen_us: Mapping[str, tuple[int, int]] | None
    history: Mapping[str, str]
    incidents: Sequence[SideIncident]
    notes: tuple[str, ...] = ()

    def covers(self, incident: SideIncident) -> bool:
        """Whether the whole incident lies in the range; a side that tells none covers everything."""
        if self.ranges is None:
            return True
        offsets = self.ranges.get(incident.partition, range(0))
        return incident.first_offset in offsets and incident.until_offset in offsets


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which the sides differ and that may change incidents.

    before, after: as text; None where a side has it not. partition, offset: of the first record that differs; None for what is no record's.
    """

    cause: Cause
    key: str
    before: str | None
    after: str | None
    partition: Partition | None = None
    offset: Offset | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """An incident that differs; `before` is None where it was added, `after` where it is gone. One that moved may be re-graded too."""

    kind: ChangeKind
    before: SideIncident | None
    after: SideIncident | None
    causes: tuple[Cause, ...] = ()

    @property
    def latest(self) -> SideIncident:
        """As it is after, or was before where it is gone."""
        found = self.after or self.before
        assert found is not None
        return found


@dataclass(frozen=True, slots=True)
class Comparison:
    """The outcome: `changes` by start, `same` incidents without one, `differences` that explain, `notes` for a person.

    untold: settings that differ and shape incidents which the sides do not hold: whether these differ cannot be told.
    """

    before: Side
    after: Side
    changes: tuple[Change, ...]
    same: int
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]
    untold: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[ChangeKind, int]:
        """Changes of each kind."""
        return {kind: sum(change.kind == kind for change in self.changes) for kind in CHANGE_KINDS}


def refuse_incomparable(before: Side, after: Side) -> None:
    """Raises InputError where the sides have no detector, topic or range in common."""
    for what, one, other, remedy in (
        ("detector", before.detector_ids, after.detector_ids, "replay again with --set detector_id=… so that both have the same"),
        ("topic", before.topics, after.topics, "compare two sides that read the same topic"),
    ):
        if one and other and not one & other:
            raise InputError(f"nothing to compare: {before.name} is of {what} {_listed(one)}, {after.name} of {_listed(other)}; {remedy}")
    if before.ranges is not None and after.ranges is not None and not shared_ranges(before, after):
        told = " and ".join(f"{side.name} holds {_listed(_range_texts(side.ranges or {}))}" for side in (before, after))
        raise InputError(f"nothing to compare: the ranges do not overlap: {told}; replay a range that both cover")


def shared_ranges(before: Side, after: Side) -> dict[Partition, range]:
    """Per partition the offsets that both cover; both sides must tell their ranges."""
    shared = {}
    for partition, one in (before.ranges or {}).items():
        other = (after.ranges or {}).get(partition, range(0))
        both = range(max(one.start, other.start), min(one.stop, other.stop))
        if both:
            shared[partition] = both
    return shared


def changes_between(before: Sequence[SideIncident], after: Sequence[SideIncident]) -> tuple[list[Change], int]:
    """The changes by start, without causes, and how many incidents are the same.

    An incident is found again by its id; else by overlap in time with one of the same entity, the earliest of either first.
    """
    by_id = {one.incident_id: one for one in after}
    pairs: list[tuple[SideIncident | None, SideIncident | None]] = []
    left: dict[str, tuple[list[SideIncident], list[SideIncident]]] = {}
    for one in before:
        other = by_id.pop(one.incident_id, None)
        if other is None:
            left.setdefault(one.entity, ([], []))[0].append(one)
        else:
            pairs.append((one, other))
    for one in by_id.values():
        left.setdefault(one.entity, ([], []))[1].append(one)
    for old, new in left.values():
        pairs += _overlapping(sorted(old, key=lambda one: one.order), sorted(new, key=lambda one: one.order))
    kinds = ((_kind_of(one, other), one, other) for one, other in pairs)
    changes = [Change(kind, one, other) for kind, one, other in kinds if kind is not None]
    return sorted(changes, key=lambda change: change.latest.order), len(pairs) - len(changes)


def compare(before: Side, after: Side, changes: Iterable[Change], same: int, differences: Sequence[Difference]) -> Comparison:
    """The comparison, each change with the causes that may have brought it."""
    explained = tuple(Change(one.kind, one.before, one.after, _causes(one, before, after, differences)) for one in changes)
    untold: tuple[str, ...] = ()
    if before.is_export and after.is_export:
        untold = tuple(one.key for one in differences if one.cause == "settings" and UNEXPORTED.fullmatch(one.key))
    notes = [*before.notes, *after.notes]
    if untold:
        notes.append(
            f"{_listed(untold)}: decide on silences, data quality or lasting changes, which an export of scores does not hold: compare what "
            "`replay --alerts FILE` writes, or `live`"
        )
    return Comparison(before, after, explained, same, tuple(differences), tuple(notes), untold)


def _causes(change: Change, before: Side, after: Side, differences: Sequence[Difference]) -> tuple[Cause, ...]:
    """Settings, model and version count for every change, data for those at or after the first record that differs."""
    if change.kind in ("added", "gone"):
        other = before if change.before is None else after
        if other.ranges is not None and change.latest.first_offset not in other.ranges.get(change.latest.partition, range(0)):
            return ("data",)
    found = {one.cause for one in differences if one.cause != "data" or _is_reached(change, one)}
    if any(one is not None and not side.covers(one) for one, side in ((change.before, after), (change.after, before))):
        found.add("data")
    if not found:
        is_known = (before.settings_hashes and after.settings_hashes) or (before.settings is not None and after.settings is not None)
        return ("data",) if is_known and before.models and after.models else ("unknown",)
    order: tuple[Cause, ...] = ("settings", "model", "version", "data", "unknown")
    return tuple(cause for cause in order if cause in found)


def _is_reached(change: Change, difference: Difference) -> bool:
    """Whether the change lies where the data differ: before that record nothing can have changed by it."""
    sides = [one for one in (change.before, change.after) if one is not None]
    first = difference.offset
    return first is not None and any(one.partition == difference.partition and one.until_offset >= first for one in sides)


def _kind_of(before: SideIncident | None, after: SideIncident | None) -> ChangeKind | None:
    """None where nothing differs that both sides know; the same id means the same start."""
    if before is None or after is None:
        return "added" if before is None else "gone"
    if before.incident_id != after.incident_id or _has_other_end(before, after):
        return "moved"
    return "re-graded" if is_regraded(before, after) else None


def is_regraded(before: SideIncident, after: SideIncident) -> bool:
    """Whether the severity differs; of an incident seen in part by one side only it cannot be said."""
    return before.is_partial == after.is_partial and before.severity != after.severity


def _has_other_end(before: SideIncident, after: SideIncident) -> bool:
    """An open incident has no end yet; where a side cannot tell whether it is open, the last anomalous record stands for the end."""
    if before.is_open or after.is_open:
        return {before.is_open, after.is_open} == {True, False}
    return None not in (before.ends_at_us, after.ends_at_us) and before.ends_at_us != after.ends_at_us


def _overlapping(before: Sequence[SideIncident], after: Sequence[SideIncident]) -> list[tuple[SideIncident | None, SideIncident | None]]:
    """One entity's incidents of both sides, by start, as pairs that overlap and as singles."""
    pairs: list[tuple[SideIncident | None, SideIncident | None]] = []
    old, new = 0, 0
    while old < len(before) and new < len(after):
        one, other = before[old], after[new]
        if _is_over(one, other.starts_at_us):
            pairs.append((one, None))
            old += 1
        elif _is_over(other, one.starts_at_us):
            pairs.append((None, other))
            new += 1
        else:
            pairs.append((one, other))
            old, new = old + 1, new + 1
    return [*pairs, *((one, None) for one in before[old:]), *((None, other) for other in after[new:])]


def _is_over(incident: SideIncident, time_us: int) -> bool:
    end_us = incident.starts_at_us if incident.ends_at_us is None else incident.ends_at_us
    return not incident.is_open and end_us < time_us


def _range_texts(ranges: Mapping[Partition, range]) -> list[str]:
    return [f"{partition} offsets {offsets.start} to {offsets.stop - 1}" for partition, offsets in ranges.items()]


def _listed(words: Iterable[str]) -> str:
    every = sorted(words)
    return ", ".join(every[:_NAMED_MAX]) + (f" and {len(every) - _NAMED_MAX} more" if len(every) > _NAMED_MAX else "")
