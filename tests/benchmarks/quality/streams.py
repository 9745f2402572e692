"""A labelled set as the product's verbs take it: copies of its streams without labels, trained on and replayed."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from anomaly_daemon.cli import main
from anomaly_daemon.evaluation.labels.files import read_labels
from anomaly_daemon.evaluation.measures import MEASURES, evaluate
from anomaly_daemon.evaluation.scores import read_scores

CONFIGS = Path(__file__).parents[3] / "configs" / "benchmarks"
_TRUTH = ("label", "changepoint")


def copy_streams(data: Path, folder: Path, wanted: Sequence[str] = (), *, is_normal: bool = False) -> dict[str, int]:
    """`train/` and `all/` under the folder: each stream's training rows and all of its rows, labels left out, the entity as a column.

    wanted: entities, all if none. is_normal: the first half of the training rows, and all of them, instead.
    Returns how many rows of each stream are trained on.
    """
    trained = {}
    for entity in json.loads((data / "dataset.json").read_text())["entities"]:
        if wanted and entity["entity"] not in wanted:
            continue
        stream = pd.read_csv(data / f"{entity['entity']}.csv.gz", dtype=str, keep_default_na=False)
        stream = stream.drop(columns=[name for name in _TRUTH if name in stream])
        stream.insert(0, "entity", entity["entity"])
        trained[entity["entity"]] = entity["train_rows"] // 2 if is_normal else entity["train_rows"]
        for part, rows in (("train", trained[entity["entity"]]), ("all", entity["train_rows"] if is_normal else len(stream))):
            path = folder / part / f"{entity['entity'].replace('/', '--')}.csv"
            path.parent.mkdir(exist_ok=True)
            stream.iloc[:rows].to_csv(path, index=False)
    return trained


def train(config: Path, folder: Path, assignments: Sequence[str]) -> None:
    """The artifact of the training rows, in the folder."""
    _run("train", config, folder, assignments, "--source", f"file://{folder}/train/*.csv")


def judge(config: Path, folder: Path, export: Path, assignments: Sequence[str]) -> int:
    """Scores of every row, into `export`; returns how many."""
    alerts = folder / "alerts.jsonl"
    _run("replay", config, folder, assignments, "--source", f"file://{folder}/all/*.csv", "--export", str(export), "--alerts", str(alerts), "--force")
    return int(read_scores(export).bounds[-1])


def measured(export: Path, data: Path) -> dict[str, dict[str, float | None]]:
    """The product's measures of the scores, pooled, with the controls beside them."""
    evaluation = evaluate(read_scores(export), read_labels(data))
    rows = {"detector": "verdicts", "incidents": "incidents", "all ones": "all ones", "random": "random"}
    return {tag: {one.title: evaluation.pooled[column].values()[one.name] for one in MEASURES} for tag, column in rows.items()}


def _run(verb: str, config: Path, folder: Path, assignments: Sequence[str], *arguments: str) -> None:
    given = [f"model.artifact={folder}/model", "logging.level=error", *assignments]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = main([verb, "-c", str(config), *arguments, *(word for one in given for word in ("--set", one))])
    assert code == 0, f"{verb} ended with {code}: {said.getvalue()}"
