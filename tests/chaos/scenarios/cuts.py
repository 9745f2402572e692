"""The connection cut in each request of a transaction, at each moment of it: before, halfway, after, and when only the answer is missing."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tests.chaos.cluster import Cluster
from tests.chaos.feed import Feed
from tests.chaos.fleet import Fleet
from tests.chaos.plan import CutPoint
from tests.chaos.plan import cuts as plan
from tests.chaos.proxy import Api, Cut
from tests.chaos.scenarios.scenario import Scenario

_MEMBER = "one"


def inject(cluster: Cluster, fleet: Fleet, _: Feed, points: Sequence[CutPoint]) -> None:
    fleet.start(_MEMBER)
    fleet.note_recovery(time.monotonic())
    for point in points:
        cut = Cut(point.api, point.moment, point.passing)
        if point.api is Api.INIT_PRODUCER_ID:
            fleet.crash(_MEMBER)
        cluster.proxy.arm(cut)
        if point.api is Api.INIT_PRODUCER_ID:
            fleet.start(_MEMBER)
        fleet.wait_for_cut(cut)
        fleet.note_recovery(time.monotonic())
    fleet.crash(_MEMBER)


CUTS = Scenario("cuts", faults=200, faults_in_slice=10, plan=plan, inject=inject, wants_own_broker=True)
