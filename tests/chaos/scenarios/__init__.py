"""What can be broken, by name."""

from __future__ import annotations

from typing import Any

from tests.chaos.scenarios.clocks import CLOCKS
from tests.chaos.scenarios.cuts import CUTS
from tests.chaos.scenarios.growth import GROWTH
from tests.chaos.scenarios.kills import KILLS
from tests.chaos.scenarios.leaders import LEADERS
from tests.chaos.scenarios.loss import DELETED, OVERTAKEN_WHILE_AWAY, OVERTAKEN_WHILE_FROZEN
from tests.chaos.scenarios.outages import OUTAGES
from tests.chaos.scenarios.rebalances import DYNAMIC, REBALANCES
from tests.chaos.scenarios.rivals import RIVALS
from tests.chaos.scenarios.scenario import Alone, Scenario
from tests.chaos.scenarios.severed import SEVERED
from tests.chaos.scenarios.silences import SILENCES
from tests.chaos.scenarios.slowness import SLOWNESS
from tests.chaos.scenarios.zombies import NAMESAKES, ZOMBIES

# In a slice these share one group, in this order.
SHARING: tuple[Scenario[Any], ...] = (
    KILLS,
    CUTS,
    REBALANCES,
    DYNAMIC,
    ZOMBIES,
    NAMESAKES,
    RIVALS,
    SEVERED,
    OUTAGES,
    SLOWNESS,
    CLOCKS,
    SILENCES,
    GROWTH,
)
# On several brokers, one of which is harmed at a time.
REPLICATED: tuple[Scenario[Any], ...] = (LEADERS,)
ALONE: tuple[Alone, ...] = (OVERTAKEN_WHILE_AWAY, OVERTAKEN_WHILE_FROZEN, DELETED)
