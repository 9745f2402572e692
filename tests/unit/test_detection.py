from __future__ import annotations

import numpy as np
import pytest

from anomaly_daemon.evaluation.measures.detection import Counts, add, count, detection, group_alarms, incident_spans

ROWS = 400
MINUTES_US = np.arange(ROWS) * 60_000_000


def rows(*places: int) -> np.ndarray:
    return np.isin(np.arange(ROWS), places)


def counted(events: np.ndarray, flags: np.ndarray, alarms: np.ndarray | None = None) -> Counts:
    return count(events, flags, MINUTES_US, alarms)


def test_flags_thirty_rows_apart_are_one_alarm_and_thirty_one_are_two() -> None:
    assert group_alarms(np.array([10, 40, 71])).tolist() == [[10, 40], [71, 71]]
    assert group_alarms(np.zeros(0, np.int64)).tolist() == []


def test_one_event_caught_and_one_missed_by_hand() -> None:
    events = rows(*range(50, 60), *range(200, 205))
    counts = counted(events, rows(53, 54, 300))
    found = detection(counts)

    assert (counts.events, counts.caught, counts.alarms, counts.true_alarms) == (2, 1, 2, 1)
    assert found.f1 == pytest.approx(2 * 2 / (3 + 15))
    assert (found.event_recall, found.event_precision, found.event_f1) == (0.5, 0.5, 0.5)
    assert found.false_alarms_per_day == pytest.approx(1 / ((ROWS - 1) / 1440))
    assert (found.delay_rows_median, found.delay_s_median) == (3, 180)
    assert found.false_alarm_rate == pytest.approx(1 / (ROWS - 15))
    assert found.missed_alarm_rate == pytest.approx(13 / 15)


def test_alarm_that_mostly_lies_far_from_the_event_it_touches_is_false() -> None:
    events = rows(100)
    near_enough, too_long = rows(100, 130, 160, 190, 220), rows(100, 130, 160, 190, 220, 250)

    # Rows 100 … 130 are near: 31 of 121, and 31 of 151.
    assert counted(events, near_enough).true_alarms == 1
    assert counted(events, too_long).true_alarms == 0


def test_row_near_two_events_counts_once() -> None:
    # Rows 75 … 140 are near, most of them to both: 66 of 266.
    assert counted(rows(100, 110), rows(*range(75, 340, 25), 340)).true_alarms == 0
    assert counted(rows(100, 110), rows(*range(75, 330, 25), 338)).true_alarms == 1


def test_alarm_near_an_event_that_touches_none_of_its_records_is_false() -> None:
    assert counted(rows(100), rows(101)).true_alarms == 0


def test_events_at_both_ends_of_the_stream_are_caught() -> None:
    counts = counted(rows(0, ROWS - 1), rows(0, ROWS - 1))

    assert (counts.events, counts.caught, counts.true_alarms) == (2, 2, 2)
    assert counts.delay_rows.tolist() == [0, 0]


def test_incidents_side_by_side_are_two_alarms() -> None:
    codes = np.array([-1, 0, 0, 1, 1, -1, 2])

    assert incident_spans(codes).tolist() == [[1, 2], [3, 4], [6, 6]]
    assert incident_spans(np.full(3, -1)).tolist() == []


def test_silence_where_there_are_events_is_worth_nothing_rather_than_unknown() -> None:
    found = detection(counted(rows(5), rows()))

    assert (found.event_recall, found.event_precision, found.event_f1, found.f1) == (0, 0, 0, 0)
    assert found.delay_rows_median is None


def test_without_an_event_only_false_alarms_are_measured() -> None:
    found = detection(counted(rows(), rows(5)))

    assert (found.f1, found.event_recall, found.event_precision, found.event_f1, found.missed_alarm_rate) == (None,) * 5
    assert found.false_alarms_per_day == pytest.approx(1440 / (ROWS - 1))


def test_one_record_lasts_no_time_so_nothing_is_said_per_day() -> None:
    assert detection(count(np.zeros(1, np.bool_), np.ones(1, np.bool_), np.zeros(1, np.int64))).false_alarms_per_day is None


def test_late_records_do_not_shorten_the_time_that_was_watched() -> None:
    assert count(rows(), rows(), MINUTES_US[::-1]).days == counted(rows(), rows()).days


def test_counts_of_streams_add_up() -> None:
    one, two = counted(rows(3, 4), rows(4)), counted(rows(7), rows(7, 300))
    both = add([one, two])

    assert (both.records, both.positives, both.hits, both.alarms, both.true_alarms) == (2 * ROWS, 3, 2, 3, 2)
    assert both.delay_rows.tolist() == [1, 0]
    assert both.days == one.days + two.days
    assert add([]).records == 0
