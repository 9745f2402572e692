from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomaly_daemon.domain.errors import CheckpointInvalid, InputError, SettingsError
from anomaly_daemon.domain.records import Observations, Partition, Record, Scores
from anomaly_daemon.domain.times import DAY_US
from anomaly_daemon.evaluation.tuning.request import refuse_budget
from anomaly_daemon.pipeline.budget import CHANGE_MAX, GAIN_FIRST, GAIN_MIN, PAID_BACK_MAX, Z_MAX, Z_MIN, Budgets, moved, paid_back
from anomaly_daemon.settings import live_part, load, restart_needed, take_live, with_live_part
from tests.small import P

MINUTE_US = 60_000_000
OTHER = Partition("readings", 1)


def budgets(per_day: float = 5.0, z: float = 4.0) -> Budgets:
    found = Budgets()
    found.allow(P, per_day, z)
    return found


def observations(times_us: np.ndarray, partition: Partition = P) -> Observations:
    records = [Record(partition, offset, 0, None, None) for offset in range(len(times_us))]
    nothing = np.zeros((len(times_us), 0))
    return Observations(records, ["pump"] * len(times_us), times_us.astype(np.int64), nothing, nothing.astype(np.int64))


def scores(deviations: np.ndarray) -> Scores:
    nothing = np.zeros(len(deviations))
    return Scores(nothing, nothing, nothing, nothing > 0, nothing, nothing.astype(np.int8), deviations, {})


def lengths(found: Budgets, times_us: np.ndarray) -> list[int]:
    return [len(slots) for _, slots in found.steps(observations(times_us), np.arange(len(times_us)))]


def test_one_incident_too_many_draws_log_z_up_by_the_gain_and_one_too_few_lets_it_down() -> None:
    long_since = 1e6

    assert moved(4.0, 3, 2.0, long_since) == pytest.approx(4.0 * math.exp(GAIN_MIN))
    assert moved(4.0, 2, 3.0, long_since) == pytest.approx(4.0 * math.exp(-GAIN_MIN))
    assert moved(4.0, 2, 2.0, long_since) == 4.0


def test_the_first_steps_are_larger() -> None:
    assert moved(4.0, 1, 0.5, 0.0) == pytest.approx(4.0 * math.exp(GAIN_FIRST / 2))
    assert moved(4.0, 1, 0.5, 6.0) == pytest.approx(4.0 * math.exp(GAIN_FIRST / 4))


def test_a_storm_moves_z_no_further_than_the_bound_and_z_stays_within_its_own() -> None:
    assert moved(4.0, 500, 0.2, 1e6) == pytest.approx(4.0 * math.exp(CHANGE_MAX))
    assert moved(49.0, 500, 0.2, 1e6) == Z_MAX
    assert moved(1.01, 0, 500.0, 1e6) == Z_MIN


def test_what_was_opened_too_much_is_paid_back_over_a_week_by_a_quarter_of_the_budget_at_most() -> None:
    assert paid_back(3.5, 5.0) == pytest.approx(0.1)
    assert paid_back(-3.5, 5.0) == pytest.approx(-0.1)
    assert paid_back(35.0, 5.0) == PAID_BACK_MAX
    assert paid_back(-1.0, 0.1) == pytest.approx(-0.2)


def test_z_moves_at_the_first_record_an_hour_after_it_moved_before() -> None:
    found = budgets()

    assert lengths(found, np.arange(0, 200) * MINUTE_US / 2) == [120, 80]
    assert lengths(found, np.arange(200, 300) * MINUTE_US / 2) == [40, 60]


def test_more_incidents_than_one_an_hour_are_steered_in_shorter_steps() -> None:
    assert lengths(budgets(per_day=48.0), np.arange(0, 200) * MINUTE_US / 4) == [120, 80]


def test_a_step_holds_at_least_64_records_however_long_that_takes() -> None:
    assert lengths(budgets(), np.arange(0, 150) * 60 * MINUTE_US) == [64, 64, 22]


def test_records_that_come_late_move_nothing() -> None:
    times_us = np.arange(0, 118) * MINUTE_US / 2
    late_us = np.full(500, 30 * MINUTE_US)

    assert lengths(budgets(), np.concatenate([times_us, late_us])) == [618]


@given(st.lists(st.integers(0, 3 * 3600), min_size=1, max_size=400), st.lists(st.integers(1, 399), max_size=6))
def test_where_z_moves_does_not_depend_on_how_the_records_are_handed_in(gaps_s: list[int], cuts: list[int]) -> None:
    times_us = np.cumsum(gaps_s) * 1_000_000
    edges = sorted({0, *(cut for cut in cuts if cut < len(times_us)), len(times_us)})
    whole, cut = budgets(), budgets()

    def moves(found: Budgets, first: int, last: int) -> list[tuple[int, float | None]]:
        seen, done = [], first
        for _, slots in found.steps(observations(times_us[first:last]), np.arange(first, last)):
            seen += [(place, found.z) for place in slots.tolist()]
            done += len(slots)
        assert done == last
        return seen

    expected = moves(whole, 0, len(times_us))
    assert [one for first, last in itertools.pairwise(edges) for one in moves(cut, first, last)] == expected
    assert cut.to_bytes(P) == whole.to_bytes(P)


def test_of_warm_up_nothing_is_owed_and_of_a_gap_no_more_than_a_day() -> None:
    warm, live = budgets(), budgets()
    a_week_later_us = np.append(np.arange(0, 100) * MINUTE_US / 2, 7 * DAY_US)

    def z_after(found: Budgets, is_judged: bool) -> float:
        for part, _ in found.steps(observations(a_week_later_us), np.arange(101)):
            found.count(part, scores(np.full(len(part.records), 0.5 if is_judged else np.nan)), ())
        assert found.z is not None
        return found.z

    assert z_after(warm, is_judged=False) == 4.0
    assert z_after(live, is_judged=True) == moved(4.0, 0, 5.0 * (1 + 49.5 / 1440), 0.0)


def test_a_partition_without_a_budget_is_left_alone() -> None:
    found = budgets()

    assert [len(slots) for _, slots in found.steps(observations(np.arange(300) * MINUTE_US, OTHER), np.arange(300))] == [300]
    assert found.factors([P, OTHER]).tolist() == [1.0, 1.0]
    assert found.to_bytes(OTHER) == b""


def test_another_z_in_the_settings_takes_effect_at_once_and_another_budget_goes_on_from_where_z_stands() -> None:
    found = budgets(z=4.0)
    lengths(found, np.arange(0, 4000) * MINUTE_US)
    before = found.factors([P])[0]

    found.allow(P, 7.0, 8.0)

    assert found.factors([P])[0] == before
    assert found.z == before * 8.0


def test_a_budget_taken_away_is_forgotten() -> None:
    found = budgets()
    found.allow(P, None, 4.0)

    assert (found.z, found.to_bytes(P)) == (None, b"")


@pytest.mark.parametrize("state", [b"{", b"[]", b'{"format":1}', b'{"format":2,"per_day":5.0}', b'{"format":1,"per_day":5.0,"more":1}'])
def test_a_state_that_cannot_be_read_is_refused(state: bytes) -> None:
    with pytest.raises(CheckpointInvalid, match=r"budget of readings\[0\]"):
        Budgets().restore(P, state)


def test_a_restored_budget_goes_on_as_the_one_that_was_saved() -> None:
    saved, restored = budgets(), Budgets()
    lengths(saved, np.arange(0, 333) * MINUTE_US)
    restored.restore(P, saved.to_bytes(P))
    restored.allow(P, 5.0, 4.0)

    assert lengths(restored, np.arange(333, 700) * MINUTE_US) == lengths(saved, np.arange(333, 700) * MINUTE_US)
    assert restored.to_bytes(P) == saved.to_bytes(P)


@pytest.mark.parametrize("method", ["spot", "static", "river:anomaly.GaussianScorer"])
def test_alerts_per_day_goes_with_the_method_whose_z_it_moves(method: str) -> None:
    with pytest.raises(SettingsError, match=r"alerts_per_day moves z, which .* does not have; set method: ewma"):
        load((), (f"threshold.method={method}", "threshold.alerts_per_day=5"), {})


def test_the_partitions_that_share_the_budget_are_part_of_the_rules_only_where_there_is_one() -> None:
    asked, not_asked = load((), ("threshold.alerts_per_day=5",), {}), load((), (), {})

    assert with_live_part(not_asked, live_part(asked, 4)) == (asked, 4)
    assert with_live_part(asked, live_part(not_asked, 4)) == (not_asked, 1)
    assert live_part(not_asked, 4) == live_part(not_asked, 2)


def test_alerts_per_day_can_change_while_the_daemon_runs() -> None:
    asked, not_asked = load((), ("threshold.alerts_per_day=5",), {}), load((), (), {})

    assert restart_needed(not_asked, asked) == []
    assert take_live(not_asked, asked) == asked


def test_tune_refuses_settings_whose_z_follows_a_budget() -> None:
    with pytest.raises(InputError, match=r"--set threshold\.alerts_per_day=null"):
        refuse_budget(load((), ("threshold.alerts_per_day=5",), {}))
