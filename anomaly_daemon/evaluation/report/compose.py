"""What the report's template names, gathered from the survey of the scores, the incidents and the facts of the run."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from anomaly_daemon.evaluation.measures import MEASURES, Evaluation
from anomaly_daemon.evaluation.notes import ExportNotes
from anomaly_daemon.evaluation.report.facts import ReportFacts
from anomaly_daemon.evaluation.report.incidents import SEVERITIES, AlertBody, Incident, IncidentLog, Reading
from anomaly_daemon.evaluation.report.survey import Roll, Scale, Survey
from anomaly_daemon.evaluation.report.tallies import Floats, Histogram, Integers
from anomaly_daemon.evaluation.report.words import counted, percent, shortened, spelled

IN_FULL_MAX: Final = 100
LISTED_MAX: Final = 1000
ENTITIES_SHOWN_MAX: Final = 20
TIMELINE_ENTITIES_MAX: Final = 30
PANELS_MAX: Final = 4
PARTITIONS_SHOWN_MAX: Final = 50
MEASURED_ENTITIES_MAX: Final = 50
LEVELS_IN_FORCE_MAX: Final = 10
_GAP_STRETCHES: Final = 10


@dataclass(frozen=True, slots=True)
class NoisyEntity:
    """A line of the table of entities. code: None where an entity has incidents but no scored record in the export."""

    name: str
    code: int | None
    records: int
    anomalous: int
    highest: float
    incidents: int


@dataclass(frozen=True, slots=True)
class Panel:
    """A feature of an incident as it is drawn. place: in the order of the alert."""

    reading: Reading
    place: int


@dataclass(frozen=True, slots=True)
class FullIncident:
    """An incident with its strongest alert. readings: the largest contribution first; panels: those that are drawn.

    ended: what the alert that closed it says.
    """

    rank: int
    incident: Incident
    body: AlertBody
    ended: str | None
    readings: tuple[Reading, ...]
    panels: tuple[Panel, ...]


def noisiest(roll: Roll, log: IncidentLog) -> list[NoisyEntity]:
    """Entities by incidents, then by records above the threshold; at most as many as are shown, none that was never anomalous."""
    codes = {name: code for code, name in enumerate(roll.names)}
    candidates = dict.fromkeys(name for name, _ in log.by_entity.most_common(ENTITIES_SHOWN_MAX))
    loud = np.argsort(-roll.anomalous, kind="stable")[:ENTITIES_SHOWN_MAX]
    candidates.update(dict.fromkeys(roll.names[code] for code in loud.tolist() if roll.anomalous[code]))
    found = []
    for name in candidates:
        code = codes.get(name)
        numbers = (0, 0, float("nan")) if code is None else (int(roll.judged[code]), int(roll.anomalous[code]), float(roll.highest[code]))
        found.append(NoisyEntity(name, code, *numbers, log.by_entity[name]))
    return sorted(found, key=lambda one: (-one.incidents, -one.anomalous, one.name))[:ENTITIES_SHOWN_MAX]


def in_full(incidents: Sequence[Incident], bodies: Sequence[tuple[AlertBody, str | None]]) -> list[FullIncident]:
    """Each with its features in the order of their contribution."""
    full = []
    for rank, (incident, (body, ended)) in enumerate(zip(incidents, bodies, strict=True), start=1):
        places = sorted(range(len(body.features)), key=lambda place: -body.features[place].contribution)
        readings = tuple(body.features[place] for place in places)
        panels = tuple(Panel(body.features[place], place) for place in places[:PANELS_MAX] if body.window)
        full.append(FullIncident(rank, incident, body, ended, readings, panels))
    return full


def drawn_windows(full: Sequence[FullIncident]) -> list[dict[str, Any]]:
    """What the page's script draws of each incident, in their order."""
    return [
        {
            "steps_back": [point.steps_back for point in one.body.window],
            "panels": [
                {
                    "actual": [point.actual[panel.place] for point in one.body.window],
                    "reconstructed": [point.reconstructed[panel.place] for point in one.body.window],
                    "band": [panel.reading.lower, panel.reading.upper, panel.reading.expected],
                }
                for panel in one.panels
            ],
        }
        for one in full
    ]


def drawn_series(found: Survey) -> dict[str, Any]:
    """The scores over time: extremes of each stretch of event time, all entities first, then the chosen ones."""
    envelope = found.envelope
    arrays = (envelope.lowest, envelope.highest, envelope.threshold_lowest, envelope.threshold_highest, envelope.highest_anomalous)
    each = []
    for series in range(len(envelope.lowest)):
        filled = np.flatnonzero(np.isfinite(envelope.lowest[series]))
        usual = float(np.median(np.diff(filled))) if len(filled) > 1 else 1.0
        each.append({"gap": _GAP_STRETCHES * usual, "numbers": [_packed(array[series]) for array in arrays]})
    return {"start_ms": envelope.first_us / 1000, "width_ms": envelope.width_us / 1000, "each": each}


def series_names(found: Survey) -> list[str]:
    """In the order of `drawn_series`."""
    names = found.roll.names
    everyone = shortened(names[0]) if len(names) == 1 else f"all {counted(len(names))} entities"
    return [everyone, *(shortened(names[code]) for code in found.chosen)]


def run_rows(notes: ExportNotes, facts: ReportFacts) -> list[tuple[str, str]]:
    """What was run, a line a fact; what nobody noted is left out."""
    model = " ".join(part for part in (notes.model.name, notes.model.version) if part)
    rows = [
        ("range", facts.range),
        ("mode", notes.mode),
        ("detector", notes.detector_id),
        ("model", model),
        ("fingerprint of the model", notes.model.fingerprint),
        ("threshold", _threshold(notes)),
        ("log", notes.log),
        ("started from", "" if notes.started_from is None else str(notes.started_from)),
        ("evidence channels", ", ".join(notes.channels)),
        ("hash of the settings", notes.settings_hash),
        ("version of anomaly-daemon", notes.version),
        ("time taken", "" if facts.seconds is None else _took(facts)),
    ]
    return [(name, text) for name, text in rows if text]


def count_rows(facts: ReportFacts) -> list[tuple[str, str]]:
    """Where the consumed records went; the parts add up."""
    return [
        ("consumed", counted(facts.consumed)),
        ("scored", counted(facts.scored)),
        ("rejected, to the dead letters", counted(facts.dead_lettered)),
        ("dropped", counted(facts.dropped)),
    ]


def partition_rows(notes: ExportNotes) -> list[tuple[str, ...]]:
    """Partition and offsets, of as many as are shown."""
    shown = list(notes.partitions.items())[:PARTITIONS_SHOWN_MAX]
    return [(name, *("–" if offset is None else counted(offset) for offset in (one.warm_up_from, one.start, one.end))) for name, one in shown]


def calibration_rows(found: Survey) -> list[tuple[str, ...]]:
    """Nominal, observed, share, ratio, interval; and the share outside incidents."""
    calm = found.calm_tails.tabled() if found.calm_tails.records else []
    rows: list[tuple[str, ...]] = []
    for place, (level, count, share, interval) in enumerate(found.all_tails.tabled() if found.all_tails.records else []):
        between = "–" if interval is None else f"{interval[0]:.2g} to {interval[1]:.2g}"
        outside = spelled(calm[place][2]) if calm else "–"
        rows.append((f"{level:.0e}", counted(count), spelled(share), f"{share / level:.2f}", between, outside))
    return rows


def volume_rows(found: Survey) -> list[tuple[str, ...]]:
    """Records and runs above a handful of levels, in all and a day of event time."""
    records, runs, days = found.crossings.records(), found.crossings.runs(), found.roll.days
    rows: list[tuple[str, ...]] = []
    for place in _levels_shown(found.scale, records):
        rates = tuple(spelled(count / days) if days else "–" for count in (float(records[place]), float(runs[place])))
        rows.append((spelled(float(found.scale.grid[place])), counted(int(records[place])), rates[0], counted(int(runs[place])), rates[1]))
    return rows


def distribution_rows(found: Survey) -> list[tuple[str, ...]]:
    """The histograms in ten coarse bins."""
    coarse = [histogram.counts.reshape(10, -1).sum(axis=1) for histogram in (found.normal, found.anomalous, found.thresholds)]
    edges = found.normal.edges[::10]
    return [(f"{edges[place]:.1f} to {edges[place + 1]:.1f}", *(counted(int(part[place])) for part in coarse)) for place in range(10)]


def deviation_rows(histogram: Histogram) -> list[tuple[str, ...]]:
    """The histogram in whole deviations."""
    coarse = histogram.counts.reshape(20, -1).sum(axis=1)
    return [(f"{-5 + place} to {-4 + place}", counted(int(count))) for place, count in enumerate(coarse) if count]


def measure_tables(evaluation: Evaluation) -> dict[str, Any]:
    """The pooled measures with the controls beside them, each entity's verdicts, and what is to be known of both."""
    head, rows = evaluation.table()
    shown = [
        measure for measure in MEASURES if measure.name in ("vus_pr", "average_precision", "f1", "event_recall", "event_f1", "false_alarms_per_day")
    ]
    shown += [measure for measure in MEASURES if measure.name in ("delay_s_median", "events", "events_caught", "records")]
    entities = []
    for name, measures in list(evaluation.entities.items())[:MEASURED_ENTITIES_MAX]:
        values = measures.values()
        cells = [values[measure.name] for measure in shown]
        entities.append(
            (shortened(name), *("–" if cell is None else f"{cell:,.{measure.decimals}f}" for cell, measure in zip(cells, shown, strict=True)))
        )
    return {
        "head": head,
        "rows": rows,
        "entity_head": ("entity", *(measure.title for measure in shown)),
        "entity_rows": entities,
        "entities_left_out": len(evaluation.entities) - len(entities),
        "notes": evaluation.notes,
    }


def severities(log: IncidentLog) -> str:
    """How many of each, the gravest first."""
    return ", ".join(f"{log.by_severity[severity]} {severity}" for severity in SEVERITIES if log.by_severity[severity])


def plain_calibration(found: Survey) -> str:
    """One sentence on the tail that matters: where the count is still large enough to say something."""
    rows = [(level, count, share) for level, count, share, _ in found.all_tails.tabled() if count >= 20] if found.all_tails.records else []
    if not rows:
        return "Too few records lie in the tail to say how well it is calibrated."
    level, count, share = rows[-1]
    held = f"At a nominal {level:.0e} the tail holds {counted(count)} records, a share of {share:.2g}"
    if 0.9 < share / level < 1.1:
        return f"{held}: as the probability says, within a tenth."
    return f"{held}: {share / level:.2g} times what the probability says."


def rejected_rows(facts: ReportFacts) -> list[tuple[str, str, str]]:
    """Reason, records, and their share of what was consumed; the most frequent first."""
    ordered = sorted(facts.rejections.items(), key=lambda entry: (-entry[1], entry[0]))
    return [(reason, counted(count), percent(count / facts.consumed) if facts.consumed else "–") for reason, count in ordered if count]


def _levels_shown(scale: Scale, records: Integers) -> list[int]:
    """Places in the grid: a handful up to the first level with nothing above it, and the nearest to each level in force."""
    last = min(int(np.count_nonzero(records)), len(scale.grid) - 1)
    in_force = (int(np.abs(scale.grid - level).argmin()) for level in scale.in_force[:LEVELS_IN_FORCE_MAX])
    return sorted({*np.linspace(0, last, 8).round().astype(int).tolist(), *in_force})


def _threshold(notes: ExportNotes) -> str:
    """Method, and the parameter that sets how loud it is."""
    method = notes.method()
    parameter = {"ewma": "z", "spot": "tail", "quantile": "tail", "static": "level"}.get(method)
    values = notes.in_force(parameter) if parameter else ()
    if not values:
        per_day = notes.alerts_per_day()
        return method if per_day is None else f"{method}, {spelled(per_day)} alerts a day"
    others = f"; by overrides {', '.join(spelled(value) for value in values[1:6])}{' …' if len(values) > 6 else ''}" if len(values) > 1 else ""
    return f"{method}, {parameter} {spelled(values[0])}{others}"


def _took(facts: ReportFacts) -> str:
    seconds = facts.seconds or 0.0
    rate = f", {counted(round(facts.consumed / seconds))} records a second" if seconds > 0 else ""
    return f"{seconds:.1f} s{rate}"


def _packed(extremes: Floats) -> str:
    """Little-endian float32 in base64, NaN where there is none."""
    return base64.b64encode(np.where(np.isfinite(extremes), extremes, np.nan).astype("<f4").tobytes()).decode()
