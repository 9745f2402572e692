"""Cards: frauds found by the product as a user would run it, beside a z-score, an isolation forest and half-space trees.

`python -m tests.benchmarks.transactions [SEED …]` simulates cards, trains on the part without frauds, replays all of it, and prints per kind of
fraud: average precision over payments, and at 100 alerts a day over the fleet the precision and recall of card-days. One rule for all detectors:
a card-day's score is its highest payment's, and each day the 100 highest card-days are alerts. Of one kind, those of the others are left out.
"""

from __future__ import annotations

import contextlib
import csv
import io
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomaly_daemon.cli import main as run_verb
from anomaly_daemon.evaluation.labels import Labels
from anomaly_daemon.evaluation.measures.ranking import precision_measures, without_nan
from anomaly_daemon.evaluation.scores import read_scores
from anomaly_daemon.model.corpus import EntitySequence
from anomaly_daemon.pipeline.decode import Decoder
from anomaly_daemon.pipeline.features import FeatureTransforms
from anomaly_daemon.pipeline.sequences import Range, SequenceReader, read_sequences
from anomaly_daemon.settings import Feature, RecordSchema, Settings, load, parse_instant_us
from anomaly_daemon.simulation.frauds import KINDS
from anomaly_daemon.wiring import open_source
from tests.benchmarks.card_controls import half_space_trees, isolation_forest, running_z
from tests.benchmarks.measure import Measure

CONFIG = Path(__file__).parents[2] / "configs" / "transactions.yaml"
CARDS, DAYS, CLEAN_DAYS, FRAUDS_PER_CARD_AND_DAY = 1000, 30, 20, 0.03
ALERTS_PER_DAY = 100
CLEAN_UNTIL = "2026-01-21T00:00:00Z"
AHEAD_GOAL = 0.1
_DAY_US = 86_400_000_000

Booleans = NDArray[np.bool_]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Payments:
    """The payments after the clean part, card after card; N rows.

    kind: [N] index into KINDS, −1 = the holder's own. card_day: [N] one number a card and day; day: [N].
    """

    kind: Integers
    card_day: Integers
    day: Integers


@dataclass(frozen=True, slots=True)
class Found:
    """average_precision over payments; precision and recall of card-days at 100 alerts a day. 0 to 1."""

    average_precision: float
    card_precision: float
    card_recall: float


def verbs(folder: Path, seed: int) -> None:
    """simulate, train and replay with an export, in a folder."""
    common = ["-c", str(CONFIG), "--set", "logging.level=error"]
    simulated = ["--entities", str(CARDS), "--duration", f"{DAYS}d", "--clean-share", str(CLEAN_DAYS / DAYS), "--seed", str(seed)]
    frauds = ["--faults-per-entity-per-day", str(FRAUDS_PER_CARD_AND_DAY), "--labels", "labels.csv"]
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        for command in (
            ["simulate", "transactions", *common, "--topic", "payments", "--create", *simulated, *frauds],
            ["train", *common, "--to", CLEAN_UNTIL],
            ["replay", *common, "--export", "scores.parquet"],
        ):
            code = run_verb(command)
            assert code == 0, f"{command[0]} ended with {code}"


def scores_by_detector(folder: Path) -> tuple[Payments, dict[str, Floats]]:
    """What happened, and what each detector says of it, in one order."""
    settings = load([CONFIG], [])
    with contextlib.chdir(folder):
        seen = _features(settings, settings.record.features)
        plain = _features(settings, (Feature(name="amount", kind="log"), Feature(name="pace", kind="elapsed")))
        table = read_scores(Path("scores.parquet"), ("timestamp", "anomaly_score"))
        kinds = _kinds(Path("labels.csv"))
    names = [sequence.entity for sequence in seen]
    times_us = np.concatenate([table.column(name, "timestamp") for name in names])
    kind = np.concatenate([_kind_of(kinds, name, table.column(name, "timestamp")) for name in names])
    card = np.repeat(np.arange(len(names)), [len(sequence.values) for sequence in seen])
    values = np.concatenate([sequence.values for sequence in seen]).astype(np.float64)
    start_us = parse_instant_us(CLEAN_UNTIL)
    is_clean = times_us < start_us
    scores = {
        "product": without_nan(np.concatenate([table.column(name, "anomaly_score") for name in names])),
        "z-score": running_z([sequence.values for sequence in plain]),
        "isolation forest": isolation_forest(values, is_clean),
        "half-space trees": half_space_trees(values, is_clean, np.argsort(times_us, kind="stable")),
    }
    day = (times_us[~is_clean] - start_us) // _DAY_US
    payments = Payments(kind[~is_clean], card[~is_clean] * DAYS + day, day)
    return payments, {name: score[~is_clean] for name, score in scores.items()}


def found(payments: Payments, score: Floats, kind: int | None = None) -> Found:
    """Of all frauds, or of one kind among the payments that are of no other."""
    is_here = np.ones(len(score), np.bool_) if kind is None else (payments.kind == kind) | (payments.kind < 0)
    score, is_fraud = score[is_here], payments.kind[is_here] >= 0
    average_precision, _, _ = precision_measures(score[is_fraud], np.sort(score))
    _, first, place = np.unique(payments.card_day[is_here], return_index=True, return_inverse=True)
    highest, is_hit = np.full(len(first), -np.inf), np.zeros(len(first), np.bool_)
    np.maximum.at(highest, place, score)
    np.logical_or.at(is_hit, place, is_fraud)
    is_alert = _alerts(payments.day[is_here][first], highest)
    true = int((is_alert & is_hit).sum())
    return Found(average_precision, true / int(is_alert.sum()), true / int(is_hit.sum()))


def measure(seed: int = 1) -> list[Measure]:
    """Average precision of the product over all frauds, and how far it is ahead of the best of the others."""
    with tempfile.TemporaryDirectory() as folder:
        verbs(Path(folder), seed)
        payments, scores = scores_by_detector(Path(folder))
    print(table(payments, scores))
    product, *others = (found(payments, score).average_precision for score in scores.values())
    return [
        Measure("cards_average_precision", product, 0.8, "AP", "higher"),
        Measure("cards_ahead_of_the_best_control", product - max(others), AHEAD_GOAL, "AP", "higher"),
    ]


def table(payments: Payments, scores: Mapping[str, Floats]) -> str:
    """A line a detector and kind of fraud."""
    lines = [f"  {'':18s}{'fraud':18s}{'card-days':>10s}{'payments':>10s}{'AP':>8s}{'card prec.':>12s}{'card recall':>12s}"]
    for kind, title in [(None, "all"), *enumerate(KINDS)]:
        is_fraud = payments.kind >= 0 if kind is None else payments.kind == kind
        size = f"{len(np.unique(payments.card_day[is_fraud])):10d}{int(is_fraud.sum()):10d}"
        for name, score in scores.items():
            one = found(payments, score, kind)
            lines.append(f"  {name:18s}{title:18s}{size}{one.average_precision:8.3f}{one.card_precision:12.3f}{one.card_recall:12.3f}")
    return "\n".join(lines)


def _features(settings: Settings, features: tuple[Feature, ...]) -> list[EntitySequence]:
    """Every card's payments as these features, by the service's own decoder and transforms, cards by name."""
    record = RecordSchema(**(settings.record.model_dump(mode="json") | {"features": [feature.model_dump(mode="json") for feature in features]}))
    with contextlib.closing(open_source(settings)) as source:
        return read_sequences(source, SequenceReader(Decoder(record), FeatureTransforms(features)), Range(), lambda _, __: None)


def _kinds(path: Path) -> list[Labels]:
    """The labels of each kind."""
    intervals: list[dict[str, list[tuple[int, int]]]] = [{} for _ in KINDS]
    with path.open(newline="") as lines:
        for row in csv.DictReader(lines):
            bounds = parse_instant_us(row["start"]), parse_instant_us(row["end"])
            intervals[KINDS.index(row["kind"])].setdefault(row["entity"], []).append(bounds)
    return [Labels({name: np.array(sorted(found)) for name, found in one.items()}, str(path)) for one in intervals]


def _kind_of(kinds: list[Labels], card: str, times_us: Integers) -> Integers:
    kind = np.full(len(times_us), -1)
    for number, labels in enumerate(kinds):
        kind[labels.of_records(card, times_us)] = number
    return kind


def _alerts(day: Integers, highest: Floats) -> Booleans:
    """Which card-days are among the highest of their day."""
    order = np.lexsort((-highest, day))
    rank = np.arange(len(day)) - np.searchsorted(day[order], day[order])
    is_alert = np.zeros(len(day), np.bool_)
    is_alert[order[rank < ALERTS_PER_DAY]] = True
    return is_alert


if __name__ == "__main__":
    for seed in map(int, sys.argv[1:] or ["1"]):
        started = time.perf_counter()
        print(f"seed {seed}:", flush=True)
        print("\n".join(one.line() for one in measure(seed)))
        print(f"  {time.perf_counter() - started:.0f} s")
