import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from anomaly_daemon.statistics.quantile import RollingQuantile
from anomaly_daemon.statistics.score_prior import UNKNOWN
from anomaly_daemon.statistics.spot import Spot
from anomaly_daemon.statistics.window import Window
from anomaly_daemon.statistics.window_tail import WindowTail
from tests.slab_rows import fresh_rows, vector

TAIL, ENTITIES = 0.01, 40


def spot() -> WindowTail:
    return WindowTail("t", Spot("t", Window("t.window", 1000, UNKNOWN.sample(200)), TAIL), TAIL)


def quantile() -> WindowTail:
    return WindowTail("t", RollingQuantile("t", Window("t.window", 1000, UNKNOWN.sample(200)), TAIL), TAIL)


BOTH = pytest.mark.parametrize("make", [spot, quantile])


def teach(tail: WindowTail, rows: dict[str, torch.Tensor], samples: NDArray[np.float64], weight: float = 1.0) -> NDArray[np.bool_]:
    """samples: [steps, entities]; which were as rare as `TAIL` before they were learned."""
    found = np.empty(samples.shape, np.bool_)
    for step, sample in enumerate(torch.from_numpy(samples)):
        known = tail.known(rows, sample)
        found[step] = (known <= TAIL).numpy()
        tail.learn(rows, known, sample, torch.full_like(sample, weight), torch.ones_like(sample, dtype=torch.bool), torch.zeros_like(sample))
    return found


@BOTH
def test_begins_with_the_tail_it_is_given(make: Callable[[], WindowTail]) -> None:
    tail = make()

    assert tail.quantile(fresh_rows(tail.columns())).item() == pytest.approx(UNKNOWN.quantile(TAIL), abs=0.15)


@BOTH
def test_a_normal_stream_exceeds_its_quantile_as_often_as_that_says(make: Callable[[], WindowTail]) -> None:
    tail = make()
    found = teach(tail, fresh_rows(tail.columns(), ENTITIES), np.random.default_rng(0).normal(size=(4000, ENTITIES)))

    assert found.mean() / TAIL == pytest.approx(1, abs=0.15)


@BOTH
def test_a_stream_that_grows_wilder_does_too_and_without_the_stretch_it_would_not(make: Callable[[], WindowTail]) -> None:
    wilder = np.random.default_rng(1).normal(size=(4000, ENTITIES)) * np.geomspace(1, 20, 4000)[:, None]
    tail, alone = make(), make()
    found = teach(tail, fresh_rows(tail.columns(), ENTITIES), wilder)
    rows, without = fresh_rows(alone.columns(), ENTITIES), []
    for one in wilder:
        rows["t.stretch"].zero_()
        without.append(teach(alone, rows, one[None]))

    assert 0.7 < found.mean() / TAIL < 1.4
    assert np.mean(without) / TAIL > 2


def test_an_exceedance_stretches_by_a_twentieth_and_as_many_others_as_there_should_be_take_that_back() -> None:
    tail = spot()
    rows = fresh_rows(tail.columns())
    teach(tail, rows, np.full((1, 1), 3.0))
    risen = rows["t.stretch"].item()
    teach(tail, rows, np.full((99, 1), -1.0))

    assert risen == pytest.approx(0.05 * (1 - TAIL))
    assert rows["t.stretch"].item() == pytest.approx(0.0, abs=1e-12)


def test_suspects_stretch_while_they_are_few_and_then_no_more() -> None:
    tail = spot()
    rows = fresh_rows(tail.columns())
    teach(tail, rows, np.full((5, 1), 30.0), weight=0.1)
    after_few = rows["t.stretch"].item()
    teach(tail, rows, np.full((50, 1), 30.0), weight=0.1)

    assert after_few == pytest.approx(5 * 0.05 * (1 - TAIL))
    assert rows["t.stretch"].item() < after_few + 2 * 0.05


def test_nothing_stretches_it_beyond_twice_its_length_or_half_of_it() -> None:
    tail = spot()
    rows = fresh_rows(tail.columns())
    teach(tail, rows, np.geomspace(4, 1e9, 300)[:, None])
    longest = rows["t.stretch"].item()
    teach(tail, rows, np.full((20_000, 1), -1.0))

    assert longest == pytest.approx(math.log(2), abs=1e-3)
    assert rows["t.stretch"].item() == pytest.approx(-math.log(2))


def test_of_its_quantile_the_probability_is_the_tail() -> None:
    tail = spot()
    rows = fresh_rows(tail.columns())
    teach(tail, rows, np.random.default_rng(2).normal(size=(1000, 1)))

    at = tail.quantile(rows)

    assert tail.probability(tail.known(rows, at), at).item() == pytest.approx(TAIL)


@BOTH
def test_what_does_not_teach_changes_no_bit(make: Callable[[], WindowTail]) -> None:
    tail = make()
    rows = fresh_rows(tail.columns())
    teach(tail, rows, np.random.default_rng(3).normal(size=(50, 1)))
    rows["t.credit"].fill_(2.0)
    before = {name: column.clone() for name, column in rows.items()}

    wild = vector(9.0)
    tail.learn(rows, tail.known(rows, wild), wild, vector(0.0), torch.tensor([False]), vector(50.0))

    assert all(torch.equal(rows[name], column) for name, column in before.items())
