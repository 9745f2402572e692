"""What a detector's exported scores are worth against labels: every measure per entity and pooled, with two controls beside them.

    table = read_scores(Path("scores.parquet"))
    evaluation = evaluate(table, read_labels(Path("labels.csv")))
    print(evaluation.pooled["verdicts"].values()["vus_pr"])

An entity's records are judged in the order of the log, from `Labels.judged_from` on. Pooled, the ranking measures (`ranking`) are means over the
entities that have labelled and unlabelled records; the others (`detection`) come from the counts of all entities, added up. A measure that the
records cannot tell is None, and a note says why. The columns:
    verdicts    the daemon's scores and its verdict on each record
    incidents   the same records flagged from the opening to the closing of an incident, each incident one alarm; no ranking measures
    all ones    control: every record flagged, all scores equal
    random      control: uniform scores, one record in a hundred flagged; seeded
A detector that does not clearly beat both controls on a measure has not been shown to work by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal

import numpy as np

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.evaluation.labels import Labels, check_labels, listed
from anomaly_daemon.evaluation.measures.detection import Counts, Detection, add, count, detection, incident_spans
from anomaly_daemon.evaluation.measures.ranking import WINDOW_ROWS, Booleans, Floats, Integers, Ranking, rank, without_nan
from anomaly_daemon.evaluation.scores import ScoreTable

Column = Literal["verdicts", "incidents", "all ones", "random"]
RANDOM_FLAGGED_SHARE: Final = 0.01


@dataclass(frozen=True, slots=True)
class Measure:
    """How a measure is called: `name` for programs, never changed; `title` for people. decimals: as it is shown."""

    name: str
    title: str
    decimals: int


MEASURES: Final = (
    Measure("vus_pr", "VUS-PR", 3),
    Measure("vus_roc", "VUS-ROC", 3),
    Measure("average_precision", "average precision", 3),
    Measure("best_f1_oracle", "best F1 (oracle)", 3),
    Measure("f1", "F1", 3),
    Measure("event_recall", "event recall", 3),
    Measure("event_precision", "event precision", 3),
    Measure("event_f1", "event F1", 3),
    Measure("false_alarms_per_day", "false alarms per day", 3),
    Measure("delay_rows_median", "median delay, records", 1),
    Measure("delay_s_median", "median delay, seconds", 1),
    Measure("false_alarm_rate", "false alarm rate", 3),
    Measure("missed_alarm_rate", "missed alarm rate", 3),
    Measure("events", "events", 0),
    Measure("events_caught", "events caught", 0),
    Measure("alarms", "alarms", 0),
    Measure("alarms_true", "true alarms", 0),
    Measure("records", "records judged", 0),
    Measure("records_labelled", "records labelled", 0),
    Measure("days", "days, over all entities", 2),
)


@dataclass(frozen=True, slots=True)
class Measures:
    """All measures of one entity, or pooled. ranking: None where there are not both classes, or no scores."""

    ranking: Ranking | None
    detection: Detection
    counts: Counts

    def values(self) -> dict[str, float | int | None]:
        """By the names of MEASURES, in their order."""
        ranked: dict[str, float | None] = dict.fromkeys(("vus_pr", "vus_roc", "average_precision", "best_f1_oracle"))
        if self.ranking is not None:
            found = self.ranking
            ranked = {
                "vus_pr": found.vus_pr,
                "vus_roc": found.vus_roc,
                "average_precision": found.average_precision,
                "best_f1_oracle": found.best_f1,
            }
        counts = self.counts
        return {
            **ranked,
            **asdict(self.detection),
            "events": counts.events,
            "events_caught": counts.caught,
            "alarms": counts.alarms,
            "alarms_true": counts.true_alarms,
            "records": counts.records,
            "records_labelled": counts.positives,
            "days": counts.days,
        }


@dataclass(frozen=True, slots=True)
class Evaluation:
    """pooled: per column; entities: entity → its verdicts; notes: sentences on what was left out and why."""

    pooled: Mapping[Column, Measures]
    entities: Mapping[str, Measures]
    notes: tuple[str, ...]

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Header and rows of the pooled measures, as text for a terminal; an en dash where there is none."""
        values = [measures.values() for measures in self.pooled.values()]
        rows = [(measure.title, *(_shown(column[measure.name], measure.decimals) for column in values)) for measure in MEASURES]
        return ("measure", *self.pooled), rows

    def as_json(self) -> dict[str, object]:
        """Everything, for a JSON file: pooled columns and entities by the names of MEASURES, and the notes."""
        return {
            "pooled": {name: measures.values() for name, measures in self.pooled.items()},
            "entities": {name: measures.values() for name, measures in self.entities.items()},
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class _Stream:
    """The judged records of one entity. `rows`: all of its records, `first`: the one from which they are judged. incident: [rows] or None."""

    rows: int
    first: int
    times_us: Integers
    is_event: Booleans
    score: Floats
    is_flagged: Booleans
    incident: Integers | None


def evaluate(table: ScoreTable, labels: Labels, *, window_rows: int | None = None, has_controls: bool = True, seed: int = 0) -> Evaluation:
    """All measures of all entities that the labels speak of.

    table: with the columns of `scores.MEASURED`; `incident_id` may be missing. window_rows: the widest buffer of VUS, for all entities; None takes
    each entity's period from the labels, and ranking.WINDOW_ROWS where they do not know it. Raises InputError where labels and scores do not meet.
    """
    notes = [*labels.notes, *check_labels(labels, _Times(table))]
    parts: dict[Column, list[Counts]] = {}
    rankings: dict[Column, list[Ranking]] = {}
    entities: dict[str, Measures] = {}
    skipped = []
    random = np.random.default_rng(seed)
    for entity in _judged_entities(table, labels, notes):
        stream = _stream(table, labels, entity)
        if stream is None:
            skipped.append(entity)
            continue
        window = labels.period_rows.get(entity, WINDOW_ROWS) if window_rows is None else window_rows
        for name, score, is_flagged, alarms in _columns(stream, random if has_controls else None):
            counts = count(stream.is_event, is_flagged, stream.times_us, alarms)
            ranking = None
            if score is not None and 0 < counts.positives < counts.records:
                ranking = rank(stream.is_event, score, window)
                rankings.setdefault(name, []).append(ranking)
            parts.setdefault(name, []).append(counts)
            if name == "verdicts":
                entities[entity] = Measures(ranking, detection(counts), counts)
    if not entities:
        raise InputError(f"{labels.origin}: all scored records of {listed(skipped)} were for training; score later ones too")
    pooled = {name: _pooled(found, rankings.get(name, ())) for name, found in parts.items()}
    without_period = [name for name, found in entities.items() if found.ranking and name not in labels.period_rows]
    notes += _reasons(entities, skipped, without_period if window_rows is None else ())
    return Evaluation(pooled, entities, tuple(notes))


class _Times(Mapping[str, Integers]):
    """Entity → event times of its scored records, as views."""

    def __init__(self, table: ScoreTable) -> None:
        self._table = table

    def __getitem__(self, entity: str) -> Integers:
        return self._table.column(entity, "timestamp")

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.places)

    def __len__(self) -> int:
        return len(self._table.places)


def _judged_entities(table: ScoreTable, labels: Labels, notes: list[str]) -> list[str]:
    """In the order of the labels, then of the scores; notes what becomes of entities that no label names."""
    named = [entity for entity in labels.intervals if entity in table.places]
    unnamed = [entity for entity in table.places if entity not in labels.intervals]
    if unnamed and labels.unnamed == "normal":
        notes.append(f"{labels.origin}: names no anomaly of {listed(unnamed)}: taken as normal throughout")
        return named + unnamed
    if unnamed:
        notes.append(f"{labels.origin}: says nothing of {listed(unnamed)}: not judged")
    return named


def _stream(table: ScoreTable, labels: Labels, entity: str) -> _Stream | None:
    """What is judged of an entity; None where all of it was for training."""
    times_us = table.column(entity, "timestamp")
    is_judged = times_us >= labels.judged_from.get(entity, np.iinfo(np.int64).min)
    first = int(np.argmax(is_judged))
    if not is_judged[first]:
        return None
    times_us = times_us[first:]
    return _Stream(
        rows=len(is_judged),
        first=first,
        times_us=times_us,
        is_event=labels.of_records(entity, times_us),
        score=without_nan(table.column(entity, "anomaly_score"))[first:],
        is_flagged=table.column(entity, "is_anomaly")[first:],
        incident=table.column(entity, "incident_id")[first:] if "incident_id" in table.columns and table.incident_ids else None,
    )


def _columns(stream: _Stream, random: np.random.Generator | None) -> Iterator[tuple[Column, Floats | None, Booleans, Integers | None]]:
    """Per column: scores, flags, and alarms where they are not to be grouped from the flags. The controls are drawn for all rows of the entity."""
    yield "verdicts", stream.score, stream.is_flagged, None
    if stream.incident is not None:
        yield "incidents", None, stream.incident >= 0, incident_spans(stream.incident)
    if random is not None:
        yield "all ones", np.ones(len(stream.score)), np.ones(len(stream.score), np.bool_), None
        score = random.random(stream.rows)[stream.first :]
        yield "random", score, random.random(stream.rows)[stream.first :] > 1 - RANDOM_FLAGGED_SHARE, None


def _pooled(parts: Sequence[Counts], rankings: Sequence[Ranking]) -> Measures:
    """Counts added up, rankings averaged."""
    counts = add(parts)
    mean = None
    if rankings:
        each = [(found.vus_pr, found.vus_roc, found.average_precision, found.best_f1) for found in rankings]
        vus_pr, vus_roc, average_precision, best_f1 = np.mean(each, axis=0).tolist()
        mean = Ranking(vus_pr, vus_roc, average_precision, best_f1, None)
    return Measures(mean, detection(counts), counts)


def _reasons(entities: Mapping[str, Measures], skipped: Sequence[str], without_period: Sequence[str]) -> list[str]:
    """Why some measure is missing or rests on less than all entities."""
    notes = []
    if skipped:
        notes.append(f"all scored records were for training, so not judged: {listed(skipped)}")
    counts = [found.counts for found in entities.values()]
    one_class = [name for name, found in entities.items() if found.counts.positives == found.counts.records]
    if not any(found.positives for found in counts):
        notes.append("no judged record is labelled: only false alarms can be measured; VUS, precision, recall and F1 need anomalous records")
    elif not any(found.ranking for found in entities.values()):
        notes.append("no entity has both labelled and unlabelled records: VUS, average precision and best F1 need both")
    elif one_class:
        notes.append(f"labelled throughout, so left out of VUS, average precision and best F1: {listed(one_class)}")
    if without_period:
        notes.append(f"VUS with a buffer of up to {WINDOW_ROWS} records where the labels come without readings: {listed(without_period)}")
    return notes


def _shown(value: float | None, decimals: int) -> str:
    return "–" if value is None else f"{value:,.{decimals}f}"
