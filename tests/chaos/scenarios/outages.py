"""The broker dies and comes back, stands still, is away for long; two daemons wait for it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tests.chaos.cluster import Cluster
from tests.chaos.feed import Feed
from tests.chaos.fleet import Fleet
from tests.chaos.plan import Outage, OutageKind
from tests.chaos.plan import outages as plan
from tests.chaos.scenarios.scenario import Scenario


def inject(cluster: Cluster, fleet: Fleet, _: Feed, outages: Sequence[Outage]) -> None:
    for member in ("one", "two"):
        fleet.start(member)
    fleet.note_all_move_on(time.monotonic())
    for outage in outages:
        if outage.kind is OutageKind.FROZEN:
            cluster.broker.freeze()
        else:
            cluster.broker.kill()
        time.sleep(outage.lasts_s)
        cluster.broker.revive()
        fleet.note_recovery(time.monotonic())
        fleet.note_all_move_on(time.monotonic())
    for member in fleet.members:
        fleet.crash(member)


# In full three are those asked for by name: frozen for a minute, away for ten, killed and started again at once.
OUTAGES = Scenario("outages", faults=8, faults_in_slice=2, plan=plan, inject=inject, recovery_max_s=30.0, wants_own_broker=True)
