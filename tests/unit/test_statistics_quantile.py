import numpy as np
import pytest
from river import stats

from anomaly_daemon.statistics.quantile import RollingQuantile
from anomaly_daemon.statistics.window import Window
from tests.slab_rows import fresh_rows, vector

ALIKE = 0.01


def scores(n: int) -> list[float]:
    return [float(score) for score in np.random.default_rng(0).exponential(size=n).astype(np.float32)]


def new(length: int, tail: float, first: list[float], refit_every: int = 20) -> RollingQuantile:
    return RollingQuantile("q", Window("q", length, np.array(first, np.float32), refit_every), tail)


@pytest.mark.parametrize("tail", [0.5, 0.1, 0.02])
def test_equals_the_quantile_of_the_last_values_that_the_next_exceeds_as_often(tail: float) -> None:
    found = scores(200)
    rolling = new(50, tail, found[:1], refit_every=1)
    rows = fresh_rows(rolling.columns())

    for end in range(1, 201):
        last = found[max(0, end - 50) : end]
        assert rows["q.quantile"].item() == pytest.approx(np.quantile(last, 1 - tail, method="weibull") + ALIKE, abs=1e-6)
        rolling.learn(rows, vector(found[end % 200]), vector(1))


@pytest.mark.parametrize("tail", [0.5, 0.1, 0.02])
def test_equals_river_s_rolling_quantile_of_the_probability_that_has_the_same_place(tail: float) -> None:
    first, later, length = scores(250)[:50], scores(250)[50:], 50
    rolling, reference = new(length, tail, first, refit_every=1), stats.RollingQuantile(((length + 1) * (1 - tail) - 1) / (length - 1), length)
    rows = fresh_rows(rolling.columns())
    for score in first:
        reference.update(score)

    for score in later:
        rolling.learn(rows, vector(score), vector(1))
        reference.update(score)

        assert rows["q.quantile"].item() == pytest.approx(reference.get() + ALIKE, abs=1e-6)


def test_is_brought_up_to_date_every_twenty_scores() -> None:
    found = scores(240)
    rolling = new(64, 0.05, found[:40])
    rows = fresh_rows(rolling.columns())

    for end in range(41, 241):
        rolling.learn(rows, vector(found[end - 1]), vector(1))
        known = end - end % 20

        assert rows["q.quantile"].item() == pytest.approx(np.quantile(found[max(0, known - 64) : known], 0.95, method="weibull") + ALIKE, abs=1e-6)


@pytest.mark.parametrize("tail", [0.1, 0.01, 0.002])
def test_the_next_exceeds_it_as_often_as_it_says_however_few_are_so_rare(tail: float) -> None:
    drawn = np.random.default_rng(1).normal(size=(2000, 1000)).astype(np.float32)
    found = []
    for one in drawn:
        rolling = new(999, tail, one[:-1].tolist())
        found.append(one[-1] > fresh_rows(rolling.columns())["q.quantile"].item())

    assert np.mean(found) == pytest.approx(tail, abs=3.2 * (tail / len(drawn)) ** 0.5)


def test_tail_probability_is_the_rank_and_never_below_one_in_ten_thousand() -> None:
    rolling = new(20_000, 0.1, [1.0] * 20_000)
    rows = fresh_rows(rolling.columns())

    assert rolling.tail_probability(rows, vector(2.0)).item() == 1e-4
    assert rolling.tail_probability(rows, vector(1.0 + ALIKE / 2)).item() == 1.0
