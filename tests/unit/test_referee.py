"""Every measure equals the referee's, a script that stands beside this repository, or in TEST_SHARED."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomaly_daemon.evaluation.labels.files import read_labels
from anomaly_daemon.evaluation.measures import Evaluation, evaluate
from anomaly_daemon.evaluation.scores import read_scores
from tests.benchmarks.skab import SHARED
from tests.score_cases import write_scores

REFEREE = SHARED / "score" / "score.py"
PUBLIC_SETS = ("SKAB", "SMD", "NAB", "ASD", "MSL", "SMAP", "GECCO")
# Its name, ours, and its unit over ours.
PAIRS = (
    ("VUS-PR", "vus_pr", 1),
    ("VUS-ROC", "vus_roc", 1),
    ("AP", "average_precision", 1),
    ("best F1*", "best_f1_oracle", 1),
    ("F1", "f1", 1),
    ("event recall", "event_recall", 1),
    ("event precision", "event_precision", 1),
    ("event F1", "event_f1", 1),
    ("false alarms per day", "false_alarms_per_day", 1),
    ("median delay rows", "delay_rows_median", 1),
    ("FAR %", "false_alarm_rate", 100),
    ("MAR %", "missed_alarm_rate", 100),
)

pytestmark = pytest.mark.skipif(not REFEREE.is_file(), reason=f"no {REFEREE}: the measures are not compared with its figures; set TEST_SHARED")


@cache
def referee() -> Any:
    spec = importlib.util.spec_from_file_location("referee", REFEREE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def figures(folder: Path, scores: Path) -> dict[str, dict[str, float | None]]:
    """The referee's tables of an export and of both controls, made as its command makes them."""
    frames = referee().read_scores(scores)
    judged = {name: (frame["anomaly_score"].to_numpy(float), frame["is_anomaly"].to_numpy(bool)) for name, frame in frames.items()}
    names = [stream["entity"] for stream in json.loads((folder / "dataset.json").read_text())["entities"]]
    random = np.random.default_rng(0)
    return {
        "verdicts": referee().evaluate(folder, judged),
        "all ones": referee().evaluate(folder, dict.fromkeys(names, lambda rows: (np.ones(rows), np.ones(rows, np.bool_)))),
        "random": referee().evaluate(folder, dict.fromkeys(names, lambda rows: (random.random(rows), random.random(rows) > 0.99))),
    }


def assert_equal(evaluation: Evaluation, expected: Mapping[str, Mapping[str, float | None]]) -> None:
    for column, table in expected.items():
        values: Mapping[str, float | None] = evaluation.pooled[column].values()  # type: ignore[index]
        for theirs, ours, scale in PAIRS:
            value, figure = values[ours], table[theirs]
            assert (value is None) == (figure is None), f"{column}: {theirs}"
            if value is not None:
                assert value * scale == pytest.approx(figure, rel=0, abs=1e-9), f"{column}: {theirs}"


def write_set(folder: Path, streams: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray, int]]) -> None:
    """A labelled set in the referee's layout: entity → times, readings, labels, rows for training."""
    for entity, (times, readings, labels, _) in streams.items():
        path = folder / f"{entity}.csv.gz"
        path.parent.mkdir(exist_ok=True)
        lines = [f"{time},{reading:.6f},{label}\n" for time, reading, label in zip(times, readings, labels, strict=True)]
        path.write_bytes(gzip.compress("".join(["timestamp,flow,label\n", *lines]).encode()))
    described = [{"entity": entity, "train_rows": train} for entity, (_, _, _, train) in streams.items()]
    (folder / "dataset.json").write_text(json.dumps({"name": "made up", "entities": described}))


def export(path: Path, folder: Path, seed: int) -> Path:
    """Scores of a set that know something of its labels, with ties and gaps in them; the entities interleaved by time."""
    random = np.random.default_rng(seed)
    parts = []
    for number, stream in enumerate(json.loads((folder / "dataset.json").read_text())["entities"]):
        with gzip.open(folder / f"{stream['entity']}.csv.gz", "rt", newline="") as file:
            rows = [(row["timestamp"], row["label"] == "1") for row in csv.DictReader(file)]
        score = random.random(len(rows)) + 0.4 * (np.array([label for _, label in rows]) & (random.random(len(rows)) > 0.6))
        score = np.round(score, 1) if number % 3 == 1 else score
        score[random.random(len(rows)) < (0.05 if number % 2 else 0)] = np.nan
        parts.append(
            {
                "entity": np.full(len(rows), stream["entity"], object),
                "timestamp": np.array([time for time, _ in rows], "datetime64[us]").astype(np.int64),
                "anomaly_score": score,
                "is_anomaly": np.nan_to_num(score) > (1.1 if number % 4 else 2),
            }
        )
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(columns["timestamp"], kind="stable")
    return write_scores(path, {name: column[order] for name, column in columns.items()}, group_rows=10_000)


@pytest.mark.parametrize("seed", range(4))
def test_every_measure_equals_the_referees_on_a_set_of_odd_cases(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = 700
    minutes = np.datetime64("2024-01-01") + np.arange(rows) * np.timedelta64(1, "m")
    doubled = np.sort(np.append(minutes[2:], minutes[100:102]))
    wave = np.sin(np.arange(rows) / 5) + 0.1 * random.standard_normal(rows)

    def labelled(*events: tuple[int, int]) -> np.ndarray:
        labels = np.zeros(rows, np.int64)
        for first, last in events:
            labels[first : last + 1] = 1
        return labels

    streams = {
        "both/ends": (minutes, wave, labelled((0, 4), (rows - 3, rows - 1)), 0),
        "training-cuts-an-event": (minutes, wave, labelled((195, 230)), 200),
        "never-anomalous": (minutes, wave, labelled(), 50),
        "crowded": (minutes, np.ones(rows), labelled(*((start, start + 2) for start in range(60, 400, 7))), 10),
        "mostly-anomalous": (minutes, wave, 1 - labelled((300, 340), (500, 500)), 100),
        "times-twice": (doubled, wave, labelled((300, 310)), 40),
        "labelled-only-for-training": (minutes, wave, labelled((10, 20)), 100),
    }
    write_set(tmp_path, streams)
    scores = export(tmp_path / "scores.parquet", tmp_path, seed)

    # Only the described files are the set's: the export beside them is no stream.
    assert_equal(evaluate(read_scores(scores), read_labels(tmp_path)), figures(tmp_path, scores))


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLIC_SETS)
def test_every_measure_equals_the_referees_on_a_public_set(tmp_path: Path, name: str) -> None:
    folder = SHARED / "data" / name
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set TEST_SHARED: the measures are not compared on {name}")
    scores = export(tmp_path / "scores.parquet", folder, 0)

    assert_equal(evaluate(read_scores(scores), read_labels(folder)), figures(folder, scores))
