"""What was truly anomalous, per entity: labels as closed intervals of time, held against the records that were scored.

`label_files` reads them; `measures` uses them. A record is labelled when its event time lies in an interval of its entity.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from anomaly_daemon.domain.errors import InputError

Booleans = NDArray[np.bool_]
Integers = NDArray[np.int64]
Unnamed = Literal["normal", "unknown"]
_NAMED_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of a file or folder.

    intervals:     entity → int64 [intervals, 2], first and last anomalous time in microseconds since 1970 UTC, both included; sorted and apart.
    origin:        where they come from, as messages name it.
    unnamed:       whether an entity that has no entry was normal all the time, or nothing is known of it.
    judged_from:   entity → event time of its first record that is judged, where those before it were for training.
    period_rows:   entity → period of its first channel in records, where the labels come with readings.
    notes:         what was set right while reading, for the user.
    """

    intervals: Mapping[str, Integers]
    origin: str
    unnamed: Unnamed = "normal"
    judged_from: Mapping[str, int] = field(default_factory=dict)
    period_rows: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def of_records(self, entity: str, times_us: Integers) -> Booleans:
        """[rows] whether each record of the entity is labelled; times in any order."""
        intervals = self.intervals.get(entity, _NO_INTERVALS)
        place = np.searchsorted(intervals[:, 0], times_us, side="right")
        ends = np.append(np.iinfo(np.int64).min, intervals[:, 1])
        return np.asarray((place > 0) & (times_us <= ends[place]))


_NO_INTERVALS: Final[Integers] = np.zeros((0, 2), np.int64)


def merged(intervals: Integers) -> tuple[Integers, int]:
    """[intervals, 2] in any order → sorted and apart, and how many were joined to another because they overlap or repeat it."""
    if len(intervals) == 0:
        return _NO_INTERVALS, 0
    intervals = intervals[np.lexsort((intervals[:, 1], intervals[:, 0]))]
    reach = np.maximum.accumulate(intervals[:, 1])
    first = np.flatnonzero(np.append(True, intervals[1:, 0] > reach[:-1]))
    last = np.append(first[1:] - 1, len(intervals) - 1)
    return np.stack([intervals[first, 0], reach[last]], axis=1), len(intervals) - len(first)


def intervals_of_records(times_us: Integers, is_anomalous: Booleans) -> tuple[Integers, int]:
    """Labelled records → intervals that label the same records and no other; times in any order.

    Also how many times bear both a labelled and an unlabelled record: there all are taken as labelled.
    """
    times, place = np.unique(times_us, return_inverse=True)
    labelled = np.bincount(place, weights=is_anomalous, minlength=len(times))
    edges = np.flatnonzero(np.diff(np.concatenate(([0], (labelled > 0).astype(np.int8), [0]))))
    intervals = np.stack([times[edges[::2]], times[edges[1::2] - 1]], axis=1)
    return intervals, int(np.count_nonzero((labelled > 0) & (labelled < np.bincount(place, minlength=len(times)))))


def check_labels(labels: Labels, times_us: Mapping[str, Integers]) -> list[str]:
    """Sentences on labels that cannot count: entities without scores, intervals outside the scored time or without a record.

    times_us: scored entity → event times, [rows] in any order. Raises InputError where no entity, or no interval at all, can count.
    """
    absent = [entity for entity in labels.intervals if entity not in times_us]
    present = [entity for entity in labels.intervals if entity in times_us]
    if labels.intervals and not present:
        raise InputError(
            f"{labels.origin}: none of the {len(absent)} labelled entities was scored: labels for {listed(absent)}; scores of {listed(times_us)}. "
            "Give labels whose entities are named as in the scores"
        )
    outside: list[str] = []
    empty: list[str] = []
    total = 0
    for entity in present:
        intervals, times = labels.intervals[entity], times_us[entity]
        total += len(intervals)
        for start_us, end_us in intervals[~_has_record(intervals, times)].tolist():
            is_outside = end_us < times.min() or start_us > times.max()
            (outside if is_outside else empty).append(f"{entity} {spelled_time(start_us)} to {spelled_time(end_us)}")
    if total and len(outside) + len(empty) == total:
        first_us = min(int(times_us[entity].min()) for entity in present)
        last_us = max(int(times_us[entity].max()) for entity in present)
        raise InputError(
            f"{labels.origin}: none of the {total} labelled intervals of scored entities holds a scored record: labels for "
            f"{listed([*outside, *empty])}; scores from {spelled_time(first_us)} to {spelled_time(last_us)}. "
            "Give the labels of this range, their times in UTC or with an offset"
        )
    notes = []
    if absent:
        notes.append(f"{labels.origin}: labelled but not scored, left out: {listed(absent)}")
    if outside:
        notes.append(f"{labels.origin}: outside the scored time of the entity, left out: {listed(outside)}")
    if empty:
        notes.append(f"{labels.origin}: no record was scored within, and only records are measured, left out: {listed(empty)}")
    return notes


def listed(names: Iterable[str]) -> str:
    """The first few names and how many more there are."""
    shown: Sequence[str] = list(names)
    more = len(shown) - _NAMED_MAX
    return ", ".join(shown[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")


def spelled_time(time_us: int) -> str:
    """RFC 3339 in UTC, to the second where that is exact."""
    unit: Literal["s", "us"] = "us" if time_us % 1_000_000 else "s"
    return f"{np.datetime_as_string(np.datetime64(int(time_us), 'us'), unit=unit)}Z"


def _has_record(intervals: Integers, times_us: Integers) -> Booleans:
    """[intervals] whether some record lies in each."""
    place = np.searchsorted(intervals[:, 0], times_us, side="right") - 1
    is_inside = (place >= 0) & (times_us <= intervals[place, 1]) if len(intervals) else np.zeros(len(times_us), np.bool_)
    return np.bincount(place[is_inside], minlength=len(intervals)) > 0
