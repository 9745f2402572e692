"""Partitions are added to the topic that is read; a member that joins makes the group look."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from tests.chaos.cluster import PARTITIONS, Cluster
from tests.chaos.feed import Feed
from tests.chaos.fleet import Fleet
from tests.chaos.scenarios.scenario import Scenario


def plan(dice: random.Random, count: int) -> list[int]:
    """How many partitions there are next, each time."""
    sizes = [PARTITIONS]
    for _ in range(count):
        sizes.append(sizes[-1] + dice.randint(1, 3))
    return sizes[1:]


def inject(cluster: Cluster, fleet: Fleet, feed: Feed, sizes: Sequence[int]) -> None:
    fleet.start("one")
    fleet.note_all_move_on(time.monotonic())
    for number, size in enumerate(sizes):
        with cluster.admin() as admin:
            admin.create_partitions({fleet.topic: size})
        feed.partitions = size
        fleet.start(f"new-{number}")
        fleet.note_all_move_on(time.monotonic())
    for member in fleet.members:
        fleet.crash(member)


GROWTH = Scenario("growth", faults=3, faults_in_slice=1, plan=plan, inject=inject, recovery_max_s=30.0)
