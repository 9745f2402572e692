import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from anomaly_daemon.evaluation.report.tallies import LEVELS, Calibration, Crossings, Envelope, Histogram

GRID = np.array([1.0, 2.0, 3.0])
LEVEL = st.sampled_from([0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, float("nan")])
STREAM = st.lists(st.tuples(st.integers(0, 3), LEVEL), max_size=60)


@given(STREAM, st.integers(1, 60))
def test_records_and_runs_above_each_level_are_counted_exactly_however_batches_are_cut(stream: list[tuple[int, float]], rows: int) -> None:
    counted = Crossings(GRID)
    for first in range(0, len(stream), rows):
        part = stream[first : first + rows]
        counted.add(np.array([entity for entity, _ in part], np.int32), np.array([value for _, value in part]))

    for place, level in enumerate(GRID):
        above = {entity: [value > level for one, value in stream if one == entity] for entity in range(4)}
        assert counted.records()[place] == sum(map(sum, above.values()))
        assert counted.runs()[place] == sum(is_above and not (at and flags[at - 1]) for flags in above.values() for at, is_above in enumerate(flags))


@given(STREAM, st.integers(1, 60))
def test_envelope_keeps_the_extremes_of_every_stretch_however_batches_are_cut(stream: list[tuple[int, float]], rows: int) -> None:
    envelope = Envelope(0, 59, {2: 1}, stretches=6)
    score = np.array([value for _, value in stream])
    for first in range(0, len(stream), rows):
        part = slice(first, first + rows)
        entity = np.array([one for one, _ in stream[part]], np.int32)
        envelope.add(entity, np.arange(len(stream))[part], score[part], score[part] + 1, score[part] > 2)

    for stretch in range(6):
        for series, wanted in ((0, lambda _: True), (1, lambda entity: entity == 2)):
            found = [value for at, (entity, value) in enumerate(stream) if at // 10 == stretch and wanted(entity) and value == value]
            assert envelope.lowest[series, stretch] == min(found, default=np.inf)
            assert envelope.highest[series, stretch] == max(found, default=-np.inf)
            assert envelope.threshold_highest[series, stretch] == max(found, default=-np.inf) + 1
            assert envelope.highest_anomalous[series, stretch] == max((value for value in found if value > 2), default=-np.inf)


def test_calibration_counts_a_probability_that_equals_the_nominal_one() -> None:
    tails = Calibration()

    tails.add(np.zeros(4, np.int32), np.array([1e-4, 1e-3, 0.05, 1.0]))

    assert [(level, count) for level, count, _, _ in tails.tabled()] == [(1e-1, 3), (1e-2, 2), (1e-3, 2), (1e-4, 1)]
    assert tails.observed()[0] == 1
    assert tails.observed()[-1] == tails.records == 4
    assert (LEVELS[0], LEVELS[-1]) == (1e-4, 1.0)


def test_interval_holds_the_nominal_share_of_calibrated_entities_in_about_95_of_100_draws() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        tails = Calibration()
        tails.add(np.repeat(np.arange(50, dtype=np.int32), 200), random.random(10_000))
        _, _, _, interval = tails.tabled()[0]
        assert interval is not None
        held += interval[0] <= 0.1 <= interval[1]

    assert 180 <= held <= 199


def test_interval_is_wider_where_one_entity_has_most_of_the_tail() -> None:
    even, uneven = Calibration(), Calibration()
    entity = np.repeat(np.arange(20, dtype=np.int32), 100)
    probability = np.tile(np.linspace(0.01, 1, 100), 20)
    even.add(entity, probability)
    uneven.add(entity, np.sort(probability))

    spreads = [interval[1] - interval[0] for tails in (even, uneven) if (interval := tails.tabled()[0][3]) is not None]

    assert len(spreads) == 2
    assert spreads[0] < spreads[1] / 10


def test_fewer_than_ten_entities_give_no_interval() -> None:
    tails = Calibration()

    tails.add(np.repeat(np.arange(9, dtype=np.int32), 10), np.full(90, 0.5))

    assert {interval for *_, interval in tails.tabled()} == {None}


def test_what_lies_beyond_a_histogram_is_counted_in_its_last_bins() -> None:
    histogram = Histogram(0, 1, 4)

    histogram.add(np.array([-7.0, 0.1, 0.3, 1.0, 99.0]))

    assert histogram.counts.tolist() == [2, 1, 0, 2]
