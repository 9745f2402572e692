"""What every scenario has: a plan, which is pure, and a way to carry it out."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.chaos.cluster import Cluster
from tests.chaos.feed import Feed
from tests.chaos.fleet import Fleet


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing that breaks.

    faults, faults_in_slice: how many of them. plan: the fault points of a seed. inject: breaks one after the other.
    aside: fields of an alert that may differ. recovery_max_s: the longest that may take.
    """

    name: str
    faults: int
    faults_in_slice: int
    plan: Callable[[random.Random, int], Sequence[object]]
    inject: Callable[[Cluster, Fleet, Feed, Sequence[object]], None]
    aside: tuple[str, ...] = ()
    recovery_max_s: float = 10.0
