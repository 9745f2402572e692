"""One of three brokers dies or stands still, and what it led goes to another: partitions, the group, the transactions of a member."""

from __future__ import annotations

import time
from collections.abc import Sequence

from kafka.errors import KafkaError

from tests.chaos.cluster import Cluster
from tests.chaos.feed import Feed
from tests.chaos.fleet import Fleet
from tests.chaos.plan import Fall, Led, OutageKind
from tests.chaos.plan import falls as plan
from tests.chaos.scenarios.scenario import Scenario
from tests.kafka.broker import COORDINATED_PARTITIONS, Broker

_MEMBERS = ("one", "two")
_IN_SYNC_WITHIN_S = 120.0
# Once it is back; without it, see below.
_GOES_ON_WITHIN_S = 30.0
# One that stood still says at first what was in sync before.
_LEARNS_WITHIN_S = 3.0


def inject(cluster: Cluster, fleet: Fleet, _: Feed, falls: Sequence[Fall]) -> None:
    for member in _MEMBERS:
        fleet.start(member)
    fleet.note_all_move_on(time.monotonic())
    for fall in falls:
        # One copy may be missing, not two.
        fleet.wait_for(lambda: _in_sync_s(cluster), _IN_SYNC_WITHIN_S, "some copy stays behind")
        broker = _leader(cluster, fleet, fall.led)
        began_s = time.monotonic()
        if fall.kind is OutageKind.FROZEN:
            broker.freeze()
        else:
            broker.kill()
        fleet.note_all_move_on(began_s)
        time.sleep(max(0.0, fall.lasts_s - (time.monotonic() - began_s)))
        broker.revive()
        fleet.note_all_move_on(time.monotonic(), _GOES_ON_WITHIN_S)
        time.sleep(_LEARNS_WITHIN_S)
    for member in fleet.members:
        fleet.crash(member)


def _leader(cluster: Cluster, fleet: Fleet, led: Led) -> Broker:
    topic, partition = {
        Led.INPUT: (fleet.topic, 0),
        Led.ALERTS: (fleet.site.settings.output.alerts_topic, 0),
        Led.GROUP: ("__consumer_offsets", _java_hash(fleet.group) % COORDINATED_PARTITIONS),
        Led.TRANSACTIONS: ("__transaction_state", _java_hash(f"{fleet.group}-{_MEMBERS[0]}") % COORDINATED_PARTITIONS),
    }[led]
    with cluster.admin() as admin:
        (told,) = admin.describe_topics([topic])
    return cluster.brokers[next(one["leader_id"] for one in told["partitions"] if one["partition_index"] == partition) - 1]


def _java_hash(text: str) -> int:
    """As the broker takes it of a group or transactional id: String.hashCode without its sign."""
    found = 0
    for character in text:
        found = (31 * found + ord(character)) & 0xFFFFFFFF
    return (found if found < 1 << 31 else found - (1 << 32)) & 0x7FFFFFFF


def _in_sync_s(cluster: Cluster) -> float | None:
    """Now, where every partition of every topic has all its copies in sync."""
    try:
        with cluster.admin() as admin:
            partitions = [partition for topic in admin.describe_topics() for partition in topic["partitions"]]
    except KafkaError:
        return None
    is_whole = all(len(one["isr_nodes"]) == len(cluster.brokers) for one in partitions)
    return time.monotonic() if partitions and is_whole else None


# A broker is missed after nine seconds; who waits for its answer meanwhile does so for ten more, and then connects anew.
LEADERS = Scenario("leaders", faults=16, faults_in_slice=2, plan=plan, inject=inject, recovery_max_s=60.0)
