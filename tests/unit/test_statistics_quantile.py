import numpy as np
import pytest
from river import stats

from anomaly_daemon.statistics.quantile import RollingQuantile
from tests.slab_rows import fresh_rows, vector


def scores(n: int) -> list[float]:
    return [float(score) for score in np.random.default_rng(0).exponential(size=n).astype(np.float32)]


@pytest.mark.parametrize("tail", [0.5, 0.1, 0.02])
def test_equals_the_rolling_quantile_of_river_at_each_step(tail: float) -> None:
    rolling, reference = RollingQuantile("q", 50, tail, refit_every=1), stats.RollingQuantile(1 - tail, 50)
    rows = fresh_rows(rolling.columns())

    for score in scores(200):
        rolling.learn(rows, vector(score), vector(1))
        reference.update(score)

        assert rows["q.quantile"].item() == pytest.approx(reference.get(), rel=1e-9)


def test_is_brought_up_to_date_every_twenty_scores() -> None:
    rolling, reference = RollingQuantile("q", 64, 0.05), stats.RollingQuantile(0.95, 64)
    rows = fresh_rows(rolling.columns())
    expected = 1e30

    for position, score in enumerate(scores(200), start=1):
        rolling.learn(rows, vector(score), vector(1))
        reference.update(score)
        expected = reference.get() if position % 20 == 0 else expected

        assert rows["q.quantile"].item() == pytest.approx(expected, rel=1e-9)


def test_tail_probability_is_the_rank_and_never_below_one_in_ten_thousand() -> None:
    rolling = RollingQuantile("q", 20_000, 0.1)
    rows = fresh_rows(rolling.columns())
    rows["q.scores"][:] = 1.0
    rows["q.learned"][:] = 20_000

    assert rolling.tail_probability(rows, vector(2.0)).item() == 1e-4
    assert rolling.tail_probability(rows, vector(1.0)).item() == 1.0
