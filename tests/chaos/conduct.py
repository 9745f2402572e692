"""One scenario from its seed to its row of the table: plan, harm, let everything be read, run unharmed, compare."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.cluster import PARTITIONS, Cluster
from tests.chaos.feed import Feed
from tests.chaos.fleet import Fleet, HarnessError
from tests.chaos.reader import read_committed
from tests.chaos.scenarios.scenario import Scenario
from tests.chaos.verdict import contradictions, differences, effects_of

UNHARMED_WITHIN_S = 300.0


@dataclass(frozen=True, slots=True)
class Row:
    """What is told of one run of a scenario. differences: none where the verdict is equal."""

    scenario: str
    seed: int
    faults: int
    records: int
    alerts: int
    differences: Sequence[str]
    recoveries_s: Sequence[float]
    recovery_max_s: float
    took_s: float

    @property
    def is_equal(self) -> bool:
        return not self.differences

    @property
    def is_quick(self) -> bool:
        """Whether every recovery took no longer than it may."""
        return max(self.recoveries_s, default=0.0) <= self.recovery_max_s

    @property
    def cells(self) -> tuple[str, ...]:
        """As text, in the order of `HEADINGS`."""
        recovery = f"{statistics.median(self.recoveries_s):.1f} / {max(self.recoveries_s):.1f}" if self.recoveries_s else "-"
        verdict = "equal" if self.is_equal else "DIFFERS"
        return (
            self.scenario,
            str(self.seed),
            str(self.faults),
            str(self.records),
            str(self.alerts),
            verdict,
            recovery + ("" if self.is_quick else f" > {self.recovery_max_s:g}"),
            f"{self.took_s:.0f}",
        )


HEADINGS = ("scenario", "seed", "faults", "records", "alerts", "verdict", "recovery p50 / max s", "took s")


def conduct(cluster: Cluster, scenario: Scenario, seed: int, *, is_slice: bool, mutant: str | None = None) -> Row:
    """Harm one group, leave another in peace, compare. What the daemons did that no fault explains is a difference too."""
    began_s = time.monotonic()
    plan = scenario.plan(random.Random(f"{scenario.name} {seed}"), scenario.faults_in_slice if is_slice else scenario.faults)
    topic = cluster.topic(scenario.name)
    harmed = cluster.site(scenario.name, topic)
    fleet = Fleet(harmed, cluster.bootstrap, mutant)
    feed = Feed(cluster.bootstrap, topic, harmed.settings.input.group, PARTITIONS, seed)
    found: list[str] = []
    alerts = records = 0
    try:
        with feed:
            scenario.inject(cluster, fleet, feed, plan)
        fleet.finish()
        unharmed = cluster.site(f"{scenario.name}-unharmed", topic, "input.batch_records_max=4096", is_harmed=False)
        unharmed.run_to_end(UNHARMED_WITHIN_S)
        mine, theirs = (effects_of(site, cluster.bootstrap, scenario.aside) for site in (harmed, unharmed))
        fed = read_committed(cluster.bootstrap, topic)
        found = differences(mine, theirs) + contradictions(mine, fed)
        alerts, records = sum(map(len, theirs.alerts.values())), len(fed)
    except HarnessError as error:
        found = [str(error)]
    finally:
        fleet.close()
    return Row(scenario.name, seed, len(plan), records, alerts, found, fleet.recoveries_s, scenario.recovery_max_s, time.monotonic() - began_s)
