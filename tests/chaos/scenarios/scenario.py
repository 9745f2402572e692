"""What every scenario has: fault points from a seed, which is pure, and a way to carry them out."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from tests.chaos.cluster import Cluster
from tests.chaos.feed import Feed
from tests.chaos.fleet import Fleet
from tests.chaos.verdict import Verdict

Fault = TypeVar("Fault")


@dataclass(frozen=True, slots=True)
class Scenario(Generic[Fault]):
    """Faults after which everything must be as if there had been none; others may follow in the same group.

    faults, faults_in_slice: how many of them. plan: the fault points. inject: brings them about one after the other.
    aside: fields of an alert that may differ, by dotted path. recovery_max_s: the longest that a recovery may take.
    """

    name: str
    faults: int
    faults_in_slice: int
    plan: Callable[[random.Random, int], Sequence[Fault]]
    inject: Callable[[Cluster, Fleet, Feed, Sequence[Fault]], None]
    aside: tuple[str, ...] = ()
    recovery_max_s: float = 10.0
    wants_own_broker: bool = False


@dataclass(frozen=True, slots=True)
class Alone:
    """Faults that leave a mark which is part of what is expected: with a group and a verdict of its own. conduct: takes the seed last."""

    name: str
    conduct: Callable[[Cluster, Fleet, Feed, int], Verdict]
    faults: int
    recovery_max_s: float = 10.0
