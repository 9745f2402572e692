"""What settings are chosen for: a budget of incidents, or an objective on labelled records."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from anomaly_daemon.evaluation.measures.detection import Counts, Detection
from anomaly_daemon.evaluation.tuning import choice as choices
from anomaly_daemon.evaluation.tuning.by_labels import LabelledRange, Part
from anomaly_daemon.evaluation.tuning.choice import Choice
from anomaly_daemon.evaluation.tuning.incidents import FoundIncident
from anomaly_daemon.evaluation.tuning.solve import Trial

_SWEEP_RATIO: Final = 2.0  # anomalous records of one sensitivity tried over those of the one before
_Entry = tuple[float, tuple[int, float], Choice]  # the smaller, the better


@dataclass(frozen=True, slots=True)
class BudgetTarget:
    """At most so many incidents in the earlier part, and as close to that as can be."""

    allowed: int

    def opened_max(self) -> int:
        """See Target."""
        return self.allowed

    def value(self, incidents: Sequence[FoundIncident], entities: Sequence[str]) -> float:  # noqa: ARG002 - the seam's
        """See Target."""
        return float(len(incidents))

    def unwanted(self, incidents: Sequence[FoundIncident], entities: Sequence[str], part: Part) -> Counter[str]:  # noqa: ARG002 - the seam's
        """See Target."""
        return Counter(entities[one.stream] for one in incidents)

    def probe(self, trial: Trial, present: Choice, best: Choice) -> Choice:
        """See Target: the present windows, and a budget ten times as large."""
        reached = BudgetTarget(10 * self.allowed + 10)._loudest(trial, present)
        return best if reached is None else reached[1]

    def wanted(self, others_mean: float, entities: int) -> int:  # noqa: ARG002 - the seam's
        """See Target: its even share of the budget."""
        return max(1, round(self.allowed / entities))

    def worth_moving(self, value: float) -> float:
        """See Target: what is close is as good as can be."""
        return math.inf if value >= 0 and self.is_close(round(value)) else value

    def is_better(self, present: Choice, choice: Choice, value: float, other: Choice, other_value: float) -> bool:
        """See Target."""
        if self.is_close(round(value)) < self.is_close(round(other_value)):
            return False
        moved, other_moved = (replace(one, raised=present.raised).distance(present)[0] for one in (choice, other))
        return moved < other_moved or (moved == other_moved and choice.sensitivity < other.sensitivity)

    def is_close(self, count: int) -> bool:
        """Within one incident or a tenth of the budget: less is no evidence for moving more settings."""
        return self.allowed - count <= max(1, self.allowed // 10)

    def best(self, trial: Trial, present: Choice) -> Choice:
        """See Target."""
        found: list[tuple[int, Choice]] = []
        is_wide = trial.sensitivity == "fixed"
        for choice in choices.windows(present, is_wide=is_wide):
            reached = self._loudest(trial, choice)
            if reached is None:
                continue
            if self.is_close(reached[0]):
                return reached[1]
            found.append(reached)
        if found:
            return max(found, key=lambda one: (one[0], [-part for part in one[1].distance(present)]))[1]
        quietest = [replace(choice, sensitivity=float(trial.grid[-1])) for choice in choices.windows(present, is_wide=is_wide)]
        return min(quietest, key=lambda choice: len(trial.early(choice) or ()))

    def _loudest(self, trial: Trial, choice: Choice) -> tuple[int, Choice] | None:
        """The loudest sensitivity within the budget, from the quiet side, and its incidents; the present one where that is close."""

        def is_within(place: int) -> bool:
            found = trial.early(replace(choice, sensitivity=float(trial.grid[place])), self.allowed)
            if found is not None:
                counts[place] = len(found)
            return found is not None

        counts: dict[int, int] = {}
        own = trial.early(choice, self.allowed) if choice.sensitivity >= trial.span.rows.floor else None
        if own is not None and (self.is_close(len(own)) or len(trial.grid) == 1):
            return len(own), choice
        steps = [int(np.searchsorted(trial.grid, value)) for value in trial.loud_values(2.0)]
        loud = next((step for step in steps if not is_within(step)), None)
        if not counts:
            return None
        quiet = min(counts)
        while loud is not None and quiet - loud > 1:
            middle = (quiet + loud) // 2
            if is_within(middle):
                quiet = middle
            else:
                loud = middle
        # Not always the loudest: where nearly everything is anomalous, incidents run together.
        place = max(counts, key=lambda one: (counts[one], one))
        return counts[place], replace(choice, sensitivity=float(trial.grid[place]))


@dataclass(frozen=True, slots=True)
class LabelTarget:
    """The best value of an objective on the labelled records of the earlier part.

    worth: of measures and counts, higher is better. found_max: incidents beyond which nothing good is expected.
    """

    labelled: LabelledRange
    worth: Callable[[Detection, Counts], float]
    found_max: int

    def opened_max(self) -> int:
        """See Target."""
        return self.found_max

    def value(self, incidents: Sequence[FoundIncident], entities: Sequence[str]) -> float:
        """See Target."""
        measures, counts, _ = self.labelled.measured("earlier", incidents, entities)
        return self.worth(measures, counts)

    def probe(self, trial: Trial, present: Choice, best: Choice) -> Choice:  # noqa: ARG002 - the seam's
        """See Target."""
        return best

    def wanted(self, others_mean: float, entities: int) -> int:  # noqa: ARG002 - the seam's
        """See Target: no more than the others."""
        return max(1, round(others_mean))

    def worth_moving(self, value: float) -> float:
        """See Target."""
        return round(value, 9)

    def is_better(self, present: Choice, choice: Choice, value: float, other: Choice, other_value: float) -> bool:  # noqa: ARG002 - the seam's
        """See Target."""
        return value > other_value + 1e-9

    def unwanted(self, incidents: Sequence[FoundIncident], entities: Sequence[str], part: Part) -> Counter[str]:
        """See Target."""
        return Counter(self.labelled.measured(part, incidents, entities)[2])

    def best(self, trial: Trial, present: Choice) -> Choice:
        """See Target."""
        found = [entry for choice in (present, *choices.triggers(present)) for entry in self._swept(trial, present, choice)]
        best = min(found, key=_rank)[2]
        for others in (choices.recoveries, choices.cooldowns, lambda choice: _around(trial, choice)):
            best = min((self._entry(trial, present, choice) for choice in (best, *others(best))), key=_rank)[2]
        return self._nearest(trial, present, best)

    def _nearest(self, trial: Trial, present: Choice, best: Choice) -> Choice:
        """As good a choice with its sensitivity moved towards the present one, which is mostly a louder and so an earlier one."""
        value = self._entry(trial, present, best)[0]
        near, far = (int(np.searchsorted(trial.grid, choice.sensitivity)) for choice in (present, best))
        near = min(near, len(trial.grid) - 1)
        while abs(far - near) > 1:
            middle = (near + far) // 2
            choice = replace(best, sensitivity=float(trial.grid[middle]))
            if self._entry(trial, present, choice)[0] <= value:
                best, far = choice, middle
            else:
                near = middle
        return best

    def _swept(self, trial: Trial, present: Choice, choice: Choice) -> list[_Entry]:
        """Entries of the choice's windows, from the quietest sensitivity on until too much opens."""
        entries = [] if choice.sensitivity < trial.span.rows.floor else [self._entry(trial, present, choice)]
        for value in trial.loud_values(_SWEEP_RATIO):
            entries.append(self._entry(trial, present, replace(choice, sensitivity=value)))
            if np.isinf(entries[-1][0]):
                break
        return entries

    def _entry(self, trial: Trial, present: Choice, choice: Choice) -> _Entry:
        found = trial.early(choice, self.found_max)
        value = -np.inf if found is None else round(self.value(found, trial.span.rows.entities), 9)
        return -value, choice.distance(present), choice


def _rank(entry: _Entry) -> tuple[float, tuple[int, float]]:
    return entry[:2]


def _around(trial: Trial, choice: Choice) -> list[Choice]:
    """The same with sensitivities a little lower and higher."""
    place, steps = int(np.searchsorted(trial.grid, choice.sensitivity)), (-32, -8, -2, 2, 8, 32)
    places = {min(max(place + step, 0), len(trial.grid) - 1) for step in steps}
    return [replace(choice, sensitivity=float(trial.grid[one])) for one in sorted(places)]
