from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from anomaly_daemon.evaluation.labels import Labels, intervals_of_records, merged
from anomaly_daemon.evaluation.measures import evaluate
from anomaly_daemon.evaluation.measures.detection import add, count
from anomaly_daemon.evaluation.measures.ranking import rank, runs
from anomaly_daemon.evaluation.scores import read_scores
from tests.score_cases import Stream, columns_of, labels_of, write_scores

Case = tuple[np.ndarray, np.ndarray]


@st.composite
def cases(draw: st.DrawFn, rows_max: int = 60) -> Case:
    """Labels of both classes, and scores on a grid so that ties happen."""
    is_event = draw(st.lists(st.booleans(), min_size=2, max_size=rows_max).filter(lambda flags: 0 < sum(flags) < len(flags)))
    score = draw(st.lists(st.integers(0, 12), min_size=len(is_event), max_size=len(is_event)))
    return np.array(is_event), np.array(score) / 8


def vus_by_definition(is_event: np.ndarray, score: np.ndarray, window: int) -> tuple[float, float]:
    """Area under both curves, averaged over the widths, one threshold and one row at a time; no more than 250 rows."""
    rows, events, areas = len(score), runs(is_event).tolist(), []
    for width in range(window + 1):
        half = width // 2

        def weight(row: int, half: int = half, width: int = width) -> float:
            if is_event[row]:
                return 1.0
            distances = [max(first - row, row - last) for first, last in events]
            return min(1.0, sum(math.sqrt(1 - distance / width) for distance in distances if distance <= half))

        weights = np.array([weight(row) for row in range(rows)])
        grown = [set(range(max(first - half, 0), min(last + half, rows - 1) + 1)) for first, last in events]
        joined: list[set[int]] = []
        for one in grown:
            if joined and joined[-1] & one:
                joined[-1] |= one
            else:
                joined.append(one)
        curve = [(0.0, 0.0, 1.0)]
        for threshold in np.unique(score)[::-1]:
            flagged = score >= threshold
            true, soft = weights[flagged].sum(), weights[flagged & ~is_event].sum()
            found = np.mean([any(flagged[row] for row in event) for event in joined])
            positives = is_event.sum() + soft / 2
            curve.append((min(true / positives, 1) * found, (flagged.sum() - true) / (rows - positives), true / flagged.sum()))
        recall, fall_out, precision = np.array(curve).T
        precise = np.sum(np.diff(recall) * precision[1:])
        areas.append((precise, np.trapezoid([*recall, 1], [*fall_out, 1])))
    precision_area, roc_area = np.mean(areas, axis=0)
    return float(precision_area), float(roc_area)


@given(cases(), st.integers(0, 24))
@settings(deadline=None)
def test_vus_is_what_its_definition_says(case: Case, window: int) -> None:
    found = rank(*case, window)

    np.testing.assert_allclose((found.vus_pr, found.vus_roc), vus_by_definition(*case, window), rtol=0, atol=1e-9)


@given(cases())
def test_perfect_scores_have_perfect_measures(case: Case) -> None:
    is_event, score = case

    found = rank(is_event, score + 2 * is_event, 0)

    np.testing.assert_allclose((found.average_precision, found.best_f1, found.vus_pr, found.vus_roc), 1, atol=1e-12)


@given(cases(), st.sampled_from([np.exp, np.cbrt, lambda score: 3 * score - 7]))
def test_only_the_order_of_scores_counts(case: Case, grow: Callable[[np.ndarray], np.ndarray]) -> None:
    is_event, score = case
    one, other = rank(is_event, score, 9), rank(is_event, grow(score), 9)

    assert (one.vus_pr, one.vus_roc, one.average_precision, one.best_f1) == (other.vus_pr, other.vus_roc, other.average_precision, other.best_f1)


@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_records_does_not_count_without_a_buffer(case: Case, random: object) -> None:
    is_event, score = case
    order = np.argsort([random.random() for _ in is_event])  # type: ignore[attr-defined]
    one, other = rank(is_event, score, 0), rank(is_event[order], score[order], 0)

    assert (one.average_precision, one.best_f1, one.best_threshold) == (other.average_precision, other.best_f1, other.best_threshold)


@given(cases())
def test_threshold_of_the_oracle_gives_its_f1(case: Case) -> None:
    is_event, score = case
    found = rank(is_event, score)
    flags = score >= found.best_threshold

    assert found.best_f1 == 2 * np.sum(flags & is_event) / (flags.sum() + is_event.sum())


@given(cases(), cases())
def test_counts_of_streams_that_stand_far_apart_are_those_of_one_stream(one: Case, two: Case) -> None:
    gap = np.zeros(100, np.bool_)
    flags = [score > 1 for _, score in (one, two)]
    events = [one[0], two[0]]
    apart = add([count(event, flag, np.arange(len(event))) for event, flag in zip(events, flags, strict=True)])

    joined = [np.concatenate([parts[0], gap, parts[1]]) for parts in (events, flags)]
    together = count(joined[0], joined[1], np.arange(len(joined[0])))

    for name in ("positives", "flagged", "hits", "events", "alarms", "true_alarms", "caught"):
        assert getattr(together, name) == getattr(apart, name)
    np.testing.assert_array_equal(together.delay_rows, apart.delay_rows)


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=1))
def test_intervals_label_the_records_they_were_made_of_and_no_other(records: list[tuple[int, bool]]) -> None:
    times_us = np.array([time for time, _ in records])
    labelled = {time for time, is_anomalous in records if is_anomalous}
    intervals, _ = intervals_of_records(times_us, np.array([is_anomalous for _, is_anomalous in records]))

    found = Labels({"a": intervals}, "labels").of_records("a", times_us)

    assert found.tolist() == [time in labelled for time in times_us.tolist()]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 10)), min_size=1))
def test_merged_intervals_cover_the_same_times_and_stand_apart(spans: list[tuple[int, int]]) -> None:
    intervals, joined = merged(np.array([(start, start + length) for start, length in spans]))

    assert {time for first, last in intervals.tolist() for time in range(first, last + 1)} == {
        time for start, length in spans for time in range(start, start + length + 1)
    }
    assert (intervals[1:, 0] > intervals[:-1, 1]).all()
    assert joined == len(spans) - len(intervals)


@given(st.lists(cases(20), min_size=1, max_size=4), st.integers(1, 30), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=30)
def test_how_entities_are_mixed_in_the_log_changes_no_measure(several: list[Case], group_rows: int, random: object) -> None:
    streams = {
        f"entity-{number}": Stream(tuple(score.tolist()), frozenset(np.flatnonzero(is_event).tolist()), frozenset(np.flatnonzero(score > 1).tolist()))
        for number, (is_event, score) in enumerate(several)
    }
    columns = columns_of(streams)
    turns = np.array([random.random() for _ in columns["entity"]])  # type: ignore[attr-defined]
    for entity in streams:
        turns[columns["entity"] == entity] = np.sort(turns[columns["entity"] == entity])
    order = np.argsort(turns, kind="stable")  # equal turns keep the order of the log
    with TemporaryDirectory() as folder:
        tidy = read_scores(write_scores(Path(folder) / "tidy.parquet", columns))
        mixed = read_scores(
            write_scores(Path(folder) / "mixed.parquet", {name: column[order] for name, column in columns.items()}, group_rows=group_rows)
        )

    one, other = (evaluate(table, labels_of(streams)).as_json() for table in (tidy, mixed))
    assert one == other
