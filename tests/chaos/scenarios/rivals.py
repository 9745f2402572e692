"""A second process of the same name begins while the first is at work, and a connection is cut meanwhile: the later goes on, the earlier ends."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tests.chaos.cluster import Cluster
from tests.chaos.feed import Feed
from tests.chaos.fleet import Fleet
from tests.chaos.plan import Rival
from tests.chaos.plan import rivals as plan
from tests.chaos.proxy import Api, Cut
from tests.chaos.scenarios.scenario import Scenario

_MEMBER = "one"


def inject(cluster: Cluster, fleet: Fleet, _: Feed, rivals: Sequence[Rival]) -> None:
    earlier = fleet.start(_MEMBER)
    fleet.note_recovery(time.monotonic())
    for rival in rivals:
        cut = Cut(rival.api, rival.moment)
        if rival.api is Api.INIT_PRODUCER_ID:
            cluster.proxy.arm(cut)
        later = fleet.start(_MEMBER)
        if rival.api is not Api.INIT_PRODUCER_ID:
            time.sleep(rival.cut_after_s)
            cluster.proxy.arm(cut)
        fleet.wait_for_fencing(earlier)
        fleet.note_all_move_on(time.monotonic())
        fleet.wait_for_cut(cut)
        earlier = later
    fleet.note_recovery(time.monotonic())
    fleet.crash(_MEMBER)


RIVALS = Scenario("rivals", faults=40, faults_in_slice=2, plan=plan, inject=inject, wants_own_broker=True)
