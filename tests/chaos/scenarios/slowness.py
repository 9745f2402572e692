"""A slow way to the broker: every answer takes 200 ms, a connection carries 1 MB/s; daemons are killed and join meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

from tests.chaos.cluster import Cluster
from tests.chaos.feed import Feed
from tests.chaos.fleet import Fleet
from tests.chaos.plan import Life
from tests.chaos.plan import random_kills as plan
from tests.chaos.scenarios.scenario import Scenario

_LATENCY_S, _BYTES_PER_S = 0.2, 1e6
# What comes while nobody reads takes longer than latency alone.
_RECORDS_PER_S, _AHEAD_MAX = 2_000, 10_000
_MEMBER, _OTHER = "one", "two"


def inject(cluster: Cluster, fleet: Fleet, feed: Feed, lives: Sequence[Life]) -> None:
    cluster.proxy.latency_s, cluster.proxy.bytes_per_s = _LATENCY_S, _BYTES_PER_S
    try:
        with feed.at(_RECORDS_PER_S, _AHEAD_MAX):
            fleet.start(_OTHER)
            for life in lives:
                fleet.start(_MEMBER).join(life.kill_after_s)
                fleet.note_recovery(fleet.crash(_MEMBER))
            fleet.crash(_OTHER)
    finally:
        cluster.proxy.latency_s, cluster.proxy.bytes_per_s = 0.0, None


SLOWNESS = Scenario("slowness", faults=20, faults_in_slice=1, plan=plan, inject=inject, recovery_max_s=20.0, wants_own_broker=True)
