"""A daemon stands still in the middle of a batch, is succeeded, wakes, and would commit what is no longer its own."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess as Process
from signal import SIGCONT

from tests.chaos.cluster import Cluster
from tests.chaos.feed import Feed
from tests.chaos.fleet import DIES_WITHIN_S, Fleet, HarnessError
from tests.chaos.plan import Succession, Zombie
from tests.chaos.plan import zombies as plan
from tests.chaos.scenarios.scenario import Scenario

_MEMBER, _OTHER = "one", "two"
_FENCED = 1


def inject(_: Cluster, fleet: Fleet, __: Feed, zombies: Sequence[Zombie]) -> None:
    fleet.start(_OTHER)
    for zombie in zombies:
        done = fleet.timeline.count(zombie.freeze)
        process = fleet.start(_MEMBER, [zombie.freeze])
        fleet.wait_for_act(zombie.freeze, done)
        frozen_s = time.monotonic()
        if zombie.succession is Succession.NAMESAKE:
            fleet.start(_MEMBER)
        fleet.note_all_move_on(frozen_s)
        assert process.pid is not None
        os.kill(process.pid, SIGCONT)
        if zombie.succession is Succession.NAMESAKE:
            _wait_for_end(fleet, process)
        else:
            fleet.note_all_move_on(time.monotonic())
        fleet.crash(_MEMBER)
    fleet.crash(_OTHER)


def _wait_for_end(fleet: Fleet, process: Process) -> None:
    """A daemon whose name another one has taken says so and stops."""
    process.join(DIES_WITHIN_S)
    if process.exitcode != _FENCED:
        raise HarnessError(f"a daemon whose name was taken went on (exit code {process.exitcode}):\n{fleet.site.log_tail()}")


ZOMBIES = Scenario("zombies", faults=50, faults_in_slice=2, plan=plan, inject=inject, recovery_max_s=20.0)
