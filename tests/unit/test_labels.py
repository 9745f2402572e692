from __future__ import annotations

import numpy as np
import pytest

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.evaluation.labels import Labels, check_labels, intervals_of_records, listed, merged, spelled_time

TIMES = {"a": np.array([10, 20, 30, 40]), "b": np.array([10, 50])}


def labels(**intervals: list[tuple[int, int]]) -> Labels:
    return Labels({entity: np.array(spans, np.int64).reshape(-1, 2) for entity, spans in intervals.items()}, "labels.csv")


def test_records_at_both_ends_of_an_interval_are_labelled() -> None:
    found = labels(a=[(20, 30), (45, 60)]).of_records("a", np.array([30, 10, 20, 45, 61, 60]))

    assert found.tolist() == [True, False, True, True, False, True]


def test_entity_without_labels_has_no_labelled_record() -> None:
    assert labels().of_records("a", TIMES["a"]).tolist() == [False] * 4


def test_overlapping_and_repeated_intervals_are_joined_and_neighbours_stay_apart() -> None:
    intervals, joined = merged(np.array([[5, 6], [1, 4], [2, 3], [4, 4], [1, 4]]))

    assert intervals.tolist() == [[1, 4], [5, 6]]
    assert joined == 3


def test_time_with_a_labelled_and_an_unlabelled_record_is_labelled_and_told() -> None:
    intervals, mixed = intervals_of_records(np.array([1, 2, 2, 3]), np.array([False, True, False, False]))

    assert (intervals.tolist(), mixed) == ([[2, 2]], 1)


def test_labels_that_meet_the_scores_need_no_note() -> None:
    assert check_labels(labels(a=[(20, 30)], b=[]), TIMES) == []


def test_entity_that_was_not_scored_is_named() -> None:
    assert check_labels(labels(a=[(20, 30)], x=[(20, 30)], y=[]), TIMES) == ["labels.csv: labelled but not scored, left out: x, y"]


def test_interval_outside_the_scored_time_is_named() -> None:
    (note,) = check_labels(labels(a=[(20, 30), (41, 1_000_000)]), TIMES)

    assert note == "labels.csv: outside the scored time of the entity, left out: a 1970-01-01T00:00:00.000041Z to 1970-01-01T00:00:01Z"


def test_interval_without_a_record_is_named() -> None:
    (note,) = check_labels(labels(a=[(20, 30), (32, 38)]), TIMES)

    assert "no record was scored within" in note
    assert "00.000032Z to" in note


def test_labels_of_other_entities_are_refused_with_both_sides_named() -> None:
    with pytest.raises(InputError, match=r"none of the 2 labelled entities was scored: labels for x, y; scores of a, b\."):
        check_labels(labels(x=[(20, 30)], y=[]), TIMES)


def test_labels_of_another_time_are_refused_with_both_times() -> None:
    with pytest.raises(InputError, match=r"none of the 1 labelled intervals .* 1970-01-01T00:00:05Z .* scores from 1970-01-01T00:00:00.000010Z"):
        check_labels(labels(a=[(5_000_000, 6_000_000)]), TIMES)


def test_labels_of_normal_entities_alone_are_no_mistake() -> None:
    assert check_labels(labels(a=[]), TIMES) == []


def test_long_lists_are_cut_and_counted() -> None:
    assert listed(map(str, range(7))) == "0, 1, 2, 3, 4 and 2 more"


def test_times_are_spelled_as_exactly_as_needed() -> None:
    assert (spelled_time(1_000_000), spelled_time(1)) == ("1970-01-01T00:00:01Z", "1970-01-01T00:00:00.000001Z")
