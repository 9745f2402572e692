"""A daemon stands still in the middle of a batch, is succeeded, wakes, and would commit what is no longer its own."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess as Process
from signal import SIGCONT

from tests.chaos.acts import Act
from tests.chaos.cluster import Cluster
from tests.chaos.feed import Feed
from tests.chaos.fleet import Fleet
from tests.chaos.plan import freezes as plan
from tests.chaos.scenarios.scenario import Scenario

_MEMBER, _OTHER = "one", "two"


def succeeded_by_others(_: Cluster, fleet: Fleet, __: Feed, freezes: Sequence[Act]) -> None:
    """The other member goes on in its place once its session has timed out; it wakes, learns of it and joins again."""
    fleet.start(_OTHER)
    for freeze in freezes:
        process = _frozen(fleet, freeze)
        frozen_s = time.monotonic()
        fleet.note_all_move_on(frozen_s)
        _wake(fleet, process, frozen_s)
        fleet.note_all_move_on(time.monotonic())
        fleet.crash(_MEMBER)
    fleet.crash(_OTHER)


def succeeded_by_namesake(_: Cluster, fleet: Fleet, __: Feed, freezes: Sequence[Act]) -> None:
    """A new process of the same name goes on at once, and no harm comes to it; the one that wakes says so and stops."""
    for freeze in freezes:
        process = _frozen(fleet, freeze)
        frozen_s = time.monotonic()
        fleet.start(_MEMBER)
        fleet.note_all_move_on(frozen_s)
        _wake(fleet, process, frozen_s)
        fleet.wait_for_fencing(process)
        fleet.crash(_MEMBER)


def _frozen(fleet: Fleet, freeze: Act) -> Process:
    done = fleet.timeline.count(freeze)
    process = fleet.start(_MEMBER, [freeze])
    fleet.wait_for_act(freeze, done)
    return process


def _wake(fleet: Fleet, process: Process, frozen_s: float) -> None:
    """Not before its session has timed out."""
    assert process.pid is not None
    time.sleep(max(0.0, frozen_s + fleet.site.settings.kafka.session_timeout + 1.0 - time.monotonic()))
    os.kill(process.pid, SIGCONT)


# The longest wait is for the broker to end the transaction of one frozen within it.
ZOMBIES = Scenario("zombies", faults=30, faults_in_slice=1, plan=plan, inject=succeeded_by_others, recovery_max_s=20.0)
NAMESAKES = Scenario("namesakes", faults=20, faults_in_slice=1, plan=plan, inject=succeeded_by_namesake)
