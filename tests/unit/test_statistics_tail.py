import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import norm

from anomaly_daemon.statistics.reach import moments_within
from anomaly_daemon.statistics.score_prior import LEVELS, UNKNOWN, prior_of
from anomaly_daemon.statistics.tail import Tail
from anomaly_daemon.statistics.window import TAIL_PROBABILITY_MIN
from tests.slab_rows import fresh_rows, vector

HALF_LIFE = 1440


def taught(
    samples: NDArray[np.float64], weight: float = 1.0, half_life: float = HALF_LIFE
) -> tuple[Tail, dict[str, torch.Tensor], NDArray[np.float64]]:
    """samples: [steps, entities]; also the probability of each before it was learned."""
    tail = Tail("tail", half_life, UNKNOWN)
    rows = fresh_rows(tail.columns(), samples.shape[1])
    found = np.empty_like(samples)
    for step, sample in enumerate(torch.from_numpy(samples)):
        known = tail.known(rows, sample)
        found[step] = tail.probability(known, sample).numpy()
        tail.learn(rows, known, sample, torch.full_like(sample, weight), torch.ones_like(sample, dtype=torch.bool), torch.full_like(sample, step))
    return tail, rows, found


def quantiles(rows: dict[str, torch.Tensor]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = rows["tail.gaps"].cumsum(1).numpy()
    return found


def test_of_normal_deviations_it_begins_with_their_probability() -> None:
    tail = Tail("tail", HALF_LIFE, UNKNOWN)
    rows = fresh_rows(tail.columns(), 5)
    deviations = vector(-1.0, 0.0, 1.0, 2.5, 3.3)

    assert tail.probability(tail.known(rows, deviations), deviations).numpy() == pytest.approx(norm.sf(deviations.numpy()), rel=0.06)


STEPS, ENTITIES = 1600, 120


def shapes(name: str) -> NDArray[np.float64]:
    random = np.random.default_rng(3)
    if name == "exponential":
        return random.standard_exponential((STEPS, ENTITIES)) * 1.5
    if name == "bounded":
        return random.uniform(-2, 2, (STEPS, ENTITIES))
    return random.standard_normal((STEPS, ENTITIES)) * np.linspace(0.7, 1.6, STEPS)[:, None]


# Short of a bound the thousandth is hardly ever said; while a scale doubles within a half-life both lag behind it.
@pytest.mark.parametrize(("name", "rarer_min", "most"), [("exponential", 0.7, 1.4), ("bounded", 0.0, 1.4), ("drifting", 0.7, 2.5)])
def test_whatever_the_distribution_each_level_comes_to_be_exceeded_as_often_as_it_says(name: str, rarer_min: float, most: float) -> None:
    _, _, found = taught(shapes(name))

    later = found[STEPS // 2 :]
    assert 0.7 <= (later <= 1e-2).mean() / 1e-2 <= most
    assert rarer_min <= (later <= 1e-3).mean() / 1e-3 <= most


def runs_of_high_ones() -> NDArray[np.float64]:
    """Normal deviations whose level goes up by two for twenty observations, about every four hundred: their exceedances come in runs."""
    random = np.random.default_rng(5)
    starts = random.random((STEPS, ENTITIES)) < 1 / 400
    lifted = np.apply_along_axis(np.convolve, 0, starts, np.ones(20))[:STEPS]
    return random.standard_normal((STEPS, ENTITIES)) + 2 * np.minimum(lifted, 1)


def test_a_stream_shows_which_of_the_two_tells_its_tail() -> None:
    _, in_runs, _ = taught(runs_of_high_ones())
    _, bounded, _ = taught(shapes("bounded"))

    assert in_runs["tail.odds"].median() > 0 > bounded["tail.odds"].median()


def test_a_prior_takes_the_scale_of_each_entity_and_not_the_mixture_of_them() -> None:
    random = np.random.default_rng(2)
    scales = np.array([0.1, 1.0, 3.0])

    found = prior_of(np.zeros(0), [random.standard_exponential(4000) * scale for scale in scales])

    assert found.excess == pytest.approx(scales.mean(), rel=0.15)
    assert found.shape == pytest.approx(0.0, abs=0.1)  # of an exponential tail


def test_a_probability_never_rises_with_the_deviation_and_stays_within_what_is_claimed() -> None:
    tail, rows, _ = taught(np.random.default_rng(0).standard_t(3, (500, 1)))
    grid = torch.linspace(-50, 200, 400, dtype=torch.float64)

    found = tail.probability(tail.known(rows, grid[:1]).expand(400, -1), grid)

    assert (found.diff() <= 0).all()
    assert (found[0].item(), found[-1].item()) == (1.0, TAIL_PROBABILITY_MIN)
    assert LEVELS[-1] == TAIL_PROBABILITY_MIN


def test_what_does_not_teach_changes_no_bit() -> None:
    _, rows, _ = taught(np.random.default_rng(0).standard_normal((50, 3)))
    before = {name: column.clone() for name, column in rows.items()}

    tail, wild = Tail("tail", HALF_LIFE, UNKNOWN), vector(9.0, 0.0, -5.0)
    tail.learn(rows, tail.known(rows, wild), wild, vector(0, 0, 0), torch.zeros(3, dtype=torch.bool), vector(50, 50, 50))

    assert all(torch.equal(rows[name], column) for name, column in before.items())


def test_suspects_that_teach_nothing_else_keep_the_tail_from_ending_where_they_begin() -> None:
    samples = np.random.default_rng(4).standard_exponential((STEPS, ENTITIES))
    tail = Tail("tail", HALF_LIFE, UNKNOWN)
    rows = fresh_rows(tail.columns(), ENTITIES)
    found = np.empty_like(samples)
    for step, sample in enumerate(torch.from_numpy(samples)):
        known = tail.known(rows, sample)
        found[step] = tail.probability(known, sample).numpy()
        tail.learn(rows, known, sample, (sample < 3.5).double(), torch.ones(ENTITIES, dtype=torch.bool), torch.full_like(sample, step))

    assert 0.7 <= (found[STEPS // 2 :] <= 1e-3).mean() / 1e-3 <= 1.4


def test_suspects_teach_fully_while_they_are_few_and_a_long_incident_little() -> None:
    _, few, _ = taught(np.full((10, 1), 30.0), weight=0.1)
    _, trusted, _ = taught(np.full((10, 1), 30.0))
    _, many, _ = taught(np.full((60, 1), 30.0), weight=0.1)
    _, unguarded, _ = taught(np.full((60, 1), 30.0))

    assert quantiles(few).tolist() == quantiles(trusted).tolist()
    assert (quantiles(many)[0, :4] < 0.75 * quantiles(unguarded)[0, :4]).all()


def test_the_wildest_deviations_leave_finite_rising_quantiles() -> None:
    for samples in (np.full((3000, 1), 1e6), np.full((3000, 1), -1e6), np.tile([[1e6], [-1e6]], (1500, 1))):
        _, rows, _ = taught(samples)

        assert np.isfinite(quantiles(rows)).all()
        assert (np.diff(quantiles(rows)) > 0).all()


def test_a_prior_is_read_off_where_there_are_enough_and_drawn_on_as_an_exponential_tail_beyond() -> None:
    sample = np.random.default_rng(1).standard_exponential(20_000)

    found = prior_of(np.array([0.0, 2.0]), [sample])

    assert (found.mean, found.variance) == moments_within(np.array([0.0, 2.0]))
    assert found.quantiles == pytest.approx(-np.log(LEVELS), rel=0.12)
    assert found.quantile(1e-3) == pytest.approx(found.quantiles[5])
    assert found.quantile(1e-5) > found.quantiles[-1]


def test_a_prior_of_too_few_is_the_unknown_one() -> None:
    assert prior_of(np.zeros(0), [np.zeros(3)] * 3) == UNKNOWN
