"""The streams of the contextual benchmark: what is planted looks ordinary, is wrong all the same, and never lies in the clean part."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks.quality.contextual import FALSE_MAX, GRACE_RECORDS, Judged, result
from tests.benchmarks.quality.contextual_events import CELL, TILL, EventWorld, events
from tests.benchmarks.quality.contextual_streams import HALL, MARGIN, PLANT, Planted, Stream, World, sensors
from tests.benchmarks.quality.controls import running_tail

SENSORS = pytest.mark.parametrize("world", [PLANT, HALL], ids=lambda world: world.name)
EVENTS = pytest.mark.parametrize("world", [TILL, CELL], ids=lambda world: world.name)


def assert_ordinary(streams: list[Stream]) -> None:
    for stream in streams:
        wrong = stream.is_planted()
        low, high = np.quantile(stream.values[~wrong], (MARGIN, 1 - MARGIN), axis=0)
        # The generator holds them to the quantiles of the stream before it was planted in, which differ by little.
        slack = 0.01 * (high - low)
        assert wrong.any()
        assert (stream.values[wrong] > low - slack).all()
        assert (stream.values[wrong] < high + slack).all()
        assert all(planted.start > stream.training for planted in stream.planted)


@SENSORS
def test_every_planted_reading_lies_inside_its_channels_normal_range(world: World) -> None:
    assert_ordinary(sensors(world, seed=3))


@EVENTS
def test_every_planted_event_has_an_ordinary_amount_name_and_gap(world: EventWorld) -> None:
    streams = events(world, seed=3)

    assert_ordinary(streams)
    for stream in streams:
        assert stream.events is not None
        wrong = stream.is_planted()
        assert set(np.array(stream.events)[wrong]) <= set(np.array(stream.events)[~wrong])
        assert (np.diff(stream.times_s) > 0).all()


@pytest.mark.parametrize(("world", "event_world"), [(PLANT, TILL), (HALL, CELL)], ids=("plant and till", "hall and cell"))
def test_a_world_plants_sixty_anomalies_and_equal_seeds_give_equal_streams(world: World, event_world: EventWorld) -> None:
    streams = sensors(world, seed=1) + events(event_world, seed=1)
    again = sensors(world, seed=1) + events(event_world, seed=1)
    others = sensors(world, seed=2)

    assert sum(len(stream.planted) for stream in streams) == 60
    assert all(np.array_equal(one.values, other.values) and one.planted == other.planted for one, other in zip(streams, again, strict=True))
    assert not np.array_equal(streams[0].values, others[0].values)


@EVENTS
def test_an_order_that_is_planted_holds_a_pair_of_events_that_never_follow_each_other_else(world: EventWorld) -> None:
    for stream in events(world, seed=3):
        assert stream.events is not None
        pairs = list(zip(stream.events, stream.events[1:], strict=False))
        wrong = stream.is_planted()[:-1] | stream.is_planted()[1:]
        known = {pair for pair, is_wrong in zip(pairs, wrong.tolist(), strict=True) if not is_wrong}
        for planted in stream.planted:
            if planted.kind == "order":
                assert set(pairs[planted.start : planted.stop - 1]) - known


def test_a_hit_counts_once_and_what_is_called_after_the_grace_is_false() -> None:
    stream = Stream("one", ("x",), np.arange(400.0), np.zeros((400, 1)), 100, (Planted(200, 206, "hour"), Planted(300, 306, "order")))
    called = np.zeros(400, bool)
    called[[50, 150, 203, 204, 306 + GRACE_RECORDS]] = True

    found = result([Judged(stream, called.astype(float), called, called & False)])

    assert (found.rare["hour"], found.rare["order"], found.rare_false) == (1, 0, 2)
    assert found.deployed_false == 0
    assert found.normal == 300 - 2 * (6 + GRACE_RECORDS)


def test_at_the_common_price_a_detector_may_be_wrong_as_often_as_any_other() -> None:
    stream = Stream("one", ("x",), np.arange(400.0), np.zeros((400, 1)), 100, (Planted(200, 206, "hour"), Planted(300, 306, "order")))
    strangeness = np.zeros(400)
    strangeness[120 : 120 + FALSE_MAX + 1] = 5.0
    strangeness[203], strangeness[303] = 6.0, 4.0
    never = np.zeros(400, bool)

    assert result([Judged(stream, strangeness, never, never)]).priced == {"hour": 1}


def test_the_running_tail_is_exceeded_about_as_often_as_it_says() -> None:
    scores = np.random.default_rng(0).exponential(size=20_000)
    tail = running_tail(scores, training=4000)[4000:]

    assert 0.5 <= (tail < 1e-2).mean() / 1e-2 <= 2
    assert 0.5 <= (tail < 1e-3).mean() / 1e-3 <= 5  # what is rarer is not learned, so the tail is cut a little each time


def test_a_long_run_of_strange_scores_does_not_become_usual() -> None:
    scores = np.random.default_rng(0).exponential(size=6000)
    scores[4500:5000] = 30.0

    assert (running_tail(scores, training=4000)[4500:5000] < 1e-3).all()
