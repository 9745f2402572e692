"""Exported scores gone through twice, row group by row group: who is in them and when, then everything the report draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.domain.times import DAY_US
from anomaly_daemon.evaluation.notes import ExportNotes, notes_of
from anomaly_daemon.evaluation.report.tallies import Booleans, Calibration, Codes, Crossings, Envelope, Floats, Grown, Histogram, Integers
from anomaly_daemon.evaluation.scores import DEVIATIONS, NO_CODE, NO_TIME, Column, ScoreFile
from anomaly_daemon.settings import is_river

STRETCHES: Final = 1200
_SHORTEST_FOR_RATES_US: Final = DAY_US // 24


@dataclass(frozen=True, slots=True)
class Roll:
    """Who is in the export and when.

    names: entities by code. records, judged, anomalous: int64 [entities]; judged are those not in a silent warm-up, anomalous the judged beyond their
    threshold. highest: float64 [entities], of the judged scores, −inf without one. rejected: rows without an entity.
    first_us, last_us: event time of the earliest and latest record. has_deviations: whether any judged record has them.
    """

    names: Sequence[str]
    records: Integers
    judged: Integers
    anomalous: Integers
    highest: Floats
    rejected: int
    first_us: int
    last_us: int
    has_deviations: bool

    @property
    def days(self) -> float | None:
        """Event time from the first record to the last; None where that is too short for a rate a day to mean anything."""
        span_us = self.last_us - self.first_us
        return span_us / DAY_US if span_us >= _SHORTEST_FOR_RATES_US else None


@dataclass(frozen=True, slots=True)
class Scale:
    """What a threshold is chosen on.

    column: of the export. name: short; title: as an axis has it. grid: ascending levels. in_force: levels that the settings name. is_tail: levels are
    decades of a probability, −log10.
    """

    column: str
    name: str
    title: str
    grid: Floats
    in_force: tuple[float, ...]
    is_tail: bool = False

    def values(self, column: Floats) -> Floats:
        """A column of the export on the scale of the grid."""
        return -np.log10(np.maximum(column, np.finfo(np.float64).tiny)) if self.is_tail else column


@dataclass(frozen=True, slots=True)
class Survey:
    """Everything that is drawn of the scores.

    normal, anomalous, thresholds: of the judged records' scores and thresholds. deviations: None where the method knows none.
    all_tails, calm_tails: calibration of all judged records, and of those outside incidents.
    chosen: entity codes of the series 1… of `envelope`.
    """

    roll: Roll
    scale: Scale
    normal: Histogram
    anomalous: Histogram
    thresholds: Histogram
    deviations: Histogram | None
    all_tails: Calibration
    calm_tails: Calibration
    crossings: Crossings
    envelope: Envelope
    chosen: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Rows:
    """The scored rows of a batch. is_judged: not in a silent warm-up."""

    entity: Codes
    is_judged: Booleans
    columns: Mapping[str, Column]


def call_roll(file: ScoreFile) -> Roll:
    """The first pass. Raises InputError where no record was scored."""
    records, judged, anomalous, highest = (Grown(np.int64), Grown(np.int64), Grown(np.int64), Grown(np.float64, -np.inf))
    first_us, last_us = np.iinfo(np.int64).max, NO_TIME
    has_deviations = False
    scored = 0
    wanted = [DEVIATIONS] if DEVIATIONS in file.names else []
    for rows in _scored(file, ["timestamp", "anomaly_score", "is_anomaly", *wanted]):
        if len(rows.entity) == 0:
            continue
        entities = int(rows.entity.max()) + 1
        for counted, entity in (
            (records, rows.entity),
            (judged, rows.entity[rows.is_judged]),
            (anomalous, rows.entity[rows.is_judged & rows.columns["is_anomaly"]]),
        ):
            counted.reach(entities)
            counted.values[:entities] += np.bincount(entity, minlength=entities)
        highest.reach(entities)
        np.fmax.at(highest.values, rows.entity[rows.is_judged], rows.columns["anomaly_score"][rows.is_judged])
        times_us = rows.columns["timestamp"]
        times_us = times_us[times_us != NO_TIME]
        if len(times_us):
            first_us, last_us = min(first_us, int(times_us.min())), max(last_us, int(times_us.max()))
        has_deviations |= bool(wanted) and bool(np.isfinite(rows.columns[DEVIATIONS][rows.is_judged]).any())
        scored += len(rows.entity)
    if scored == 0 or last_us == NO_TIME:
        raise InputError(f"{file.path}: none of its {file.rows:,} records was scored: nothing to report; see the dead letters for the reasons")
    entities = len(file.words["entity"])
    for counted in (records, judged, anomalous, highest):
        counted.reach(entities)
    return Roll(
        names=file.words["entity"],
        records=records.values[:entities],
        judged=judged.values[:entities],
        anomalous=anomalous.values[:entities],
        highest=highest.values[:entities],
        rejected=file.rows - scored,
        first_us=first_us,
        last_us=last_us,
        has_deviations=has_deviations,
    )


def survey(file: ScoreFile, roll: Roll, notes: ExportNotes, chosen: Sequence[int]) -> Survey:
    """The second pass. chosen: codes of the entities whose scores are drawn apart."""
    scale = _scale(roll, notes)
    found = Survey(
        roll=roll,
        scale=scale,
        normal=Histogram(0, 1, 100),
        anomalous=Histogram(0, 1, 100),
        thresholds=Histogram(0, 1, 100),
        deviations=Histogram(-5, 15, 100) if roll.has_deviations else None,
        all_tails=Calibration(),
        calm_tails=Calibration(),
        crossings=Crossings(scale.grid),
        envelope=Envelope(roll.first_us, roll.last_us, {code: series for series, code in enumerate(chosen, start=1)}, STRETCHES),
        chosen=tuple(chosen),
    )
    wanted = [DEVIATIONS] if roll.has_deviations else []
    for rows in _scored(file, ["timestamp", "anomaly_score", "tail_probability", "threshold", "is_anomaly", "incident_id", *wanted]):
        _tally(found, rows)
    return found


def _tally(found: Survey, rows: _Rows) -> None:
    """Take a batch in."""
    columns, is_judged = rows.columns, rows.is_judged
    score, threshold, is_anomalous = columns["anomaly_score"], columns["threshold"], columns["is_anomaly"] & is_judged
    has_time = columns["timestamp"] != NO_TIME
    found.envelope.add(*(column[has_time] for column in (rows.entity, columns["timestamp"], score, threshold, is_anomalous)))
    has_score = is_judged & np.isfinite(score)
    found.normal.add(score[has_score & ~is_anomalous])
    found.anomalous.add(score[has_score & is_anomalous])
    found.thresholds.add(threshold[is_judged & np.isfinite(threshold)])
    if found.deviations is not None:
        deviations = columns[DEVIATIONS]
        found.deviations.add(deviations[is_judged & np.isfinite(deviations)])
    probability = columns["tail_probability"]
    has_tail = is_judged & np.isfinite(probability)
    is_calm = has_tail & (columns["incident_id"] == NO_CODE)
    found.all_tails.add(rows.entity[has_tail], probability[has_tail])
    found.calm_tails.add(rows.entity[is_calm], probability[is_calm])
    found.crossings.add(rows.entity[is_judged], found.scale.values(columns[found.scale.column][is_judged]))


def _scored(file: ScoreFile, columns: Sequence[str]) -> Iterator[_Rows]:
    """Batches without the rejected records."""
    judges_in_warmup = notes_of(file).judges_in_warmup
    for batch in file.batches(["entity", "phase", *columns]):
        is_scored = batch["entity"] != NO_CODE
        rows = {name: column[is_scored] for name, column in batch.items()}
        warm = file.words["phase"].index("warmup") if "warmup" in file.words["phase"] else NO_CODE
        yield _Rows(rows["entity"], judges_in_warmup | (rows["phase"] != warm), rows)


def _scale(roll: Roll, notes: ExportNotes) -> Scale:
    """Deviations where the method knows them; the probability where the settings name one; else the score itself."""
    method = notes.method()
    if roll.has_deviations:
        in_force = notes.in_force("z") if method in ("", "ewma") else ()
        return Scale(DEVIATIONS, "z", "z: deviations of the log score above its mean", np.round(np.arange(1, 12.01, 0.1), 1), in_force)
    if method in ("spot", "quantile") or (is_river(method) and "Quantile" in method):
        in_force = tuple(float(-np.log10(tail)) for tail in notes.in_force("tail") if tail > 0)
        grid = np.linspace(0, 4, 81)[:-1]
        return Scale("tail_probability", "decades", "tail probability, decades: 3 is 1e-3", grid, in_force, is_tail=True)
    in_force = notes.in_force("level") if method == "static" else ()
    return Scale("anomaly_score", "level", "level of the anomaly score", np.round(np.arange(0, 1, 0.01), 2), in_force)
