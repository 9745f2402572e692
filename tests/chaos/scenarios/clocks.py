"""The wall clock of a daemon jumps by an hour, ahead and back, while it works; then it is killed."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tests.chaos.acts import Act
from tests.chaos.cluster import Cluster
from tests.chaos.feed import Feed
from tests.chaos.fleet import Fleet
from tests.chaos.plan import clock_jumps as plan
from tests.chaos.scenarios.scenario import Scenario

_MEMBER = "one"


def inject(_: Cluster, fleet: Fleet, __: Feed, jumps: Sequence[Act]) -> None:
    for jump in jumps:
        done = fleet.timeline.count(jump)
        fleet.start(_MEMBER, [jump])
        fleet.wait_for_act(jump, done)
        fleet.note_all_move_on(time.monotonic())
        fleet.crash(_MEMBER)


CLOCKS = Scenario("clocks", faults=12, faults_in_slice=1, plan=plan, inject=inject)
