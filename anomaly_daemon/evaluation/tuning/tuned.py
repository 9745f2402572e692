"""One tuning from end to end: an export, the present settings and what is wanted → other settings, and what they do."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from anomaly_daemon.evaluation.labels import Labels
from anomaly_daemon.evaluation.measures.detection import Counts, Detection
from anomaly_daemon.evaluation.notes import ExportNotes, notes_of
from anomaly_daemon.evaluation.scores import ScoreFile, read_scores
from anomaly_daemon.evaluation.tuning import choice as choices
from anomaly_daemon.evaluation.tuning import methods, request
from anomaly_daemon.evaluation.tuning.by_labels import LabelledRange, labelled_range
from anomaly_daemon.evaluation.tuning.choice import Choice
from anomaly_daemon.evaluation.tuning.figures import PartFigures, TradeOff, figures, thin_evidence, trade_off
from anomaly_daemon.evaluation.tuning.incidents import FoundIncident
from anomaly_daemon.evaluation.tuning.request import Budget
from anomaly_daemon.evaluation.tuning.rows import KeptRows, keep_rows
from anomaly_daemon.evaluation.tuning.solve import Range, Target, Trial, solve
from anomaly_daemon.evaluation.tuning.targets import BudgetTarget, LabelTarget
from anomaly_daemon.settings import Settings

if TYPE_CHECKING:
    from anomaly_daemon.pipeline.rules import Rules

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
class MethodFigures:
    """What a method's best choice comes to. sensitivity: None where the method's is not tuned."""

    method: str
    sensitivity: float | None
    after: tuple[PartFigures, ...]


@dataclass(frozen=True, slots=True)
class Tuned:
    """What came out, over the whole range. before: None where the present settings are too loud to be counted.

    raised: entity → the sensitivity of its own that it gets. incidents: under `settings`, by opening time; by them a replay is measured.
    methods: where several were compared, each with its own best choice, the present one first. notes: sentences for the user.
    is_exact: whether a full replay under `settings` gives just these incidents.
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
    methods: tuple[MethodFigures, ...] = ()


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


@dataclass(frozen=True, slots=True)
class _Solved:
    """The search under one method."""

    settings: Settings
    trial: Trial
    chosen: Choice
    target: Target
    value: float

    def after(self, labelled: LabelledRange | None) -> tuple[list[FoundIncident], tuple[PartFigures, ...]]:
        """The incidents of the choice by opening time, and their figures."""
        incidents = self.trial.whole(self.chosen)
        assert incidents is not None
        incidents.sort(key=lambda one: (one.opened_us, one.incident_id))
        return incidents, figures(self.trial.span, incidents, labelled)

    def figures(self, labelled: LabelledRange | None) -> MethodFigures:
        """The choice beside those of other methods."""
        sensitivity = None if self.trial.sensitivity == "fixed" else self.chosen.sensitivity
        return MethodFigures(self.settings.threshold.method, sensitivity, self.after(labelled)[1])


def tune(path: Path, settings: Settings, wish: Wish, rules_of: Callable[[Settings], Rules], method: str | None = None) -> Tuned:
    """Search the export at `path`. method: another one to compare with the present one, or `all`. Raises InputError where it cannot answer."""
    request.refuse_budget(settings)
    sensitivity = choices.sensitivity_of(settings.threshold.method)
    with ScoreFile(path) as file:
        notes = notes_of(file)
        request.refuse_contradiction(path, request.exported_settings(path, notes), settings)
        if others := methods.compared(method, settings.threshold.method):
            methods.check_rejudgeable(file, notes)
        floor, ttl_us = choices.lowest(settings, sensitivity), int(settings.engine.entity_ttl * 1e6)
        rows = keep_rows(file, sensitivity, floor, choices.followers(settings), ttl_us)
    labelled = _labelled(path, rows, wish)
    solved = [_solved(rows, settings, wish, labelled, rules_of)]
    for name in others:
        under = methods.under(settings, name)
        with ScoreFile(path) as file:
            solved.append(_solved(methods.rejudge(file, notes, under, rules_of(under)), under, wish, labelled, rules_of))
    # The present method stands first: it stays unless another is better.
    best = max(solved, key=lambda one: one.target.worth_moving(one.value))
    return _told(solved, best, notes, wish, labelled)


def _solved(rows: KeptRows, settings: Settings, wish: Wish, labelled: LabelledRange | None, rules_of: Callable[[Settings], Rules]) -> _Solved:
    sensitivity = choices.sensitivity_of(settings.threshold.method)
    trial = Trial(Range.of(rows, wish.split), settings, sensitivity, rules_of)
    target = _target(trial.span, wish, labelled)
    chosen = solve(trial, target, Choice.present(settings, sensitivity))
    found = trial.early(chosen, target.opened_max())
    return _Solved(settings, trial, chosen, target, -math.inf if found is None else target.value(found, rows.entities))


def _told(solved: Sequence[_Solved], best: _Solved, notes: ExportNotes, wish: Wish, labelled: LabelledRange | None) -> Tuned:
    """Everything about the best one, with the present settings beside it."""
    own, trial, rows = solved[0], best.trial, best.trial.span.rows
    now = _present(own)
    before = None if now is None else figures(own.trial.span, now, labelled)
    incidents, after = best.after(labelled)
    sensitivity = trial.sensitivity
    budget_per_day = None if wish.budget is None else wish.budget.over_all(_entities(rows))
    curve = trade_off(trial, Choice.present(best.settings, sensitivity), best.chosen, labelled, budget_per_day)
    inexact = request.inexact(notes, rows, best.settings)
    if float(trial.ruling(best.chosen).limits.min()) < rows.floor:
        inexact.append(
            f"an override's threshold.{sensitivity} lies below {rows.floor:.4g}, the least looked at: a replay brings more of its entities"
        )
    inexact += request.lasting(best.settings, [*(now or ()), *incidents], int(rows.time_us.max(initial=0)))
    later = after[1].incidents_per_day
    over = []
    if budget_per_day is not None and later is not None and later > 1.1 * budget_per_day:
        over.append(
            f"the later part comes to {later:.2f} incidents a day, over the budget of {budget_per_day:g}: it holds more than what was chosen on"
        )
    told = [*inexact, *_notes(best, before), *over, *thin_evidence(after), *(labelled.notes if labelled else ())]
    compared = tuple(one.figures(labelled) for one in solved) if len(solved) > 1 else ()
    return Tuned(
        present=own.settings,
        settings=choices.settings_under(best.settings, best.chosen, sensitivity),
        sensitivity=sensitivity,
        raised=best.chosen.raised,
        before=before,
        after=after,
        incidents=incidents,
        rows=rows,
        trade_off=curve,
        notes=tuple(told),
        is_exact=not inexact,
        wish=wish,
        methods=compared,
    )


def _present(own: _Solved) -> list[FoundIncident] | None:
    """Incidents under the settings as they are; None where they are too many, or of deviations too small to have been kept."""
    present = Choice.present(own.settings, own.trial.sensitivity)
    if float(own.trial.ruling(present).limits.min()) < own.trial.span.rows.floor:
        return None
    return own.trial.whole(present, _PRESENT_MAX)


def _labelled(path: Path, rows: KeptRows, wish: Wish) -> LabelledRange | None:
    if wish.labels is None:
        return None
    repeated = [entity for entity, streams in Counter(rows.entities).items() if streams > 1]
    return labelled_range(read_scores(path, ("timestamp",)), wish.labels, Range.of(rows, wish.split).split_us, repeated)


def _target(span: Range, wish: Wish, labelled: LabelledRange | None) -> Target:
    if wish.budget is not None:
        return BudgetTarget(math.floor(wish.budget.over_all(_entities(span.rows)) * span.days("earlier") + 1e-9))
    assert labelled is not None
    events = sum(stretch.silent.events for stretch in labelled.stretches["earlier"].values())
    return LabelTarget(labelled, wish.worth or event_f1, _FOUND_MIN + round(wish.found_per_event * events))


def _entities(rows: KeptRows) -> int:
    return len(set(rows.entities))


def _notes(best: _Solved, before: Sequence[PartFigures] | None) -> list[str]:
    """What the user should know of the search itself."""
    settings, trial, chosen, target = best.settings, best.trial, best.chosen, best.target
    notes, kept, floor = [], trial.span.rows.floor, choices.lowest(settings, trial.sensitivity)
    if trial.sensitivity == "fixed":
        notes.append(
            f"threshold.method {settings.threshold.method}: its sensitivity cannot be tuned from an export, only windows and cooldown were; "
            "export scores of method ewma or static to tune that too"
        )
    if kept > floor:
        notes.append(f"too many records deviate to look at all: only values of threshold.{trial.sensitivity} from {kept:.4g} on were tried")
    if before is None:
        notes.append("the present settings bring more incidents than could be counted: no figures before")
    if isinstance(target, BudgetTarget) and math.isinf(best.value):
        notes.append("the budget is not met: of all settings tried those with the fewest incidents were taken; allow more, or train the model anew")
    if isinstance(target, BudgetTarget) and not target.allowed:
        notes.append("the budget allows no incident in the earlier part: it is too short for so small a budget, so the quietest settings were taken")
    if trial.sensitivity != "fixed" and chosen.sensitivity <= trial.grid[0]:
        notes.append(f"threshold.{trial.sensitivity} stands at the lowest value tried, {chosen.sensitivity:g}: the budget is not used up even there")
    return notes
