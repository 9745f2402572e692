"""What was to be read is gone: retention overtook the group, or the topic was deleted and made anew. Told and counted, never passed over."""

from __future__ import annotations

import json
import os
import random
import time
from dataclasses import replace
from signal import SIGCONT, SIGSTOP

from kafka import TopicPartition

from tests.chaos.cluster import PARTITIONS, Cluster
from tests.chaos.feed import Feed
from tests.chaos.fleet import Fleet
from tests.chaos.scenarios.scenario import Alone
from tests.chaos.verdict import Effects, Verdict, differences, effects_of, followed, last_offset
from tests.end_to_end.harness import Site

_MEMBER = "one"
_RECORDS = 1200
_UNHARMED_WITHIN_S = 120.0


def overtaken_while_away(cluster: Cluster, fleet: Fleet, feed: Feed, seed: int) -> Verdict:
    """The daemon has left when the oldest of what it has not read is deleted."""
    fleet.start(_MEMBER)
    feed.write(_RECORDS)
    fleet.wait_until_caught_up()
    fleet.leave(_MEMBER, is_removed=False)
    whole, earliest = _overtake(cluster, fleet, feed, seed)
    began_s = time.monotonic()
    fleet.start(_MEMBER)
    fleet.note_recovery(began_s)
    return _after_the_gap(cluster, fleet, whole, earliest)


def overtaken_while_frozen(cluster: Cluster, fleet: Fleet, feed: Feed, seed: int) -> Verdict:
    """The daemon stands still meanwhile, and wakes at a position that is no more; what was on its way to it then is not lost."""
    process = fleet.start(_MEMBER)
    feed.write(_RECORDS)
    fleet.wait_until_caught_up()
    assert process.pid is not None
    os.kill(process.pid, SIGSTOP)
    whole, earliest = _overtake(cluster, fleet, feed, seed)
    began_s = time.monotonic()
    os.kill(process.pid, SIGCONT)
    fleet.note_recovery(began_s)
    return _after_the_gap(cluster, fleet, whole, earliest)


def deleted(cluster: Cluster, fleet: Fleet, feed: Feed, seed: int) -> Verdict:
    """The topic goes while it is read; one of the same name, with other records and more of them, takes its place; then a kill -9."""
    fleet.start(_MEMBER)
    feed.write(_RECORDS)
    fleet.wait_until_caught_up()
    already = effects_of(fleet.site, cluster.bootstrap)
    with cluster.admin() as admin:
        admin.delete_topics([fleet.topic])
    fleet.wait_for_refusal(_MEMBER, f"no topic {fleet.topic}")
    cluster.create(fleet.topic)
    began_s = time.monotonic()
    fleet.start(_MEMBER)
    anew = Feed(cluster.bootstrap, fleet.topic, fleet.group, PARTITIONS, seed + 1)
    anew.write(_RECORDS // 2)
    fleet.note_recovery(began_s)
    fleet.wait_until_caught_up()
    fleet.crash(_MEMBER)
    anew.write(2 * _RECORDS)
    fleet.start(_MEMBER)
    fleet.wait_until_caught_up()
    fleet.crash(_MEMBER)
    anew.write(_RECORDS)
    fleet.finish()
    rest = effects_of(_unharmed(cluster, fleet), cluster.bootstrap)
    mine = effects_of(fleet.site, cluster.bootstrap)
    return Verdict(
        4 * _RECORDS, sum(map(len, mine.alerts.values())), differences(mine, followed(already, rest, dict.fromkeys(range(PARTITIONS), 2 * _RECORDS)))
    )


def _overtake(cluster: Cluster, fleet: Fleet, feed: Feed, seed: int) -> tuple[Effects, dict[int, int]]:
    """More records, the first of them deleted in all partitions but one: what they would have brought about, and what is retained from where.

    Without what only a record after the gap would have said of those before it: that an entity has been silent since.
    """
    dice = random.Random(f"retention {seed}")
    read = {number: at for number, at in fleet.committed().items() if number}
    before = effects_of(_unharmed(cluster, fleet), cluster.bootstrap)
    feed.write(_RECORDS)
    whole = effects_of(_unharmed(cluster, fleet), cluster.bootstrap)
    alerts = {
        lane: [one for one in told if lane[1] not in read or one in before.alerts.get(lane, ()) or last_offset(one) >= read[lane[1]]]
        for lane, told in whole.alerts.items()
    }
    whole = replace(whole, alerts={lane: told for lane, told in alerts.items() if told})
    earliest = {number: at + dice.randint(1, _RECORDS // PARTITIONS // 2) for number, at in read.items()}
    with cluster.admin() as admin:
        admin.delete_records({TopicPartition(fleet.topic, number): offset for number, offset in earliest.items()})
    return whole, earliest


def _after_the_gap(cluster: Cluster, fleet: Fleet, whole: Effects, earliest: dict[int, int]) -> Verdict:
    """Up to each gap what would have been said anyhow, after it what a group says that begins with what is retained; the gaps as they were told."""
    fleet.finish()
    rest = effects_of(_unharmed(cluster, fleet), cluster.bootstrap)
    mine = effects_of(fleet.site, cluster.bootstrap)
    gaps = {number: committed for number, committed, _, _ in _gaps_told(fleet.site)}
    found = differences(mine, followed(whole, rest, gaps))
    for number, committed, first, records in _gaps_told(fleet.site):
        if (first, records) != (earliest.get(number), first - committed):
            found.append(f"gap of partition {number}: told as {records} records from {committed} to {first}, retained from {earliest.get(number)}")
    if not gaps:
        found.append("no gap was told")
    return Verdict(2 * _RECORDS, sum(map(len, mine.alerts.values())), found)


def _gaps_told(site: Site) -> list[tuple[int, int, int, int]]:
    """Partition number, the offset committed, the first that is retained, and how many records are gone."""
    lines = [json.loads(line) for line in site.log().splitlines() if "records_lost_to_retention" in line]
    return [(int(line["partition"].rpartition("[")[2][:-1]), line["committed"], line["earliest"], line["records"]) for line in lines]


def _unharmed(cluster: Cluster, fleet: Fleet) -> Site:
    site = cluster.site("unharmed", fleet.topic, "input.batch_records_max=4096", is_harmed=False)
    site.run_to_end(_UNHARMED_WITHIN_S)
    return site


OVERTAKEN_WHILE_AWAY = Alone("overtaken-away", overtaken_while_away, faults=1)
OVERTAKEN_WHILE_FROZEN = Alone("overtaken-frozen", overtaken_while_frozen, faults=1)
DELETED = Alone("deleted", deleted, faults=3, recovery_max_s=30.0)
