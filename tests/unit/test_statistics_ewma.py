import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from river import stats

from anomaly_daemon.statistics.ewma import Ewma
from anomaly_daemon.statistics.reach import moments_within
from tests.slab_rows import fresh_rows, vector

HALF_LIFE = 20.0
FADING_FACTOR = 1 - 0.5 ** (1 / HALF_LIFE)


def stream(n: int, seed: int = 0) -> list[float]:
    return list(np.random.default_rng(seed).normal(3.0, 2.0, n))


def test_equals_the_exponentially_weighted_mean_and_variance_of_river_at_a_constant_rate() -> None:
    ewma = Ewma("x", HALF_LIFE)
    rows = fresh_rows(ewma.columns())
    mean, variance = stats.EWMean(FADING_FACTOR), stats.EWVar(FADING_FACTOR)

    for position, x in enumerate(stream(500)):
        ewma.learn(rows, vector(x), vector(1), vector(0 if position == 0 else 1e9))
        mean.update(x)
        variance.update(x)

        assert rows["x.mean"].item() == pytest.approx(mean.get(), rel=1e-12)
        assert rows["x.variance"].item() == pytest.approx(variance.get(), rel=1e-9, abs=1e-12)


def test_equals_the_plain_mean_and_variance_of_river_while_young() -> None:
    ewma = Ewma("x", 1000.0)
    rows = fresh_rows(ewma.columns())
    mean, variance = stats.Mean(), stats.Var(ddof=0)

    for seen, x in enumerate(stream(1000)):
        ewma.learn(rows, vector(x), vector(1), vector(seen))
        mean.update(x)
        variance.update(x)

        assert rows["x.mean"].item() == pytest.approx(mean.get(), rel=1e-10)
        assert rows["x.variance"].item() == pytest.approx(variance.get(), rel=1e-9, abs=1e-12)


def test_a_prior_counts_as_that_many_observations() -> None:
    before, after = stream(16, seed=1), stream(40, seed=2)
    ewma = Ewma("x", 1000.0, prior=(np.mean(before), np.var(before)), prior_observations=16)
    rows = fresh_rows(ewma.columns())

    for seen, x in enumerate(after):
        ewma.learn(rows, vector(x), vector(1), vector(seen))

    assert rows["x.mean"].item() == pytest.approx(np.mean(before + after))
    assert rows["x.variance"].item() == pytest.approx(np.var(before + after))


def bounded(values: list[float], half_life: float = 1440.0) -> tuple[float, float]:
    """Mean and deviation after so many values, each at full weight."""
    ewma = Ewma("x", half_life, is_bounded=True)
    rows = fresh_rows(ewma.columns())
    for seen, x in enumerate(values):
        ewma.learn(rows, vector(x), vector(1), vector(seen))
    return rows["x.mean"].item(), ewma.deviation(rows).item()


def test_what_is_within_reach_of_a_normal_distribution_is_a_known_share_of_its_deviation() -> None:
    mean, deviation = bounded(stream(50_000), half_life=20_000.0)
    assert mean == pytest.approx(3.0, abs=0.25)
    assert deviation == pytest.approx(2.0, rel=0.05)
    assert moments_within(np.array(stream(50_000))) == pytest.approx((mean, deviation**2), rel=0.05)


@pytest.mark.parametrize("far", [-1e6, 1e6])
def test_hours_of_values_out_of_reach_leave_a_mean_and_a_deviation_to_be_used(far: float) -> None:
    usual = stream(3000)
    mean, deviation = bounded(usual)
    carried_mean, carried_deviation = bounded([*usual, *[far] * 240])
    assert abs(carried_mean - mean) < deviation
    assert carried_deviation < 1.6 * deviation


def test_what_lasts_comes_within_reach() -> None:
    mean, _ = bounded([*stream(3000), *(x - 50 for x in stream(20_000, seed=1))])
    assert mean == pytest.approx(-47.0, abs=0.5)


def test_deviation_never_falls_below_its_floor() -> None:
    ewma = Ewma("x", 10.0, deviation_floor=0.25)
    rows = fresh_rows(ewma.columns(), entities=2)
    ewma.learn(rows, vector(1, 1), vector(1, 1), vector(0, 0))
    ewma.learn(rows, vector(1, 9), vector(1, 1), vector(1, 1))

    assert ewma.deviation(rows).tolist() == [0.25, 4.0]


@given(arrays.arrays(np.float64, 40, elements=st.floats(-1e100, 1e100)), st.floats(0, 1))
@settings(deadline=None, max_examples=50)
def test_finite_observations_leave_finite_state_and_a_weight_of_zero_leaves_its_bits(xs: np.ndarray, weight: float) -> None:
    ewma = Ewma("x", HALF_LIFE)
    rows = fresh_rows(ewma.columns())
    for seen, x in enumerate(xs):
        ewma.learn(rows, vector(x), vector(weight), vector(seen))
    learned = {name: column.clone() for name, column in rows.items()}

    ewma.learn(rows, vector(123.0), vector(0), vector(40))

    assert torch.isfinite(rows["x.mean"]).all()
    assert 0 <= rows["x.variance"].item() < np.inf
    assert all(rows[name].numpy().tobytes() == column.numpy().tobytes() for name, column in learned.items())
