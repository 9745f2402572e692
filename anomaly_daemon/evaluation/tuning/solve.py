"""The search: settings that meet a budget or fit labels on the earlier part of an export, and what they do on the later part.

Nothing is chosen on the later part but whether an entity keeps a sensitivity of its own. Among settings that are as good the nearest to the
present ones is taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.domain.times import DAY_US
from anomaly_daemon.evaluation.tuning import choice as choices
from anomaly_daemon.evaluation.tuning.by_labels import Part
from anomaly_daemon.evaluation.tuning.choice import Choice
from anomaly_daemon.evaluation.tuning.incidents import FoundIncident, Ruling, early_rows, incidents_under, profiles_of
from anomaly_daemon.evaluation.tuning.rows import ROWS_MAX, KeptRows, Sensitivity
from anomaly_daemon.settings import Settings

if TYPE_CHECKING:
    from anomaly_daemon.pipeline.rules import Rules

_NOISY_INCIDENTS_MIN: Final = 5  # fewer are no evidence that an entity is louder than the rest
_NOISY_RATIO: Final = 5.0  # of its incidents over the mean of the others
_PROBED_MAX: Final = 20_000  # incidents looked at to find the loud ones
_KEPT_SHARE: Final = 0.5  # of its share in the earlier part that a noisy entity must keep in the later one


class Target(Protocol):
    """What settings are chosen for. Values: higher is better; None is worse than any."""

    def opened_max(self) -> int:
        """Incidents of the earlier part beyond which a candidate is given up."""
        ...

    def best(self, trial: Trial, present: Choice) -> Choice:
        """The best choice on the earlier part, nearest to `present` among equals; its `raised` stays."""
        ...

    def value(self, incidents: Sequence[FoundIncident], entities: Sequence[str]) -> float:
        """Of a candidate, by its incidents on the earlier part."""
        ...

    def probe(self, trial: Trial, present: Choice, best: Choice) -> Choice:
        """A choice loud enough to show which entities are far louder than the rest."""
        ...

    def wanted(self, others_mean: float, entities: int) -> int:
        """Unwanted incidents that one entity may have on the earlier part; the others have `others_mean` each."""
        ...

    def worth_moving(self, value: float) -> float:
        """A value as it counts between methods, where equals leave the present one in place."""
        ...

    def is_better(self, present: Choice, choice: Choice, value: float, other: Choice, other_value: float) -> bool:
        """Whether a choice that sets more is worth it."""
        ...

    def unwanted(self, incidents: Sequence[FoundIncident], entities: Sequence[str], part: Part) -> Counter[str]:
        """Incidents of the part that one would rather not have, per entity."""
        ...


@dataclass(frozen=True, slots=True)
class Range:
    """The export, cut in two by event time. is_early: [n] kept rows of the earlier part."""

    rows: KeptRows
    split_us: int
    is_early: NDArray[np.bool_]

    @classmethod
    def of(cls, rows: KeptRows, split: float) -> Range:
        """split: share of the time that is the earlier part."""
        split_us = rows.first_us + round(split * (rows.last_us - rows.first_us))
        return cls(rows, split_us, early_rows(rows, split_us))

    def days(self, part: Part) -> float:
        """Event time of a part, in days."""
        first_us = self.split_us if part == "later" else self.rows.first_us
        last_us = self.split_us if part == "earlier" else self.rows.last_us
        return (last_us - first_us) / DAY_US

    def of_part(self, incidents: Sequence[FoundIncident], part: Part) -> list[FoundIncident]:
        """Those that open in the part."""
        if part == "whole":
            return list(incidents)
        return [one for one in incidents if (one.opened_us < self.split_us) == (part == "earlier")]


class Trial:
    """Tells the incidents of any choice."""

    def __init__(self, span: Range, settings: Settings, sensitivity: Sensitivity, rules_of: Callable[[Settings], Rules]) -> None:
        self.span, self.settings, self.sensitivity = span, settings, sensitivity
        self.grid = choices.grid(sensitivity)
        self.grid = self.grid[self.grid >= span.rows.floor]
        if not len(self.grid):
            raise InputError(
                f"more than {ROWS_MAX:,} records lie above every {sensitivity} that can be set; export a shorter range, or train the model again"
            )
        self._rules_of = rules_of
        self._profiles: dict[tuple[str, ...], NDArray[np.int64]] = {}

    def ruling(self, choice: Choice) -> Ruling:
        """The choice, ready to be held against the rows."""
        rules = self._rules_of(choices.settings_under(self.settings, choice, self.sensitivity))
        names = tuple(entity for entity, _ in choice.raised)
        if names not in self._profiles:
            self._profiles[names] = profiles_of(rules, self.span.rows)
        return Ruling.of(rules, self._profiles[names], self.sensitivity)

    def early(self, choice: Choice, opened_max: int | None = None, entity: str | None = None) -> list[FoundIncident] | None:
        """Incidents that open in the earlier part, of one entity or of all; None as soon as more than `opened_max` opened among its rows."""
        within = self.span.is_early
        if entity is not None:
            within = within & np.array([name == entity for name in self.span.rows.entities])[self.span.rows.stream]
        found = incidents_under(self.span.rows, self.ruling(choice), self.settings.detector_id, within=within, opened_max=opened_max)
        return None if found is None else self.span.of_part(found, "earlier")

    def whole(self, choice: Choice, opened_max: int | None = None) -> list[FoundIncident] | None:
        """All incidents; None as soon as there are more than `opened_max`."""
        return incidents_under(self.span.rows, self.ruling(choice), self.settings.detector_id, opened_max=opened_max)

    def loud_values(self, ratio: float) -> list[float]:
        """Sensitivities from the quietest to the loudest, each with about `ratio` times as many anomalous records in the earlier part."""
        values = np.sort(self.span.rows.value[self.span.is_early])[::-1]
        values = values[values > self.span.rows.floor]
        ranks = np.unique(np.geomspace(1, max(len(values), 1), max(2, round(np.log(max(len(values), 2)) / np.log(ratio)))).astype(np.int64))
        above = np.searchsorted(self.grid, values[ranks - 1]) if len(values) else np.zeros(0, np.int64)
        places = np.unique(np.append(np.minimum(above, len(self.grid) - 1), [0, len(self.grid) - 1]))
        return [float(self.grid[place]) for place in places[::-1]]


def solve(trial: Trial, target: Target, present: Choice) -> Choice:
    """The choice for the target; entities that are far louder than the rest in both parts get a sensitivity of their own where it helps."""
    best = target.best(trial, present)
    if trial.sensitivity == "fixed":
        return best
    probe = target.probe(trial, present, best)
    raised = tuple((entity, value) for entity in _noisy(trial, target, probe) if (value := _calm(trial, target, probe, entity)) is not None)
    if not raised:
        return best
    tuned = target.best(trial, replace(present, raised=raised))
    found, without = trial.early(tuned, target.opened_max()), trial.early(best, target.opened_max())
    if found is None:
        return best
    if without is None:
        return tuned
    entities = trial.span.rows.entities
    value, before = target.value(found, entities), target.value(without, entities)
    return tuned if target.is_better(present, tuned, value, best, before) else best


def _noisy(trial: Trial, target: Target, choice: Choice) -> list[str]:
    """Entities far louder than the rest on the earlier part whose share stays on the later one; the loudest first."""
    found = trial.whole(choice, _PROBED_MAX)
    if found is None:
        return []
    span, entities = trial.span, trial.span.rows.entities
    early, late = (target.unwanted(span.of_part(found, part), entities, part) for part in ("earlier", "later"))
    others = max(1, len(entities) - 1)
    noisy = []
    for entity, count in early.most_common(choices.OVERRIDES_MAX):
        mean = (early.total() - count) / others
        share, later_share = count / early.total(), late[entity] / max(late.total(), 1)
        if count >= _NOISY_INCIDENTS_MIN and count >= _NOISY_RATIO * mean and later_share >= _KEPT_SHARE * share and len(entities) > 1:
            noisy.append(entity)
    return noisy


def _calm(trial: Trial, target: Target, choice: Choice, entity: str) -> float | None:
    """The lowest sensitivity at which the entity is as quiet as it should be; None where there is none."""
    found, entities = trial.early(choice, _PROBED_MAX), trial.span.rows.entities
    if found is None:
        return None
    counts = target.unwanted(found, entities, "earlier")
    wanted = target.wanted((counts.total() - counts[entity]) / max(1, len(entities) - 1), len(entities))
    low, high = int(np.searchsorted(trial.grid, choice.sensitivity)), len(trial.grid) - 1

    def is_calm(place: int) -> bool:
        raised = replace(choice, raised=((entity, float(trial.grid[place])),))
        incidents = trial.early(raised, _PROBED_MAX, entity)
        return incidents is not None and target.unwanted(incidents, entities, "earlier")[entity] <= wanted

    if not is_calm(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if is_calm(middle):
            high = middle
        else:
            low = middle
    return float(trial.grid[high])
