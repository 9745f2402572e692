"""Daemons as real processes on a real log, killed at will, and what they left behind."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import yaml

from anomaly_daemon import wiring
from anomaly_daemon.domain.records import Message, Record
from anomaly_daemon.model import artifact as artifacts
from anomaly_daemon.settings import Settings, load
from anomaly_daemon.state import checkpoint as checkpoints
from tests.small import ASSIGNMENTS, artifact

_PROGRAM = "anomaly_daemon.cli"
_DEADLINE_S = 120.0
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "anomaly_daemon.cli",
        "anomaly_daemon.commands.run",
        "anomaly_daemon.commands.replay",
        "anomaly_daemon.wiring",
        "anomaly_daemon.pipeline.process",
        "anomaly_daemon.model.engine",
        "anomaly_daemon.adapters.kafka_sink",
        "anomaly_daemon.adapters.kafka_source",
        "anomaly_daemon.adapters.kafka_topics",
    ]
)


@dataclass(frozen=True)
class Site:
    """A folder with a settings file, a model, a log and checkpoints."""

    folder: Path
    assignments: tuple[str, ...]

    @property
    def settings(self) -> Settings:
        return load((self.folder / "settings.yaml",), self.assignments, {})

    def daemon(self, *arguments: str) -> multiprocessing.process.BaseProcess:
        """`anomaly-daemon run` in a process of its own, started."""
        return start(_PROGRAM, self.command("run", *arguments), self.folder / "daemon.log")

    def command(self, verb: str, *arguments: str) -> list[str]:
        """What a person would type after `anomaly-daemon`."""
        return [verb, "-c", str(self.folder / "settings.yaml"), *(word for one in self.assignments for word in ("--set", one)), *arguments]

    def run_to_end(self, timeout_s: float = 120, *arguments: str) -> None:
        """Serve to the end of the log."""
        process = self.daemon("--until-end", *arguments)
        process.join(timeout_s)
        if process.exitcode is None:
            kill(process)
            raise AssertionError(f"the daemon did not reach the end in {timeout_s} s:\n{self.log_tail()}")
        assert process.exitcode == 0, self.log_tail()

    def replay(self, *arguments: str, timeout_s: float = 120) -> int | None:
        """`anomaly-daemon replay`; returns its exit code."""
        process = self.start_replay(*arguments)
        process.join(timeout_s)
        return process.exitcode

    def start_replay(self, *arguments: str) -> multiprocessing.process.BaseProcess:
        """The same in a process of its own, started."""
        (self.folder / "replay.log").write_text("")
        return start(_PROGRAM, self.command("replay", *arguments), self.folder / "replay.log")

    def send(self, messages: Iterable[Message]) -> None:
        """Append, each to its topic."""
        with closing(wiring.open_topics(self.settings)) as topics:
            topics.append(messages)

    def fill(self, records: Iterable[Record]) -> None:
        """More records for the input topic, their partition chosen by key."""
        topic = self.settings.input.topics[0]
        self.send(Message(topic, record.key, record.value) for record in records)

    def append(self, values: Iterable[bytes]) -> None:
        """The same without keys."""
        topic = self.settings.input.topics[0]
        self.send(Message(topic, None, value) for value in values)

    def log(self) -> str:
        """What the daemons said so far."""
        path = self.folder / "daemon.log"
        return path.read_text() if path.exists() else ""

    def events(self) -> list[str]:
        """The names of what was logged, in order."""
        return [json.loads(line)["event"] for line in self.log().splitlines() if line.startswith("{") and line.endswith("}")]

    def log_tail(self) -> str:
        return self.log()[-3000:]

    def alerts(self) -> list[dict[str, object]]:
        """Published alerts at read_committed, without the one field that may differ between two lives."""
        found = [json.loads(record.value or b"{}") for record in self.read(self.settings.output.alerts_topic)]
        return sorted(({**alert, "detected_at": None} for alert in found), key=lambda alert: (str(alert["incident_id"]), int(str(alert["sequence"]))))

    def dead_letters(self) -> list[tuple[bytes | None, bytes | None, dict[str, bytes]]]:
        """Key, value and headers, without the one header that says when the record was appended."""
        unsaid = "dead_letter.timestamp_ms"
        records = self.read(self.settings.output.dead_letter_topic)
        found = [(record.key, record.value, {name: value for name, value in record.headers if name != unsaid}) for record in records]
        return sorted(found, key=lambda one: (one[2]["dead_letter.partition"], int(one[2]["dead_letter.offset"])))

    def read(self, topic: str) -> list[Record]:
        """Every committed record of a topic."""
        source = wiring.open_source(self.settings, topics=(topic,))
        found: list[Record] = []
        try:
            batch = source.poll(1.0)
            owned = [partition for change in batch.changes for partition in change.partitions]
            bounds = source.bounds(owned)
            for partition in owned:
                source.seek(partition, bounds[partition].earliest)
            for _ in range(2000):
                found += source.poll(0.1).records
                if all(source.positions()[partition] >= bounds[partition].end for partition in owned):
                    return found
        finally:
            source.close()
        raise AssertionError(f"{topic}: the end was not reached")

    def state(self) -> dict[str, tuple[int, str]]:
        """Per partition the newest checkpoint's offset and digest."""
        found = {}
        for folder in sorted((self.folder / "checkpoints").glob("*/*")):
            newest = sorted(folder.glob("*.safetensors"))[-1]
            checkpoint = checkpoints.decode(newest.read_bytes())
            found[str(checkpoint.partition)] = (checkpoint.offset, checkpoints.digest(checkpoint))
        return found


def checkpointed(folder: Path) -> dict[int, int]:
    """Partition number → offset of its newest checkpoint, by the names of folder and file."""
    found: dict[int, int] = {}
    for file in folder.glob("*/*/*.safetensors"):
        number = int(file.parent.name.rpartition("-")[2])
        found[number] = max(found.get(number, 0), int(file.name.partition("-")[0]))
    return found


def make_site(
    folder: Path,
    log: str,
    records: Iterable[Record],
    *,
    topic: str = "readings",
    group: str = "detector",
    partitions: int = 2,
    assignments: Sequence[str] = (),
) -> Site:
    """A site whose input topic holds these records, their partition chosen by key."""
    site = write_site(folder, log, topic=topic, group=group, partitions=partitions, assignments=assignments)
    with closing(wiring.open_topics(site.settings)) as topics:
        wiring.ensure_topics(site.settings, topics)
    site.fill(records)
    return site


def write_site(folder: Path, log: str, *, topic: str, group: str, partitions: int, assignments: Sequence[str] = ()) -> Site:
    """A site with its settings and its model; its topics are made by whoever comes first."""
    folder.mkdir(parents=True, exist_ok=True)
    artifacts.save(artifact(), folder / "model")
    base = {
        "log": log,
        "input": {"topics": [topic], "group": group, "member": "one", "batch_records_max": 8, "poll_timeout": "50ms"},
        "output": {"alerts_topic": f"{group}.alerts", "dead_letter_topic": f"{group}.dead-letters"},
        "topics": {"create_topics": True, "partitions": partitions},
        "model": {"artifact": str(folder / "model")},
        "checkpoints": {"url": str(folder / "checkpoints"), "every": "100ms"},
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(base))
    return Site(folder, (*ASSIGNMENTS, *assignments))


def start(program: str, arguments: Sequence[str], log: Path, variables: Mapping[str, str] | None = None) -> multiprocessing.process.BaseProcess:
    """The module's `main` in a process of its own, in which everything heavy is imported already; its output goes to the log."""
    process = _CONTEXT.Process(target=_serve, args=(program, list(arguments), str(log), dict(variables or {})), daemon=True)
    process.start()
    return process


def verb(*command: str, log: Path, variables: Mapping[str, str] | None = None, timeout_s: float = 120) -> int | None:
    """Any verb in a process of its own, with these in its environment; what it says is appended to `log`. Returns its exit code."""
    process = start(_PROGRAM, command, log, variables)
    process.join(timeout_s)
    if process.exitcode is None:
        kill(process)
        raise AssertionError(f"{command[0]} did not end in {timeout_s} s:\n{log.read_text()[-3000:]}")
    return process.exitcode


def kill(process: multiprocessing.process.BaseProcess) -> None:
    """kill -9, and wait for the end."""
    if process.pid is not None and process.exitcode is None:
        os.kill(process.pid, signal.SIGKILL)
    process.join(10)


def wait_until(process: multiprocessing.process.BaseProcess, holds: Callable[[], bool], site: Site) -> None:
    """Wait for what a live daemon is to do."""
    for _ in range(int(_DEADLINE_S / 0.05)):
        if holds():
            return
        process.join(0.05)
        assert process.exitcode is None, site.log_tail()
    raise AssertionError(f"it did not come to pass: {site.log_tail()}")


def end(process: multiprocessing.process.BaseProcess) -> None:
    """SIGTERM, and wait for the drain."""
    if process.pid is not None and process.exitcode is None:
        os.kill(process.pid, signal.SIGTERM)
    process.join(_DEADLINE_S)
    kill(process)


def _serve(program: str, arguments: list[str], log: str, variables: Mapping[str, str] | None = None) -> None:
    """In the child: output to the log file, then the program."""
    os.environ.update(variables or {})
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.exit(importlib.import_module(program).main(arguments))
