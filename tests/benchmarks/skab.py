"""SKAB as a user would run it: load, train, run with export, on the embedded log; scored by the project's referee."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from anomaly_daemon.cli import main
from tests.benchmarks.measure import Measure

REPOSITORY = Path(__file__).parents[2]
SHARED = Path(os.environ.get("TEST_SHARED", REPOSITORY.parent / "shared"))
CONFIG = REPOSITORY / "configs" / "skab.yaml"
VUS_PR_GOAL = 0.91


def streams() -> list[str]:
    """The files, none where they are not at hand."""
    return sorted(str(path) for path in (SHARED / "data" / "SKAB").glob("*.csv.gz"))


def verbs(folder: Path, *assignments: str, is_trained: bool = False) -> None:
    """load, train unless a model is there, and run with an export, in a folder."""
    common = ["-c", str(CONFIG), *(word for one in assignments for word in ("--set", one))]
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        for command in (
            ["load", *common, "--topic", "skab", "--create", *streams()],
            *([] if is_trained else [["train", *common, "--rows", "400"]]),
            ["run", *common, "--until-end", "--export", "scores.parquet"],
        ):
            code = main(command)
            assert code == 0, f"{command[0]} ended with {code}"


def referee(scores: Path) -> dict[str, float]:
    """The referee's table of the detector."""
    with tempfile.NamedTemporaryFile(suffix=".json") as table:
        arguments = ["--data", str(SHARED / "data" / "SKAB"), "--scores", str(scores), "--json", table.name, "--no-controls"]
        subprocess.run([sys.executable, str(SHARED / "score" / "score.py"), *arguments], check=True, capture_output=True)
        found: dict[str, float] = json.loads(Path(table.name).read_text())["detector"]
    return found


def measure() -> list[Measure]:
    """VUS-PR over the streams at hand."""
    if not streams():
        print(f"  left out: no SKAB streams in {SHARED / 'data' / 'SKAB'}")
        return []
    with tempfile.TemporaryDirectory() as folder:
        verbs(Path(folder), "logging.level=error")
        return [Measure("skab_vus_pr", referee(Path(folder) / "scores.parquet")["VUS-PR"], VUS_PR_GOAL, "VUS-PR", "higher")]
