from __future__ import annotations

import numpy as np
import pytest

from anomaly_daemon.evaluation.measures.ranking import WINDOW_ROWS, period_rows, precision_measures, rank, runs, without_nan

BETWEEN = np.array([False, True, True, False])
FALLING = np.array([3.0, 2.0, 1.0, 0.0])


def test_average_precision_and_best_f1_of_a_case_by_hand() -> None:
    is_event, score = np.array([False, False, True, True]), np.array([0.1, 0.4, 0.35, 0.8])

    average, best, threshold = precision_measures(score[is_event], np.sort(score))

    assert average == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)
    assert best == pytest.approx(2 * 2 / (3 + 2))
    assert threshold == 0.35


def test_records_of_one_score_are_one_threshold() -> None:
    average, best, threshold = precision_measures(np.ones(1), np.ones(4))

    assert [average, best, threshold] == pytest.approx([1 / 4, 2 / 5, 1])


def test_vus_without_a_buffer_is_the_area_under_the_curve_of_found_events() -> None:
    found = rank(BETWEEN, FALLING, window_rows=0)

    assert found.vus_pr == pytest.approx(1 / 2 * 1 / 2 + 1 / 2 * 2 / 3)
    assert found.vus_roc == pytest.approx(1 / 2)


def test_vus_weighs_the_rows_beside_an_event_by_their_distance() -> None:
    soft = np.sqrt(1 / 2)
    positives = 2 + soft / 2
    steps = np.diff([0, soft / positives, (1 + soft) / positives, 1])
    with_buffer = float(np.dot(steps, [soft / 1, (1 + soft) / 2, (2 + soft) / 3]))
    without = 1 / 2 * 1 / 2 + 1 / 2 * 2 / 3

    # Widths 0 and 1 reach no row beside the event, width 2 one on each side.
    assert rank(BETWEEN, FALLING, window_rows=2).vus_pr == pytest.approx((without + without + with_buffer) / 3)


def test_event_is_found_once_however_long_it_is() -> None:
    is_event = np.array([True, False, False, False, True, True, True, True])
    only_long, both = np.array([0, 0, 0, 0, 9, 0, 0, 0.0]), np.array([8, 0, 0, 0, 9, 0, 0, 0.0])

    assert rank(is_event, only_long, 0).vus_pr < rank(is_event, both, 0).vus_pr


def test_nan_counts_as_the_lowest_score() -> None:
    assert without_nan(np.array([2.0, np.nan, 1.0])).tolist() == [2.0, 1.0, 1.0]
    assert without_nan(np.array([np.nan, np.nan])).tolist() == [0.0, 0.0]


def test_runs_reach_both_ends() -> None:
    assert runs(np.array([True, True, False, True])).tolist() == [[0, 1], [3, 3]]
    assert runs(np.zeros(3, np.bool_)).tolist() == []


@pytest.mark.parametrize("period", [20, 57, 140])
def test_period_of_a_wave_is_found(period: int) -> None:
    wave = np.sin(2 * np.pi * np.arange(3000) / period)

    assert period_rows(wave) == period


@pytest.mark.parametrize("readings", [np.ones(500), np.zeros(0), np.full(500, np.nan), np.arange(3.0)])
def test_channel_without_a_period_has_the_default_window(readings: np.ndarray) -> None:
    assert period_rows(readings) == WINDOW_ROWS
