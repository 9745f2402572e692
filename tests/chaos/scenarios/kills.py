"""kill -9 of the daemon at random and at every named point: 160 lives of one daemon, each ended before its time."""

from __future__ import annotations

from collections.abc import Sequence
from signal import SIGHUP

import yaml

from tests.chaos.cluster import Cluster
from tests.chaos.feed import Feed
from tests.chaos.fleet import Fleet
from tests.chaos.plan import Life, lives
from tests.chaos.scenarios.scenario import Scenario

_MEMBER = "one"


def inject(_: Cluster, fleet: Fleet, __: Feed, plan: Sequence[Life]) -> None:
    died_s: float | None = None
    for number, life in enumerate(plan):
        options = _reload_options(fleet, number) if any(act.signal is SIGHUP for act in life.acts) else ()
        process = fleet.start(_MEMBER, life.acts, *options)
        if life.kill_after_s is None:
            now_s = fleet.wait_for_death(_MEMBER)
        else:
            process.join(life.kill_after_s)
            now_s = fleet.crash(_MEMBER)
        if died_s is not None and (at_s := fleet.timeline.first_commit(died_s)) is not None:
            fleet.recoveries_s.append(at_s - died_s)
        died_s = now_s
    fleet.start(_MEMBER)
    if died_s is not None:
        fleet.note_recovery(died_s)
    fleet.crash(_MEMBER)


def _reload_options(fleet: Fleet, number: int) -> tuple[str, ...]:
    """Settings that a reload takes over and that change no judgement: `threshold.level` is not of the method at work."""
    current, fresh = fleet.site.folder / "settings.yaml", fleet.site.folder / "fresh.yaml"
    tree = yaml.safe_load(current.read_text())
    fresh.write_text(yaml.safe_dump(tree | {"threshold": {"level": 0.5 + number % 2 / 10 + number / 10_000}}))
    return ("--settings-file", str(current), "--reload-from", str(fresh))


KILLS = Scenario(
    "kills",
    faults=160,
    faults_in_slice=10,
    plan=lives,
    inject=inject,
    aside=("settings_hash", "threshold.version"),
)
