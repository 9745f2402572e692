from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from tests.chaos import plan
from tests.chaos.acts import Act, Point
from tests.chaos.proxy import Api, Moment
from tests.chaos.scenarios import growth

PLANS = (
    plan.lives,
    plan.random_kills,
    plan.cuts,
    plan.rivals,
    plan.severings,
    plan.freezes,
    plan.changes,
    plan.dynamic_changes,
    plan.outages,
    plan.falls,
    plan.clock_jumps,
    plan.silences,
    growth.plan,
)


@pytest.mark.parametrize("make", PLANS)
def test_a_seed_gives_the_same_fault_points_again_and_another_seed_others(make: Callable[[random.Random, int], Sequence[object]]) -> None:
    assert list(map(str, make(random.Random(7), 40))) == list(map(str, make(random.Random(7), 40)))
    assert list(map(str, make(random.Random(7), 40))) != list(map(str, make(random.Random(8), 40)))
    assert len(make(random.Random(7), 40)) == 40


def test_a_full_plan_holds_every_point_every_request_at_every_moment_and_every_change() -> None:
    points = {act.point for life in plan.lives(random.Random(1), 160) for act in life.acts[-1:]}
    cuts = {(cut.api, cut.moment) for cut in plan.cuts(random.Random(1), 200)}
    kinds = {change.kind for change in plan.changes(random.Random(1), 200)}
    falls = {(fall.led, fall.kind) for fall in plan.falls(random.Random(1), 16)}

    assert points == set(Point)
    assert cuts == {(api, moment) for api in Api for moment in Moment}
    assert kinds == set(plan.ChangeKind)
    assert falls == {(led, kind) for led in plan.Led for kind in plan.OutageKind}


@pytest.mark.parametrize("make", [plan.changes, plan.dynamic_changes])
def test_a_group_is_changed_only_as_it_can_be(make: Callable[[random.Random, int], Sequence[plan.Change]]) -> None:
    members: set[str] = set()
    for change in make(random.Random(3), 500):
        assert (change.member in members) != (change.kind is plan.ChangeKind.JOIN)
        members ^= {change.member} if change.kind not in (plan.ChangeKind.RESTART, plan.ChangeKind.EXPULSION) else set()
        assert 1 <= len(members) <= 4


@pytest.mark.parametrize(
    "text", ["after_produce:17:KILL", "mid_batch:3:STOP:2s", "after_commit:2:HUP", "after_poll:1:-3600s", "after_poll:3:SILENCE"]
)
def test_an_act_reads_as_it_is_written(text: str) -> None:
    assert str(Act.parse(text)) == text
