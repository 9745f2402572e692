"""What can be broken, by name."""

from __future__ import annotations

from tests.chaos.scenarios.cuts import CUTS
from tests.chaos.scenarios.kills import KILLS
from tests.chaos.scenarios.rebalances import REBALANCES
from tests.chaos.scenarios.scenario import Scenario
from tests.chaos.scenarios.zombies import ZOMBIES

SCENARIOS: dict[str, Scenario] = {scenario.name: scenario for scenario in (KILLS, CUTS, REBALANCES, ZOMBIES)}
