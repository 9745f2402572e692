"""`tune`: from exported scores and a budget or labels to a settings patch, without the model."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from anomaly_daemon import wiring
from anomaly_daemon.adapters.whole_file import refuse_targets, write_whole
from anomaly_daemon.commands.incidents import PIPE_COLUMNS, printable
from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.evaluation.labels import spelled_time
from anomaly_daemon.evaluation.labels.files import read_labels
from anomaly_daemon.evaluation.tuning.figures import PartFigures
from anomaly_daemon.evaluation.tuning.incidents import FoundIncident
from anomaly_daemon.evaluation.tuning.patch import differing, patch
from anomaly_daemon.evaluation.tuning.request import parse_budget
from anomaly_daemon.evaluation.tuning.tuned import Tuned, Wish, cost_wish, event_f1, tune
from anomaly_daemon.settings import Settings, changed, format_duration, load
from anomaly_daemon.telemetry import logging


def run(options: argparse.Namespace) -> int:
    """Solve, write the patch, print."""
    settings = load(options.config, options.assignments)
    logging.configure("warning", options.log_format or settings.logging.format)
    labels = [options.labels] if options.labels is not None and not options.labels.is_dir() else []
    inputs = [options.scores, *labels, *wiring.own_files(settings, options.config)]
    refuse_targets([options.output, options.report], inputs, is_forced=options.force)
    tuned = tune(options.scores, settings, _wish(options), wiring.build_rules, options.method)
    text = patch(tuned.present, tuned.settings, reasons(tuned), _heading(options.scores, tuned))
    notes = list(tuned.notes)
    if options.output is not None:
        write_whole(options.output, text)
        notes += _overruled(options, tuned.settings)
    if options.report is not None:
        from anomaly_daemon.evaluation.report import write_trade_off

        write_trade_off(options.report, tuned, text)
    if options.format == "json":
        print(json.dumps(as_json(tuned, text, notes), ensure_ascii=False, allow_nan=False))
    else:
        _show(tuned, text, notes, options)
    return 0


def _wish(options: argparse.Namespace) -> Wish:
    """Raises InputError for what cannot be wanted."""
    if not 0.1 <= options.split <= 0.9:
        raise InputError(f"--split {options.split:g}: write a share from 0.1 to 0.9; both parts need some of the range")
    given = [name for name in ("objective", "miss_cost", "false_alarm_cost") if getattr(options, name) is not None]
    if options.budget is not None:
        if given:
            raise InputError(f"--{given[0].replace('_', '-')}: goes with --labels, not with --budget")
        budget = parse_budget(options.budget)
        return Wish(f"budget {budget.text}", options.split, budget=budget)
    if not given or given == ["objective"]:
        return Wish("best event F1", options.split, labels=read_labels(options.labels), worth=event_f1)
    if given != ["miss_cost", "false_alarm_cost"]:
        raise InputError("--miss-cost and --false-alarm-cost go together, and without --objective")
    for name in given:
        if not (math.isfinite(getattr(options, name)) and getattr(options, name) > 0):
            raise InputError(f"--{name.replace('_', '-')} {getattr(options, name):g}: write a cost above 0")
    return cost_wish(options.miss_cost, options.false_alarm_cost, read_labels(options.labels), options.split)


def reasons(tuned: Tuned) -> dict[str, str]:
    """Why each line of the patch stands there: by key, and by match of an override."""
    earlier, later = tuned.after[0], tuned.after[1]
    rate = f"{_shown(earlier.incidents_per_day)} incidents a day on the earlier part, {_shown(later.incidents_per_day)} on the later"
    if earlier.detection is not None and later.detection is not None:
        rate = f"event F1 {_shown(earlier.detection.event_f1)} on the earlier part, {_shown(later.detection.event_f1)} on the later"
    before, after = tuned.present, tuned.settings
    setting = f"threshold.{tuned.sensitivity}"
    told = {"threshold.method": f"was {before.threshold.method}; needs a restart, and learns anew from the log; for the {tuned.wish.text}: {rate}"}
    if tuned.sensitivity != "fixed":
        told[setting] = f"was {getattr(before.threshold, tuned.sensitivity):g}; for the {tuned.wish.text}: {rate}"
    was = before.incidents
    told["incidents.trigger"] = f"was {was.trigger.count} of {was.trigger.of}; closer to the {tuned.wish.text}"
    told["incidents.recovery"] = f"was {was.recovery.count} of {was.recovery.of}; closer to the {tuned.wish.text}"
    told["incidents.cooldown"] = f"was {format_duration(was.cooldown)}; closer to the {tuned.wish.text}"
    known = {override.match for override in before.overrides}
    for override in after.overrides:
        if override.match not in known:
            told[override.match] = "far louder than the others in both parts of the range, so with a sensitivity of its own"
    return told


def _heading(scores: Path, tuned: Tuned) -> list[str]:
    whole = tuned.after[2]
    return [
        f"settings patch of `anomaly-daemon tune --scores {scores}` for the {tuned.wish.text}; give it after yours: -c settings.yaml -c this.yaml",
        f"a replay of the same {whole.days:.2f} days under it {'brings' if tuned.is_exact else 'brings about'} {whole.incidents} incidents",
    ]


def as_json(tuned: Tuned, text: str, notes: Sequence[str]) -> dict[str, object]:
    """Everything, for programs."""
    return {
        "wish": tuned.wish.text,
        "changes": differing(tuned.present, tuned.settings),
        "patch": text,
        "before": None if tuned.before is None else [_figures(one) for one in tuned.before],
        "after": [_figures(one) for one in tuned.after],
        "incidents": [_incident(tuned, one) for one in tuned.incidents],
        "is_exact": tuned.is_exact,
        "methods": [{"method": one.method, "sensitivity": one.sensitivity, "after": [_figures(part) for part in one.after]} for one in tuned.methods],
        "trade_off": asdict(tuned.trade_off),
        "notes": list(notes),
    }


def _figures(one: PartFigures) -> dict[str, object]:
    return {
        "part": one.part,
        "days": one.days,
        "incidents": one.incidents,
        "incidents_per_day": one.incidents_per_day,
        "noisiest": one.noisiest,
        "noisiest_share": one.noisiest_share,
        "detection": None if one.detection is None else asdict(one.detection),
    }


def _incident(tuned: Tuned, one: FoundIncident) -> dict[str, object]:
    partition = tuned.rows.partitions[one.stream]
    return {
        "incident_id": one.incident_id,
        "entity": tuned.rows.entities[one.stream],
        "topic": partition.topic,
        "partition": partition.number,
        "first_offset": one.first_offset,
        "starts_at": spelled_time(one.opened_us),
        "closing_offset": one.closing_offset,
        "closed_at": None if one.closed_us is None else spelled_time(one.closed_us),
    }


def _show(tuned: Tuned, text: str, notes: Sequence[str], options: argparse.Namespace) -> None:
    """The table, the patch, and what else to know."""
    console = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False)
    table = Table(title=printable(f"for the {tuned.wish.text}; chosen on the earlier part"), title_justify="left")
    table.add_column("")
    for when in ("before", "after"):
        for part in ("earlier", "later", "whole"):
            table.add_column(f"{when}, {part}", justify="right")
    columns = [_cells(one) if one else {} for side in (tuned.before or [None] * 3, tuned.after) for one in side]
    for title in columns[-1]:
        table.add_row(title, *(printable(column.get(title, "–")) for column in columns))
    console.print(table)
    for one in tuned.methods:
        earlier, later = (
            f"{_shown(part.incidents_per_day)} a day" + ("" if part.detection is None else f", event F1 {_shown(part.detection.event_f1)}")
            for part in one.after[:2]
        )
        limit = "" if one.sensitivity is None else f", at {one.sensitivity:g}"
        console.print(f"method {one.method}{limit}: earlier {earlier}; later {later}")
    promised = len(tuned.incidents)
    if tuned.is_exact:
        console.print(f"A full replay under the patch brings exactly these {promised} incidents; --format json lists them.")
    for note in notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    if options.output is None:
        console.print(text, markup=False, soft_wrap=True, end="")
    else:
        console.print(f"patch        {options.output}", markup=False, soft_wrap=True)
    if options.report is not None:
        console.print(f"report       {options.report}", markup=False, soft_wrap=True)


def _noisiest(one: PartFigures) -> str:
    return "–" if one.noisiest is None else f"{''.join(c if c.isprintable() else '�' for c in one.noisiest)} {one.noisiest_share:.0%}"


def _shown(value: float | None, decimals: int = 2) -> str:
    return "–" if value is None else f"{value:,.{decimals}f}"


def _cells(one: PartFigures) -> dict[str, str]:
    """A column of the table: title → text."""
    cells = {
        "days": _shown(one.days),
        "incidents": f"{one.incidents:,}",
        "incidents per day": _shown(one.incidents_per_day),
        "noisiest entity's share": _noisiest(one),
    }
    if one.detection is not None:
        cells |= {
            "event recall": _shown(one.detection.event_recall, 3),
            "event precision": _shown(one.detection.event_precision, 3),
            "event F1": _shown(one.detection.event_f1, 3),
            "false alarms per day, of an entity": _shown(one.detection.false_alarms_per_day, 3),
            "median delay, seconds": _shown(one.detection.delay_s_median, 1),
        }
    return cells


def _overruled(options: argparse.Namespace, wanted: Settings) -> list[str]:
    """Whether something given with --set or in the environment would go before the patch."""
    merged = load([*options.config, options.output], options.assignments)
    keys = changed(merged, wanted)
    return [f"{', '.join(keys)}: given by --set or in the environment, which go before the patch; take them out there"] if keys else []
