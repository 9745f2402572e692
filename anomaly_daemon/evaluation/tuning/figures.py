"""What a choice comes to: figures of both parts before and after, the trade-off, and what the evidence is too thin for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from anomaly_daemon.evaluation.measures.detection import Counts, Detection
from anomaly_daemon.evaluation.tuning.by_labels import PARTS, LabelledRange, Part
from anomaly_daemon.evaluation.tuning.choice import Choice
from anomaly_daemon.evaluation.tuning.incidents import FoundIncident
from anomaly_daemon.evaluation.tuning.solve import Range, Trial

DAYS_MIN: Final = 3.0
INCIDENTS_MIN: Final = 10
EVENTS_MIN: Final = 5
_POINTS: Final = 10
_POINT_RATIO: Final = 10  # incidents of a point over those of the choice, beyond which it is too loud to show
_POINT_INCIDENTS_MIN: Final = 200


@dataclass(frozen=True, slots=True)
class PartFigures:
    """Of the incidents that open in a part. noisiest: the entity with most, None without any; its share 0 to 1. detection: with labels only."""

    part: Part
    days: float
    incidents: int
    noisiest: str | None
    noisiest_share: float
    detection: Detection | None
    counts: Counts | None

    @property
    def incidents_per_day(self) -> float | None:
        """None where the part has no length."""
        return self.incidents / self.days if self.days > 0 else None


@dataclass(frozen=True, slots=True)
class TradeOffPoint:
    """Over the whole range at one sensitivity; recall and precision by event, with labels only."""

    sensitivity: float
    incidents_per_day: float
    event_recall: float | None
    event_precision: float | None


@dataclass(frozen=True, slots=True)
class TradeOff:
    """How loud the detector is at each sensitivity, windows and cooldown as chosen. setting: `threshold.z` or `threshold.level`.

    points: by rising sensitivity. budget_per_day: None with labels.
    """

    setting: str
    points: tuple[TradeOffPoint, ...]
    present: float
    chosen: float
    budget_per_day: float | None


def figures(span: Range, incidents: Sequence[FoundIncident], labelled: LabelledRange | None) -> tuple[PartFigures, ...]:
    """Of each part, in the order of PARTS."""
    return tuple(_of_part(span, part, incidents, labelled) for part in PARTS)


def _of_part(span: Range, part: Part, incidents: Sequence[FoundIncident], labelled: LabelledRange | None) -> PartFigures:
    own, entities = span.of_part(incidents, part), span.rows.entities
    counts_by_entity = Counter(entities[one.stream] for one in own)
    measures, counts = (None, None) if labelled is None else labelled.measured(part, incidents, entities)[:2]
    name = min(counts_by_entity, key=lambda entity: (-counts_by_entity[entity], entity), default=None)
    share = counts_by_entity[name] / len(own) if name is not None else 0.0
    return PartFigures(part, span.days(part), len(own), name, share, measures, counts)


def trade_off(trial: Trial, present: Choice, chosen: Choice, labelled: LabelledRange | None, budget_per_day: float | None) -> TradeOff:
    """Points from a third quieter than the choice and the present value to a third louder; one that is too loud to show ends it."""
    days = trial.span.days("whole")
    low, high = (bound(present.sensitivity, chosen.sensitivity) for bound in (min, max))
    if trial.sensitivity == "level":
        low, high = low / (1 - low), high / (1 - high)
    wanted = np.geomspace(low / 1.5, high * 1.5, _POINTS)
    if trial.sensitivity == "level":
        wanted = wanted / (1 + wanted)
    places = np.unique(np.minimum(np.searchsorted(trial.grid, wanted), len(trial.grid) - 1))
    values = sorted({*trial.grid[places].tolist(), chosen.sensitivity}, reverse=True)
    own = trial.whole(chosen)
    loudest = max(_POINT_INCIDENTS_MIN, _POINT_RATIO * len(own or ()))
    points = []
    for value in values if trial.sensitivity != "fixed" and days > 0 else ():
        found = trial.whole(replace(chosen, sensitivity=value), loudest)
        if found is None:
            break
        measures = None if labelled is None else labelled.measured("whole", found, trial.span.rows.entities)[0]
        recall, precision = (None, None) if measures is None else (measures.event_recall, measures.event_precision)
        points.append(TradeOffPoint(value, len(found) / days, recall, precision))
    return TradeOff(f"threshold.{trial.sensitivity}", tuple(reversed(points)), present.sensitivity, chosen.sensitivity, budget_per_day)


def thin_evidence(after: Sequence[PartFigures]) -> list[str]:
    """Sentences on what is too little to rely on, with the numbers."""
    notes = []
    for one in after[:2]:
        if one.days < DAYS_MIN:
            notes.append(
                f"the {one.part} part covers {one.days:.2f} days: with fewer than {DAYS_MIN:g} a rate per day says little; export a longer range"
            )
        if one.counts is None and one.incidents < INCIDENTS_MIN:
            notes.append(
                f"the {one.part} part holds {one.incidents} incidents: fewer than {INCIDENTS_MIN} are a matter of chance; export a longer range"
            )
        if one.counts is not None and one.counts.events < EVENTS_MIN:
            notes.append(f"the {one.part} part holds {one.counts.events} labelled events: fewer than {EVENTS_MIN} are a matter of chance; label more")
    return notes
