"""The README's six commands, from an untouched topic to a tuned daemon, as a person types them."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

REPOSITORY = Path(__file__).parents[2]
SIMULATE = "simulate sensors -c pumps.yaml --topic readings --duration 10d --clean-share 0.3"
QUICK = ("--set", "training.epochs=8")


def commands() -> list[list[str]]:
    text = (REPOSITORY / "README.md").read_text()
    section = text[text.index("## From an untouched topic") :]
    (block,) = re.findall(r"```sh\n(.*?)```", section, re.S)[:1]
    return [shlex.split(line, comments=True)[1:] for line in block.splitlines()]


def ask(folder: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "anomaly_daemon", *words], cwd=folder, capture_output=True, text=True, timeout=400)


def typed(folder: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    found = ask(folder, words)
    assert found.returncode == 0, f"{words}\n{found.stdout}\n{found.stderr[-3000:]}"
    return found


def incidents(export: Path) -> set[str]:
    return {one for one in pq.read_table(export, columns=["incident_id"])["incident_id"].to_pylist() if one}


@pytest.mark.slow
def test_six_commands_lead_from_an_untouched_topic_to_a_tuned_daemon(tmp_path: Path) -> None:
    six_commands_lead_to_a_tuned_daemon(tmp_path, "sqlite:///topics.db")


def six_commands_lead_to_a_tuned_daemon(tmp_path: Path, log: str) -> None:
    settings = (REPOSITORY / "configs" / "demo.yaml").read_text()
    assert "log: sqlite:///topics.db" in settings
    # A broker deletes after a week what happened a week ago, unless it is told otherwise.
    settings = settings.replace("  create_topics: true", "  retention: 3650d\n  create_topics: true")
    (tmp_path / "pumps.yaml").write_text(settings.replace("log: sqlite:///topics.db", f"log: {log}"))
    assert SIMULATE in re.sub(r"\s+", " ", (REPOSITORY / "README.md").read_text())
    typed(tmp_path, [*shlex.split(SIMULATE), "--entities", "2"])
    train, before, tune, after, diff, run = commands()

    typed(tmp_path, [*train, *QUICK])
    typed(tmp_path, before)
    promised = json.loads(typed(tmp_path, [*tune, "--format", "json"]).stdout)
    typed(tmp_path, after)
    told = typed(tmp_path, diff).stdout
    with (tmp_path / "daemon.log").open("wb") as output:
        daemon = subprocess.Popen([sys.executable, "-m", "anomaly_daemon", *run], cwd=tmp_path, stdout=output, stderr=output)
    deadline_s = time.monotonic() + 100
    while "no incident differs" not in ask(tmp_path, ["diff", "-c", "pumps.yaml", "live", "after.parquet"]).stdout:
        assert daemon.poll() is None, (tmp_path / "daemon.log").read_text()[-3000:]
        assert time.monotonic() < deadline_s, (tmp_path / "daemon.log").read_text()[-3000:]
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(60) == 0

    assert (tmp_path / "before.html").read_text().startswith("<!doctype html>")
    assert incidents(tmp_path / "before.parquet") != incidents(tmp_path / "after.parquet")
    assert {one["incident_id"] for one in promised["incidents"]} == incidents(tmp_path / "after.parquet")
    assert "threshold.z" in told
