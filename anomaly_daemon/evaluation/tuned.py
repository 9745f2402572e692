"""One tuning from end to end: an export, the present settings and what is wanted → other settings, and what they do."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from anomaly_daemon.evaluation import tuning_choice as choices
from anomaly_daemon.evaluation import tuning_request as request
from anomaly_daemon.evaluation.detection import Counts, Detection
from anomaly_daemon.evaluation.labels import Labels
from anomaly_daemon.evaluation.report.facts import notes_of
from anomaly_daemon.evaluation.scores import ScoreFile, read_scores
from anomaly_daemon.evaluation.tuning import Range, Target, Trial, solve
from anomaly_daemon.evaluation.tuning_choice import Choice
from anomaly_daemon.evaluation.tuning_figures import PartFigures, TradeOff, figures, thin_evidence, trade_off
from anomaly_daemon.evaluation.tuning_incidents import FoundIncident
from anomaly_daemon.evaluation.tuning_labels import LabelledRange, labelled_range
from anomaly_daemon.evaluation.tuning_request import Budget
from anomaly_daemon.evaluation.tuning_rows import KeptRows, keep_rows
from anomaly_daemon.evaluation.tuning_targets import BudgetTarget, LabelTarget
from anomaly_daemon.settings import Settings

if TYPE_CHECKING:
    from anomaly_daemon.pipeline.process import Rules

_FOUND_MIN: Final = 200  # incidents of the earlier part that are always looked at
_FOUND_PER_EVENT: Final = 5.0  # beyond them and so many an event a candidate is given up: too few of them could be true
_FOUND_PER_EVENT_MAX: Final = 100.0
_PRESENT_MAX: Final = 200_000  # incidents of the present settings that are still counted


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted: a budget, or labels with what an outcome is worth. split: share of the time that is chosen on.

    worth: of measures and counts, higher is better. text: the wish in words. found_per_event: incidents an event beyond which all is lost.
    """

    text: str
    split: float
    budget: Budget | None = None
    labels: Labels | None = None
    worth: Callable[[Detection, Counts], float] | None = None
    found_per_event: float = _FOUND_PER_EVENT


@dataclass(frozen=True, slots=True)
class Tuned:
    """What came out, over the whole range. before: None where the present settings are too loud to be counted.

    raised: entity → the sensitivity of its own that it gets. incidents: under `settings`, by opening time; by them a replay is measured.
    notes: sentences for the user. is_exact: whether a full replay under `settings` gives just these incidents.
    """

    present: Settings
    settings: Settings
    sensitivity: str
    raised: tuple[tuple[str, float], ...]
    before: tuple[PartFigures, ...] | None
    after: tuple[PartFigures, ...]
    incidents: Sequence[FoundIncident]
    rows: KeptRows
    trade_off: TradeOff
    notes: tuple[str, ...]
    is_exact: bool
    wish: Wish


def event_f1(measures: Detection, counts: Counts) -> float:  # noqa: ARG001 - the seam's
    """The default objective."""
    return measures.event_f1 or 0.0


def cost_wish(miss: float, false_alarm: float, labels: Labels, split: float) -> Wish:
    """The least cost of events missed and of false alarms."""

    def worth(_: Detection, counts: Counts) -> float:
        return -(miss * (counts.events - counts.caught) + false_alarm * (counts.alarms - counts.true_alarms))

    text = f"least cost, {miss:g} a miss and {false_alarm:g} a false alarm"
    # More false alarms than that an event cost more than silence would.
    per_event = min(_FOUND_PER_EVENT_MAX, _FOUND_PER_EVENT + miss / false_alarm)
    return Wish(text, split, labels=labels, worth=worth, found_per_event=per_event)


def tune(path: Path, settings: Settings, wish: Wish, rules_of: Callable[[Settings], Rules]) -> Tuned:
    """Search the export at `path`. Raises InputError where it cannot answer."""
    sensitivity = choices.sensitivity_of(settings.threshold.method)
    with ScoreFile(path) as file:
        notes = notes_of(file)
        request.refuse_contradiction(path, request.exported_settings(path, notes), settings)
        floor, ttl_us = choices.lowest(settings, sensitivity), int(settings.engine.entity_ttl * 1e6)
        rows = keep_rows(file, sensitivity, floor, choices.followers(settings), ttl_us)
    span = Range.of(rows, wish.split)
    trial = Trial(span, settings, sensitivity, rules_of)
    present = Choice.present(settings, sensitivity)
    target, labelled = _target(path, span, wish)
    chosen = solve(trial, target, present)
    incidents = trial.whole(chosen)
    assert incidents is not None
    incidents.sort(key=lambda one: (one.opened_us, one.incident_id))
    is_counted = min(present.sensitivity, *trial.ruling(present).limits.tolist()) >= rows.floor
    now = trial.whole(present, _PRESENT_MAX) if is_counted else None
    before = None if now is None else figures(span, now, labelled)
    after = figures(span, incidents, labelled)
    budget_per_day = None if wish.budget is None else wish.budget.over_all(_entities(rows))
    curve = trade_off(trial, present, chosen, labelled, budget_per_day)
    inexact = request.inexact(notes, rows, settings)
    told = [*inexact, *_notes(settings, trial, floor, chosen, target, before), *thin_evidence(after), *(labelled.notes if labelled else ())]
    under = choices.settings_under(settings, chosen, sensitivity)
    return Tuned(settings, under, sensitivity, chosen.raised, before, after, incidents, rows, curve, tuple(told), not inexact, wish)


def _target(path: Path, span: Range, wish: Wish) -> tuple[Target, LabelledRange | None]:
    if wish.budget is not None:
        return BudgetTarget(math.floor(wish.budget.over_all(_entities(span.rows)) * span.days("earlier") + 1e-9)), None
    assert wish.labels is not None
    repeated = [entity for entity, streams in Counter(span.rows.entities).items() if streams > 1]
    labelled = labelled_range(read_scores(path, ("timestamp",)), wish.labels, span.split_us, repeated)
    events = sum(stretch.silent.events for stretch in labelled.stretches["earlier"].values())
    return LabelTarget(labelled, wish.worth or event_f1, _FOUND_MIN + round(wish.found_per_event * events)), labelled


def _entities(rows: KeptRows) -> int:
    return len(set(rows.entities))


def _notes(settings: Settings, trial: Trial, floor: float, chosen: Choice, target: Target, before: Sequence[PartFigures] | None) -> list[str]:
    """What the user should know of the search itself."""
    notes, kept = [], trial.span.rows.floor
    if trial.sensitivity == "fixed":
        notes.append(
            f"threshold.method {settings.threshold.method}: its sensitivity cannot be tuned from an export, only windows and cooldown were; "
            "export scores of method ewma or static to tune that too"
        )
    if kept > floor:
        notes.append(f"too many records deviate to look at all: only values of threshold.{trial.sensitivity} from {kept:.4g} on were tried")
    if before is None:
        notes.append("the present settings bring more incidents than could be counted: no figures before")
    if isinstance(target, BudgetTarget) and not target.allowed:
        notes.append("the budget allows no incident in the earlier part: it is too short for so small a budget, so the quietest settings were taken")
    if trial.sensitivity != "fixed" and chosen.sensitivity <= trial.grid[0]:
        notes.append(f"threshold.{trial.sensitivity} stands at the lowest value tried, {chosen.sensitivity:g}: the budget is not used up even there")
    return notes
