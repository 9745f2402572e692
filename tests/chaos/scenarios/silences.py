"""A partition silently stops bringing records while the others go on: noticed, named, and read on from where it stood."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from tests.chaos.acts import Act
from tests.chaos.cluster import Cluster
from tests.chaos.feed import Feed
from tests.chaos.fleet import COMMITS_WITHIN_S, Fleet, HarnessError
from tests.chaos.plan import silences as plan
from tests.chaos.scenarios.scenario import Scenario

_MEMBER, _SILENT = "one", 0


def inject(_: Cluster, fleet: Fleet, __: Feed, silences: Sequence[Act]) -> None:
    told = f"{fleet.topic}[{_SILENT}] brings nothing though it is behind its end"
    # It owns everything then, and keeps it through a restart under its name: no rebalance shall end the silence.
    fleet.start(_MEMBER)
    fleet.note_all_move_on(time.monotonic())
    for silence in silences:
        fleet.crash(_MEMBER)
        done, told_before = fleet.timeline.count(silence), fleet.site.log().count(told)
        fleet.start(_MEMBER, [silence])
        fleet.wait_for_act(silence, done)
        silent_s, stood_at = time.monotonic(), fleet.committed()
        _wait_for_others(fleet, stood_at)
        if fleet.site.log().count(told) > told_before:
            raise HarnessError(f"told before it could be known: {told}")
        fleet.note_all_move_on(silent_s)
        if fleet.site.log().count(told) == told_before:
            raise HarnessError(f"not told: {told}:\n{fleet.site.log_tail()}")
    fleet.crash(_MEMBER)


def _wait_for_others(fleet: Fleet, stood_at: Mapping[int, int]) -> None:
    def look() -> float | None:
        committed = fleet.committed()
        return 1.0 if all(committed[number] > at for number, at in stood_at.items() if number != _SILENT) else None

    fleet.wait_for(look, COMMITS_WITHIN_S, f"the other partitions stand still at {stood_at}")


# A partition is given half a minute, looked at every five seconds, and then read from a new connection.
SILENCES = Scenario("silences", faults=6, faults_in_slice=1, plan=plan, inject=inject, recovery_max_s=60.0)
