"""What `run` makes of signals, from its first moment to its last, and of an export that is interrupted or cannot be."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.end_to_end.harness import Site, make_site
from tests.small import stream

AWAY = "kafka://127.0.0.1:1"
DEADLINE_S = 60.0


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path, f"sqlite:///{tmp_path}/topics.db", stream(1, 4, 400))


@contextmanager
def started(site: Site, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`run` as a person starts it, its output in the site's log."""
    assignments = [word for one in site.assignments for word in ("--set", one)]
    command = [sys.executable, "-m", "anomaly_daemon", "run", "-c", str(site.folder / "settings.yaml"), *assignments, *arguments]
    with (site.folder / "daemon.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(is_so: Callable[[], bool], process: subprocess.Popen[bytes], site: Site) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not is_so():
        assert process.poll() is None, f"it ended with {process.returncode}:\n{site.log_tail()}"
        assert time.monotonic() < deadline_s, site.log_tail()
        os.sched_yield()


def is_survived(process: subprocess.Popen[bytes], number: int) -> bool:
    """Whether the process holds this signal back or has a handler for it."""
    masks = re.findall(r"^Sig(?:Blk|Cgt):\s*(\w+)$", Path(f"/proc/{process.pid}/status").read_text(), re.M)
    return any(int(mask, 16) & 1 << (number - 1) for mask in masks)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_leave_while_it_starts_it_leaves_with_0(site: Site, number: int) -> None:
    with started(site) as process:
        wait_until(lambda: is_survived(process, signal.SIGTERM), process, site)  # Python itself takes SIGINT, much earlier
        process.send_signal(number)

        assert process.wait(DEADLINE_S) == 0, site.log_tail()
    assert site.log() == ""


def test_told_to_leave_while_the_broker_is_away_it_leaves_with_0(site: Site) -> None:
    with started(site, "--set", f"log={AWAY}", "--log-format", "json") as process:
        wait_until(lambda: "log_unavailable" in site.log(), process, site)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)

        assert process.wait(DEADLINE_S) == 0, site.log_tail()
    assert set(site.events()) == {"log_unavailable"}


def test_a_reload_asked_for_while_it_starts_is_done_once_the_loop_stands(site: Site) -> None:
    with started(site, "--log-format", "json") as process:
        wait_until(lambda: is_survived(process, signal.SIGHUP), process, site)
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "settings_reloaded" in site.log(), process, site)
        process.send_signal(signal.SIGTERM)

        assert process.wait(DEADLINE_S) == 0, site.log_tail()


def test_an_interrupted_export_holds_every_row_that_was_committed(site: Site) -> None:
    path = site.folder / "scores.parquet"
    with started(site, "--export", str(path), "--log-format", "json") as process:
        wait_until(lambda: any((site.folder / "checkpoints").rglob("*.safetensors")), process, site)
        process.send_signal(signal.SIGTERM)

        assert process.wait(DEADLINE_S) == 0, site.log_tail()
    exported: dict[int, list[int]] = {}
    for row in pq.read_table(path, columns=["partition", "offset"]).to_pylist():
        exported.setdefault(row["partition"], []).append(row["offset"])
    assert exported
    assert all(offsets == list(range(len(offsets))) for offsets in exported.values())
    assert {f"readings[{partition}]": len(offsets) for partition, offsets in exported.items()} == {
        partition: offset for partition, (offset, _) in site.state().items() if offset
    }


def test_an_export_to_a_file_that_holds_something_is_refused_before_the_work_starts(site: Site) -> None:
    (site.folder / "notes.txt").write_text("dear diary")
    with started(site, "--export", str(site.folder / "notes.txt"), "--set", f"log={AWAY}") as process:
        assert process.wait(DEADLINE_S) == 2

    assert site.log().startswith(
        f"anomaly-daemon run: {site.folder / 'notes.txt'}: already holds something (10 bytes); give another name, or --force"
    )
    assert (site.folder / "notes.txt").read_text() == "dear diary"
