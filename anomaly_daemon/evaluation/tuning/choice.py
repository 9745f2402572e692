"""What `tune` may choose among: sensitivities, windows, cooldowns and entities of their own; and the settings under a choice."""

from __future__ import annotations

import glob
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anomaly_daemon.domain.entity import EntityMatcher, Profiles
from anomaly_daemon.evaluation.tuning.incidents import FIXED_SENSITIVITY
from anomaly_daemon.evaluation.tuning.rows import Sensitivity
from anomaly_daemon.settings import Override, Settings, Window

OVERRIDES_MAX: Final = 10  # entities that get a sensitivity of their own
_TRIGGERS: Final = ((1, 1), (2, 3), (3, 5), (5, 8), (8, 12))
_RECOVERIES: Final = ((5, 5), (10, 10), (20, 20))
_COOLDOWNS_S: Final = (0.0, 600.0, 3600.0, 21_600.0)
_FLOORS: Final[dict[Sensitivity, float]] = {"z": 2.0, "level": 0.5}


@dataclass(frozen=True, slots=True)
class Choice:
    """One candidate. sensitivity: z or level of whoever has none of their own; raised: entity → its own, in the order found."""

    sensitivity: float
    trigger: Window
    recovery: Window
    cooldown_s: float
    raised: tuple[tuple[str, float], ...] = ()

    @classmethod
    def present(cls, settings: Settings, sensitivity: Sensitivity) -> Choice:
        """What the settings say now."""
        rules = settings.incidents
        limit = FIXED_SENSITIVITY if sensitivity == "fixed" else float(getattr(settings.threshold, sensitivity))
        return cls(limit, rules.trigger, rules.recovery, rules.cooldown)

    def distance(self, other: Choice) -> tuple[int, float]:
        """How many settings differ, then by how much the sensitivity does."""
        windows = (self.trigger != other.trigger, self.recovery != other.recovery, self.cooldown_s != other.cooldown_s)
        return sum(windows) + len(set(self.raised) ^ set(other.raised)), abs(math.log(self.sensitivity / other.sensitivity))


def sensitivity_of(method: str) -> Sensitivity:
    """Which setting decides on the verdicts of an export of this method, without the model; fixed where none does."""
    known: dict[str, Sensitivity] = {"ewma": "z", "static": "level"}
    return known.get(method, "fixed")


def grid(sensitivity: Sensitivity) -> NDArray[np.float64]:
    """The values tried, ascending: z in hundredths, levels a hundredth of their odds apart, all as short as they are written."""
    if sensitivity == "z":
        return np.round(np.arange(1, 5001) / 100, 2)
    if sensitivity == "level":
        odds = np.geomspace(0.05, 1e4, 1226)
        return np.unique(np.round(odds / (1 + odds), 5))
    return np.array([FIXED_SENSITIVITY])


def lowest(settings: Settings, sensitivity: Sensitivity) -> float:
    """The floor under everything tried: no value that is in force now lies below it."""
    if sensitivity == "fixed":
        return 0.0
    own = (override.threshold[sensitivity] for override in settings.overrides if sensitivity in override.threshold)
    return min(_FLOORS[sensitivity], float(getattr(settings.threshold, sensitivity)), *own)


def followers(settings: Settings) -> int:
    """How many records after an anomalous one any recovery window tried looks at."""
    own = (settings.incidents.overridden(override.incidents).recovery.of for override in settings.overrides)
    return max(settings.incidents.recovery.of, *(of for _, of in _RECOVERIES), *own)


def windows(present: Choice, *, is_wide: bool) -> Iterator[Choice]:
    """The present windows and cooldown, then those that differ from them in one, or where `is_wide` in any number; the nearest first."""
    yield present
    if not is_wide:
        yield from triggers(present)
        yield from recoveries(present)
        yield from cooldowns(present)
        return
    every = (
        third
        for first in (present, *triggers(present))
        for second in (first, *recoveries(first))
        for third in (second, *cooldowns(second))
        if third != present
    )
    yield from sorted(every, key=lambda choice: choice.distance(present))


def triggers(choice: Choice) -> Iterator[Choice]:
    """The choice with every other trigger window."""
    found = (Window(count=count, of=of) for count, of in _TRIGGERS)
    yield from (replace(choice, trigger=window) for window in found if window != choice.trigger)


def recoveries(choice: Choice) -> Iterator[Choice]:
    """The choice with every other recovery window."""
    found = (Window(count=count, of=of) for count, of in _RECOVERIES)
    yield from (replace(choice, recovery=window) for window in found if window != choice.recovery)


def cooldowns(choice: Choice) -> Iterator[Choice]:
    """The choice with every other cooldown."""
    yield from (replace(choice, cooldown_s=seconds) for seconds in _COOLDOWNS_S if seconds != choice.cooldown_s)


def settings_under(settings: Settings, choice: Choice, sensitivity: Sensitivity) -> Settings:
    """The user's settings with the choice in them."""
    rules = settings.incidents.model_copy(update={"trigger": choice.trigger, "recovery": choice.recovery, "cooldown": choice.cooldown_s})
    changes: dict[str, object] = {"incidents": rules}
    if sensitivity != "fixed":
        changes["threshold"] = settings.threshold.model_copy(update={sensitivity: choice.sensitivity})
        changes["overrides"] = _overrides(settings, choice, sensitivity)
    return settings.model_copy(update=changes)


def _overrides(settings: Settings, choice: Choice, sensitivity: Sensitivity) -> tuple[Override, ...]:
    """The user's own, in order, with one for each raised entity before the one that would have fitted it, whose other keys it keeps."""
    found = list(settings.overrides)
    for entity, limit in choice.raised:
        match = glob.escape(entity)
        place = Profiles([EntityMatcher(override.match) for override in found]).index(entity) - 1
        if place < 0:
            found.append(Override(match=match, threshold={sensitivity: limit}))
            continue
        fitting = found[place]
        own = Override(match=match, threshold={**fitting.threshold, sensitivity: limit}, incidents=fitting.incidents)
        found[place : place + (fitting.match == match)] = [own]
    return tuple(found)
