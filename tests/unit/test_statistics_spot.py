import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import genpareto

from anomaly_daemon.statistics.spot import Spot
from anomaly_daemon.statistics.window import Window
from tests.slab_rows import fresh_rows, vector

WINDOW = 2000
FIRST = np.linspace(0, 1, 20, dtype=np.float32)


def new(length: int = WINDOW, tail: float = 1e-3) -> Spot:
    return Spot("s", Window("s", length, FIRST), tail)


def filled(spot: Spot, scores: NDArray[np.float64]) -> dict[str, torch.Tensor]:
    """A window filled at once, score by score only for the last twenty: the same fit, sooner."""
    rows = fresh_rows(spot.columns())
    rows["s.values"][0, : len(scores) - 20] = torch.from_numpy(scores[:-20]).float()
    rows["s.learned"][0] = len(scores) - 20
    for score in scores[-20:]:
        spot.learn(rows, vector(score), vector(1))
    return rows


def draw(kind: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    drawn = rng.exponential(size=shape) if kind == "exponential" else genpareto.rvs(0.25, size=shape, random_state=rng)
    return drawn.astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("kind", ["exponential", "heavy"])
def test_tail_and_quantile_follow_the_generalised_pareto_distribution_fitted(kind: str) -> None:
    spot = new()
    rows = filled(spot, draw(kind, (WINDOW,), seed=3))
    peak, scale, shape = (rows[f"s.{name}"].item() for name in ("peak", "scale", "shape"))
    fitted = genpareto(shape, loc=peak, scale=scale)

    for factor in (1.05, 1.2, 1.5):
        assert spot.tail_probability(rows, vector(peak * factor)).item() == pytest.approx(max(0.05 * fitted.sf(peak * factor), 1e-4), rel=1e-6)
    assert rows["s.quantile"].item() == pytest.approx(fitted.isf(1e-3 / 0.05), rel=1e-6)


def test_moments_recover_the_shape_and_scale_of_a_known_tail() -> None:
    shapes, scales = [], []
    for seed in range(60):
        spot = new(20_000)
        rows = filled(spot, draw("heavy", (20_000,), seed))
        shapes.append(rows["s.shape"].item())
        scales.append(rows["s.scale"].item() / (1 + 0.25 * rows["s.peak"].item()))  # of a Pareto tail above u: σ + ξ·u

    assert np.mean(shapes) == pytest.approx(0.25, abs=0.04)
    assert np.mean(scales) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("kind", ["exponential", "heavy"])
@pytest.mark.parametrize("tail", [1e-2, 1e-3])
def test_scores_exceed_the_threshold_about_as_often_as_they_should(kind: str, tail: float) -> None:
    entities, steps = 64, 600
    spot = new(tail=tail)
    rows = fresh_rows(spot.columns(), entities)
    history = draw(kind, (entities, WINDOW), seed=5)
    rows["s.values"][:] = torch.from_numpy(history).float()
    rows["s.learned"][:] = WINDOW - 1
    spot.learn(rows, torch.from_numpy(history[:, -1].copy()), torch.ones(entities, dtype=torch.float64))
    distribution = genpareto(0.0 if kind == "exponential" else 0.25)
    shares = []  # of the scores to come that lie beyond the threshold, known exactly

    for score in torch.from_numpy(draw(kind, (steps, entities), seed=6)):
        shares.append(distribution.sf(rows["s.quantile"].numpy()).mean())
        spot.learn(rows, score, torch.ones(entities, dtype=torch.float64))

    assert 0.7 <= np.mean(shares) / tail <= 1.4


def test_below_the_peaks_the_rank_in_the_window_counts() -> None:
    spot = new(tail=1e-2)
    scores = draw("exponential", (WINDOW,), seed=7)
    rows = filled(spot, scores)

    assert spot.tail_probability(rows, vector(1.0)).item() == pytest.approx((1 + (scores >= 1.0).sum()) / (WINDOW + 1))


def test_nothing_rarer_than_one_in_ten_thousand_is_claimed() -> None:
    spot = new()

    assert spot.tail_probability(filled(spot, draw("exponential", (WINDOW,), seed=8)), vector(1e300)).item() == 1e-4


def test_what_the_window_begins_with_is_fitted_at_once() -> None:
    drawn = draw("exponential", (400,), seed=12).astype(np.float32)
    begun = fresh_rows(Spot("s", Window("s", WINDOW, drawn), tail=1e-2).columns())
    learned = filled(new(400, tail=1e-2), drawn.astype(np.float64))

    for part in ("peak", "scale", "shape", "peak_tail", "quantile"):
        assert begun[f"s.{part}"].item() == pytest.approx(learned[f"s.{part}"].item(), abs=1e-6)


def test_a_tail_that_ends_is_fitted_as_one_and_nothing_beyond_its_end_breaks_it() -> None:
    uniform = np.random.default_rng(11).uniform(0, 20, WINDOW).astype(np.float32).astype(np.float64)
    spot = new(tail=1e-3)
    rows = filled(spot, uniform)

    assert rows["s.shape"].item() == pytest.approx(-0.2)
    assert 19.9 < rows["s.quantile"].item() < 25
    assert spot.tail_probability(rows, vector(1e6)).item() == 1e-4


def test_equal_scores_give_a_finite_fit_just_above_them() -> None:
    spot = new(100, 1e-2)
    rows = fresh_rows(spot.columns())
    for _ in range(200):
        spot.learn(rows, vector(2.0), vector(1))

    assert all(torch.isfinite(column).all() for column in rows.values())
    assert 2.0 <= rows["s.quantile"].item() < 2.5


def test_a_tail_that_the_window_holds_is_read_from_the_window() -> None:
    spot = new(tail=0.1)
    scores = draw("exponential", (WINDOW,), seed=9)

    assert (scores > filled(spot, scores)["s.quantile"].item()).mean() == pytest.approx(0.1)


def test_a_fit_has_the_same_bits_alone_and_among_others() -> None:
    spot = new(200)
    together = fresh_rows(spot.columns(), entities=7)
    alone = [fresh_rows(spot.columns()) for _ in range(7)]
    for scores in torch.from_numpy(draw("heavy", (220, 7), seed=10)):
        spot.learn(together, scores, torch.ones(7, dtype=torch.float64))
        for entity, rows in enumerate(alone):
            spot.learn(rows, scores[entity : entity + 1].clone(), vector(1))

    for name, column in together.items():
        if name.startswith("s."):
            assert torch.equal(column, torch.cat([rows[name] for rows in alone]))
