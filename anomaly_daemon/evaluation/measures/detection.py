"""How well verdicts at the deployed threshold found the labelled events: counts per stream, added up, and the measures of the sum.

One stream at a time, its records in stream order. An event is an unbroken run of labelled records. Flagged records at most ALARM_GAP_ROWS apart
are one alarm, unless the alarms are given. An alarm is true if it holds a labelled record and at least a quarter of its records, from first to
last, lie in an event or within ALARM_GAP_ROWS of one. An event is caught if one of its records is flagged; the delay counts from its first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from anomaly_daemon.domain.times import DAY_US
from anomaly_daemon.evaluation.measures.ranking import Booleans, Floats, Integers, runs

ALARM_GAP_ROWS: Final = 30
TRUE_ALARM_SHARE: Final = 0.25


@dataclass(frozen=True, slots=True)
class Counts:
    """What happened in one stream or in several.

    records judged; positives: labelled ones; flagged; hits: both. delay_rows, delay_s: [caught], of each caught event, in rows and in seconds.
    days: from the earliest to the latest record, added up over the streams.
    """

    records: int
    positives: int
    flagged: int
    hits: int
    events: int
    alarms: int
    true_alarms: int
    days: float
    delay_rows: Integers
    delay_s: Floats

    @property
    def caught(self) -> int:
        """Events of which at least one record was flagged."""
        return len(self.delay_rows)


@dataclass(frozen=True, slots=True)
class Detection:
    """Measures at the deployed threshold; None where the records have nothing to measure them by.

    f1 by record; event_f1 of event_recall and event_precision, the share of alarms that are true; false_alarm_rate and missed_alarm_rate
    by record, 0 to 1 (FAR and MAR of the SKAB benchmark).
    """

    f1: float | None
    event_recall: float | None
    event_precision: float | None
    event_f1: float | None
    false_alarms_per_day: float | None
    delay_rows_median: float | None
    delay_s_median: float | None
    false_alarm_rate: float | None
    missed_alarm_rate: float | None


def count(is_event: Booleans, is_flagged: Booleans, times_us: Integers, alarms: Integers | None = None) -> Counts:
    """One stream; [rows] each, at least one. alarms: [alarms, 2] first and last row, in order and apart; None groups the flagged rows."""
    rows, events = np.flatnonzero(is_flagged), runs(is_event)
    alarms = group_alarms(rows) if alarms is None else alarms
    first = np.searchsorted(rows, events[:, 0])
    raised = np.append(rows, len(is_flagged))[first]
    is_caught = raised <= events[:, 1]
    delay_rows = (raised - events[:, 0])[is_caught]
    return Counts(
        records=len(is_event),
        positives=int(np.count_nonzero(is_event)),
        flagged=len(rows),
        hits=int(np.count_nonzero(is_event & is_flagged)),
        events=len(events),
        alarms=len(alarms),
        true_alarms=int(np.count_nonzero(_is_true(alarms, events))),
        days=float(times_us.max() - times_us.min()) / DAY_US,
        delay_rows=delay_rows,
        delay_s=(times_us[raised[is_caught]] - times_us[events[is_caught, 0]]) / 1e6,
    )


def group_alarms(rows: Integers) -> Integers:
    """[alarms, 2] first and last row of flagged rows, ascending, that are at most ALARM_GAP_ROWS apart."""
    cut = np.flatnonzero(np.diff(rows) > ALARM_GAP_ROWS)
    return np.stack([np.append(rows[:1], rows[cut + 1]), np.append(rows[cut], rows[-1:])], axis=1)


def incident_spans(codes: Integers) -> Integers:
    """[incidents, 2] first and last row of each incident; codes: [rows], negative outside one."""
    edges = np.flatnonzero(np.diff(codes)) + 1
    bounds = np.concatenate(([0], edges, [len(codes)]))
    spans = np.stack([bounds[:-1], bounds[1:] - 1], axis=1)
    return np.asarray(spans[codes[spans[:, 0]] >= 0])


def add(parts: Sequence[Counts]) -> Counts:
    """The counts of several streams together; of none, all zero."""

    def total(name: str) -> int:
        return sum(getattr(part, name) for part in parts)

    return Counts(
        records=total("records"),
        positives=total("positives"),
        flagged=total("flagged"),
        hits=total("hits"),
        events=total("events"),
        alarms=total("alarms"),
        true_alarms=total("true_alarms"),
        days=float(sum(part.days for part in parts)),
        delay_rows=np.concatenate([np.zeros(0, np.int64), *(part.delay_rows for part in parts)]),
        delay_s=np.concatenate([np.zeros(0), *(part.delay_s for part in parts)]),
    )


def detection(counts: Counts) -> Detection:
    """The measures of counts."""
    recall = _ratio(counts.caught, counts.events)
    # No alarm where there are events is a precision of 0, not an unknown one: silence must not look undecided.
    precision = None if recall is None else (_ratio(counts.true_alarms, counts.alarms) or 0.0)
    event_f1 = None if recall is None or precision is None else (_ratio(2 * recall * precision, recall + precision) or 0.0)
    return Detection(
        f1=_ratio(2 * counts.hits, counts.flagged + counts.positives) if counts.positives else None,
        event_recall=recall,
        event_precision=precision,
        event_f1=event_f1,
        false_alarms_per_day=_ratio(counts.alarms - counts.true_alarms, counts.days),
        delay_rows_median=float(np.median(counts.delay_rows)) if counts.caught else None,
        delay_s_median=float(np.median(counts.delay_s)) if counts.caught else None,
        false_alarm_rate=_ratio(counts.flagged - counts.hits, counts.records - counts.positives),
        missed_alarm_rate=_ratio(counts.positives - counts.hits, counts.positives),
    )


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _is_true(alarms: Integers, events: Integers) -> Booleans:
    """[alarms] whether each is true, by the module's rule."""
    if len(alarms) == 0 or len(events) == 0:
        return np.zeros(len(alarms), np.bool_)
    first, after = alarms[:, 0], alarms[:, 1] + 1
    starts, ends = events[:, 0], events[:, 1] + 1
    inside = _rows_before(after, starts, ends) - _rows_before(first, starts, ends)
    near_ends = ends + ALARM_GAP_ROWS
    near_starts = np.maximum(starts - ALARM_GAP_ROWS, np.append(starts[0] - ALARM_GAP_ROWS, near_ends[:-1]))
    near = _rows_before(after, near_starts, near_ends) - _rows_before(first, near_starts, near_ends)
    return np.asarray((inside > 0) & (near >= TRUE_ALARM_SHARE * (after - first)))


def _rows_before(row: Integers, starts: Integers, ends: Integers) -> Integers:
    """[rows] how many rows before each lie in a span; spans in order and apart, from starts on, ends not included."""
    covered = np.append(0, np.cumsum(ends - starts))
    begun = np.searchsorted(starts, row)
    return np.asarray(covered[begun] - np.maximum(np.append(0, ends)[begun] - row, 0))
