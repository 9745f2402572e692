"""A daemon is cut off from the brokers, succeeded by a process of the same name that is not, and let back: the later goes on, the earlier ends."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tests.chaos.cluster import Cluster
from tests.chaos.feed import Feed
from tests.chaos.fleet import Fleet
from tests.chaos.plan import Severing
from tests.chaos.plan import severings as plan
from tests.chaos.scenarios.scenario import Scenario

_MEMBER = "one"


def inject(cluster: Cluster, fleet: Fleet, _: Feed, severings: Sequence[Severing]) -> None:
    for severing in severings:
        started_s = time.monotonic()
        earlier = fleet.start(_MEMBER)
        fleet.note_all_move_on(started_s)
        time.sleep(severing.after_s)
        cluster.proxy.refuse()
        time.sleep(severing.succeeded_after_s)
        fleet.start(_MEMBER, bootstrap=cluster.bootstrap)
        fleet.note_all_move_on(time.monotonic())
        cluster.proxy.restore()
        fleet.wait_for_fencing(earlier)
        fleet.note_all_move_on(time.monotonic())
        fleet.crash(_MEMBER)


SEVERED = Scenario("severed", faults=20, faults_in_slice=1, plan=plan, inject=inject, wants_own_broker=True)
