"""Scenarios from a seed to rows of the table: plan, harm, let everything be read, run unharmed, compare."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kafka.errors import KafkaError

from tests.chaos.cluster import PARTITIONS, Cluster
from tests.chaos.feed import Feed
from tests.chaos.fleet import Fleet, HarnessError
from tests.chaos.reader import read
from tests.chaos.scenarios.scenario import Alone, Scenario
from tests.chaos.verdict import Verdict, contradictions, differences, effects_of
from tests.end_to_end.harness import Site

UNHARMED_WITHIN_S = 300.0
HEADINGS = ("scenario", "seed", "faults", "records", "alerts", "verdict", "recovery p50 / max s", "may s", "took s")
# What no fault explains is a verdict too: the command that breaks the same things again is told.
_UNEXPLAINED = (AssertionError, KafkaError)


@dataclass(frozen=True, slots=True)
class Row:
    """What is told of one scenario; those that harmed one group share the verdict."""

    scenario: Scenario[Any] | Alone
    seed: int
    faults: int
    recoveries_s: Sequence[float]
    took_s: float
    verdict: Verdict

    @property
    def is_equal(self) -> bool:
        return not self.verdict.differences

    @property
    def is_quick(self) -> bool:
        """Whether every recovery took no longer than it may."""
        return max(self.recoveries_s, default=0.0) <= self.scenario.recovery_max_s

    @property
    def cells(self) -> tuple[str, ...]:
        """As text, in the order of `HEADINGS`."""
        recovery = f"{statistics.median(self.recoveries_s):.1f} / {max(self.recoveries_s):.1f}" if self.recoveries_s else "-"
        counts = (self.seed, self.faults, self.verdict.records, self.verdict.alerts)
        told = "equal" if self.is_equal else "DIFFERS"
        slow = "" if self.is_quick else " SLOW"
        return (self.scenario.name, *map(str, counts), told, recovery + slow, f"{self.scenario.recovery_max_s:g}", f"{self.took_s:.0f}")


def conduct(cluster: Cluster, scenarios: Sequence[Scenario[Any]], seed: int, *, is_slice: bool, mutant: str | None = None) -> list[Row]:
    """Harm one group in all these ways, one after the other, and leave another in peace.

    What the daemons did that no fault explains is a difference too.
    """
    topic = cluster.topic(scenarios[0].name)
    harmed = cluster.site(scenarios[0].name, topic)
    fleet, verdict = Fleet(harmed, cluster.bootstrap, mutant), Verdict()
    rows: list[Row] = []
    try:
        with Feed(cluster.bootstrap, topic, harmed.settings.input.group, PARTITIONS, seed) as feed:
            for scenario in scenarios:
                rows.append(_harm(cluster, scenario, fleet, feed, seed, verdict, is_slice=is_slice))
                if verdict.differences:
                    return rows
        try:
            fleet.finish()
            _judge(cluster, scenarios, harmed, topic, verdict)
        except _UNEXPLAINED as error:
            verdict.differences.append(_told(error))
    finally:
        fleet.close()
    return rows


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"


def _harm(cluster: Cluster, scenario: Scenario[Any], fleet: Fleet, feed: Feed, seed: int, verdict: Verdict, *, is_slice: bool) -> Row:
    began_s, known = time.monotonic(), len(fleet.recoveries_s)
    plan = scenario.plan(random.Random(f"{scenario.name} {seed}"), scenario.faults_in_slice if is_slice else scenario.faults)
    try:
        scenario.inject(cluster, fleet, feed, plan)
    except _UNEXPLAINED as error:
        verdict.differences.append(f"{scenario.name}: {_told(error)}")
    return Row(scenario, seed, len(plan), fleet.recoveries_s[known:], time.monotonic() - began_s, verdict)


def _judge(cluster: Cluster, scenarios: Sequence[Scenario[Any]], harmed: Site, topic: str, verdict: Verdict) -> None:
    unharmed = cluster.site(f"{scenarios[0].name}-unharmed", topic, "input.batch_records_max=4096", is_harmed=False)
    unharmed.run_to_end(UNHARMED_WITHIN_S)
    aside = sorted({path for scenario in scenarios for path in scenario.aside})
    mine, theirs = (effects_of(site, cluster.bootstrap, aside) for site in (harmed, unharmed))
    fed = read(cluster.bootstrap, topic)
    verdict.differences += differences(mine, theirs) + contradictions(mine, fed)
    verdict.records, verdict.alerts = len(fed), sum(map(len, theirs.alerts.values()))


def conduct_alone(cluster: Cluster, alone: Alone, seed: int) -> Row:
    """A scenario that knows by itself what is to be expected."""
    began_s = time.monotonic()
    topic = cluster.topic(alone.name)
    site = cluster.site(alone.name, topic)
    fleet = Fleet(site, cluster.bootstrap)
    feed = Feed(cluster.bootstrap, topic, fleet.group, PARTITIONS, seed)
    try:
        verdict = alone.conduct(cluster, fleet, feed, seed)
    except _UNEXPLAINED as error:
        verdict = Verdict(differences=[_told(error)])
    finally:
        fleet.close()
    return Row(alone, seed, alone.faults, fleet.recoveries_s, time.monotonic() - began_s, verdict)
