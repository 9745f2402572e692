from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.benchmarks.quality.exceedance import HIGH, LOW, SIMULATED, exceedances, of_simulated


def test_payments_without_fraud_are_as_improbable_as_they_are_said_to_be(tmp_path: Path) -> None:
    cards = replace(SIMULATED[1], entities=200, days=30, trained_days=12)

    found = exceedances(of_simulated(cards, tmp_path, (), seed=1))

    assert found[0].records > 15_000
    hundredth, thousandth, _ = found
    assert LOW <= hundredth.ratio <= HIGH
    assert thousandth.low <= HIGH  # some twenty are expected: chance alone takes the ratio out of the goal
    assert thousandth.high >= LOW


def test_exceedances_are_counted_against_their_level_and_the_unjudged_left_out() -> None:
    tails = np.full(10_001, 0.5)
    tails[::100] = np.repeat([1e-4, 1e-3, 1e-2], [2, 8, 91])
    tails[5] = np.nan

    hundredth, thousandth, tenthousandth = exceedances(tails)

    assert (hundredth.records, hundredth.observed, thousandth.observed, tenthousandth.observed) == (10_000, 101, 10, 2)
    assert (hundredth.ratio, thousandth.ratio, tenthousandth.ratio) == (1.01, 1.0, 2.0)
    assert hundredth.low < 1 < hundredth.high
    assert thousandth.is_told
    assert not tenthousandth.is_told


def test_a_run_of_neighbours_is_evidence_of_one() -> None:
    tails = np.full(20_000, 0.5)
    tails[3000:3020] = 1e-3

    _, thousandth, tenthousandth = exceedances(tails)

    assert (thousandth.observed, thousandth.runs, thousandth.runs_expected, thousandth.ratio) == (20, 1, 1.0, 1.0)
    assert not thousandth.is_told
    assert thousandth.high > 5
    assert (tenthousandth.observed, tenthousandth.low) == (0, 0.0)


def test_too_few_runs_do_not_show_that_they_are_shorter_than_at_the_level_before() -> None:
    tails = np.full(100_000, 0.5)
    for first in range(0, 100_000, 1000):
        tails[first : first + 10] = 1e-2
    tails[5000] = 1e-4

    hundredth, _, tenthousandth = exceedances(tails)

    assert (hundredth.runs_expected, hundredth.is_told) == (100.0, True)
    assert (tenthousandth.observed, tenthousandth.runs_expected, tenthousandth.is_told) == (1, 1.0, False)
    assert tenthousandth.high > 1
