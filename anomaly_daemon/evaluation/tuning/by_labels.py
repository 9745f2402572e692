"""What incidents under other settings are worth against labels, on a part of the range; measured by `detection` as everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.evaluation.labels import Booleans, Integers, Labels, check_labels, listed
from anomaly_daemon.evaluation.measures.detection import Counts, Detection, add, count, detection
from anomaly_daemon.evaluation.scores import ScoreTable
from anomaly_daemon.evaluation.tuning.incidents import FoundIncident

Part = Literal["earlier", "later", "whole"]
PARTS: tuple[Part, ...] = ("earlier", "later", "whole")
_KNOWN_MAX: Final = 4
_NO_SPANS: Integers = np.zeros((0, 2), np.int64)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """The judged records of an entity in one part: rows first ≤ row < end of all of its rows. silent: its counts without any incident.

    known: the incidents counted last and their counts: from one candidate to the next most entities keep theirs.
    """

    first: int
    end: int
    times_us: Integers
    is_event: Booleans
    silent: Counts
    known: list[tuple[bytes, Counts]] = field(default_factory=list)

    def counts(self, spans: Integers) -> Counts:
        """spans: [incidents, 2] first and last row of each incident, in order and apart; what lies outside the stretch is cut off."""
        inside = spans[(spans[:, 1] >= self.first) & (spans[:, 0] < self.end)]
        if not len(inside):
            return self.silent
        key = inside.tobytes()
        for spans_known, counted in self.known:
            if spans_known == key:
                return counted
        alarms = np.clip(inside, self.first, self.end - 1) - self.first
        edges = np.bincount(alarms[:, 0], minlength=self.end - self.first + 1) - np.bincount(alarms[:, 1] + 1, minlength=self.end - self.first + 1)
        counted = count(self.is_event, np.cumsum(edges)[:-1] > 0, self.times_us, alarms)
        self.known[:] = [(key, counted), *self.known[: _KNOWN_MAX - 1]]
        return counted


@dataclass(frozen=True, slots=True)
class LabelledRange:
    """The labelled entities of an export, cut into parts.

    stretches: part → entity → its records there. notes: sentences for the user, on what the labels leave out.
    """

    stretches: Mapping[Part, Mapping[str, _Stretch]]
    rows: Mapping[str, int]
    notes: tuple[str, ...]

    def measured(self, part: Part, incidents: Sequence[FoundIncident], entities: Sequence[str]) -> tuple[Detection, Counts, dict[str, int]]:
        """Measures and counts of a part, and the false alarms per entity. entities: of each stream."""
        spans: dict[str, list[tuple[int, int]]] = {}
        for one in incidents:
            entity = entities[one.stream]
            last = self.rows.get(entity, 0) - 1 if one.closed_row is None else one.closed_row
            spans.setdefault(entity, []).append((one.opened_row, last))
        found = {
            entity: stretch.counts(np.array(spans[entity], np.int64)) if entity in spans else stretch.silent
            for entity, stretch in self.stretches[part].items()
        }
        counts = add(list(found.values()))
        false = {entity: one.alarms - one.true_alarms for entity, one in found.items() if one.alarms > one.true_alarms}
        return detection(counts), counts, false


def labelled_range(table: ScoreTable, labels: Labels, split_us: int, repeated: Sequence[str]) -> LabelledRange:
    """The records that the labels speak of. table: with column `timestamp`. repeated: entities on several partitions, left out.

    Raises InputError where labels and scores do not meet, and where the earlier part has no labelled or no unlabelled record.
    """
    notes = [*labels.notes, *check_labels(labels, {entity: table.column(entity, "timestamp") for entity in table.places})]
    judged = [entity for entity in table.places if entity in labels.intervals or labels.unnamed == "normal"]
    if repeated:
        notes.append(f"on several partitions, so left out of the measures: {listed(repeated)}")
    stretches: dict[Part, dict[str, _Stretch]] = {part: {} for part in PARTS}
    for entity in judged:
        if entity in repeated:
            continue
        times_us = table.column(entity, "timestamp")
        is_event = labels.of_records(entity, times_us)
        from_us = labels.judged_from.get(entity)
        start = 0 if from_us is None else int(np.argmax(np.append(times_us >= from_us, True)))
        cut = max(start, int(np.searchsorted(np.maximum.accumulate(times_us), split_us)))
        for part, first, end in zip(PARTS, (start, cut, start), (cut, len(times_us), len(times_us)), strict=True):
            if end > first:
                own = is_event[first:end], times_us[first:end]
                silent = count(own[0], np.zeros(end - first, np.bool_), own[1], _NO_SPANS)
                stretches[part][entity] = _Stretch(first, end, own[1], own[0], silent)
    early = add([stretch.silent for stretch in stretches["earlier"].values()])
    if early.positives in (0, early.records):
        share = "no record" if not early.positives else "every record"
        raise InputError(
            f"{labels.origin}: {share} of the earlier part is labelled as anomalous, so no setting can be told from another; "
            "give labels of both kinds there, or move --split"
        )
    return LabelledRange(stretches, {entity: len(table.column(entity, "timestamp")) for entity in table.places}, tuple(notes))
