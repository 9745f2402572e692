"""Daemons as processes of their own on a real broker, with their settings, model, checkpoints, and when they committed."""

from __future__ import annotations

import functools
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml

from anomaly_daemon.adapters.kafka_topics import KafkaTopics
from anomaly_daemon.model import artifact as artifacts
from anomaly_daemon.model.artifact import Artifact
from anomaly_daemon.model.corpus import EntitySequence
from anomaly_daemon.model.fitting import fit
from anomaly_daemon.settings import Kafka, Settings, load
from tests.benchmarks import stream
from tests.end_to_end.harness import checkpointed

_LOOK_S = 0.1
_RECORD: dict[str, dict[str, object]] = {
    "record": {"features": [{"name": name} for name in stream.NAMES], "time": {"path": "timestamp", "format": "ms"}, "entity": "key"}
}


@dataclass(frozen=True, slots=True)
class Commit:
    """When it was done, by the monotonic clock that all processes share; by whom; the next offset by partition number."""

    at_s: float
    process: int
    offsets: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Site:
    """A folder with a settings file, a model and checkpoints; its topics are there. One group."""

    folder: Path
    topic: str

    @property
    def settings(self) -> Settings:
        return load((self.folder / "settings.yaml",), (), {})

    @property
    def alerts_topic(self) -> str:
        return f"{self.topic}.alerts"

    def start(self, *arguments: str) -> Daemon:
        """`anomaly-daemon run` with these arguments, in a process of its own."""
        return Daemon(self, arguments)

    def commits(self) -> list[Commit]:
        """All so far, in the order in which they were noted."""
        path = self.folder / "timeline"
        lines = path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []
        return [_commit(line) for line in lines]

    def committed(self) -> int:
        """Records committed so far."""
        newest: dict[int, int] = {}
        for commit in self.commits():
            newest |= commit.offsets
        return sum(newest.values())

    def rate(self) -> float:
        """Records a second from the first commit to the last so far."""
        found = self.commits()
        return (self.committed() - sum(found[0].offsets.values())) / (found[-1].at_s - found[0].at_s)

    def first_commits(self, process: int) -> dict[int, float]:
        """Partition number → when this process committed it for the first time, by the monotonic clock."""
        found: dict[int, float] = {}
        for commit in self.commits():
            if commit.process == process:
                found = dict.fromkeys(commit.offsets, commit.at_s) | found
        return found

    def checkpointed(self) -> dict[int, int]:
        """Partition number → offset of its newest checkpoint."""
        return checkpointed(self.folder / "checkpoints")


class Daemon:
    """A running one."""

    def __init__(self, site: Site, arguments: Iterable[str]) -> None:
        self._site = site
        command = [sys.executable, "-m", "tests.benchmarks.daemon", str(site.folder / "timeline")]
        with self._log.open("ab") as log:
            words = [*command, "run", "-c", str(site.folder / "settings.yaml"), *arguments]
            self._process = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for(self, is_so: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
        """Until it is so. Raises AssertionError with what the daemon said."""
        deadline_s = time.monotonic() + timeout_s
        while not is_so():
            code = self._process.poll()
            assert code is None, f"the daemon ended with {code}:\n{self.said()[-3000:]}"
            assert time.monotonic() < deadline_s, f"{otherwise} within {timeout_s:.0f} s:\n{self.said()[-3000:]}"
            time.sleep(_LOOK_S)

    def said(self) -> str:
        """All that the daemons of this site logged."""
        return self._log.read_text()

    def ask_reload(self) -> None:
        """SIGHUP."""
        self._process.send_signal(signal.SIGHUP)

    def leave(self) -> None:
        """SIGTERM and a clean end."""
        self._process.terminate()
        code = self._process.wait(60)
        assert code == 0, f"the daemon ended with {code}:\n{self.said()[-3000:]}"

    def kill(self) -> float:
        """kill -9; returns the monotonic time before it. Nothing where it has ended."""
        at_s = time.monotonic()
        self._process.kill()
        self._process.wait(60)
        return at_s

    @property
    def _log(self) -> Path:
        return self._site.folder / "daemon.log"


def _commit(line: str) -> Commit:
    """Of a line of the timeline."""
    at_s, process, offsets = line.split()
    pairs = (pair.split(":") for pair in offsets.split(","))
    return Commit(float(at_s), int(process), {int(number): int(offset) for number, offset in pairs})


def make_site(folder: Path, bootstrap: str, topic: str, artifact: Artifact, **sections: Mapping[str, object]) -> Site:
    """Settings of the benchmarks with these sections merged in; the topics are made."""
    folder.mkdir(parents=True)
    artifacts.save(artifact, folder / "model")
    found: dict[str, dict[str, object]] = {
        "input": {"topics": [topic], "group": f"{topic}.group", "member": "one"},
        "output": {"alerts_topic": f"{topic}.alerts", "dead_letter_topic": f"{topic}.dead-letters"},
        "model": {"artifact": str(folder / "model"), "hidden": 64, "code": 16},
        "checkpoints": {"url": str(folder / "checkpoints")},
        "logging": {"format": "json"},
        **_RECORD,
    }
    for name, keys in sections.items():
        found[name] = {**found.get(name, {}), **keys}
    (folder / "settings.yaml").write_text(yaml.safe_dump({"log": f"kafka://{bootstrap}", **found}))
    topics = KafkaTopics(bootstrap, Kafka())
    try:
        for name, count in ((topic, stream.PARTITIONS), (f"{topic}.alerts", 1), (f"{topic}.dead-letters", 1)):
            topics.create(name, count)
    finally:
        topics.close()
    return Site(folder, topic)


@functools.cache
def trained() -> Artifact:
    """A network trained a little on the very signal that the stream holds, faults left out."""
    assignments = ["model.hidden=64", "model.code=16", "training.epochs=3"]
    settings = load((), [*assignments, f"record.features=[{', '.join(f'{{name: {name}}}' for name in stream.NAMES)}]"], {})
    torch.set_num_threads(1)
    steps = np.arange(600)
    sequences = [EntitySequence(f"pump-{entity:06d}", stream.signal(entity, steps), np.full(600, 60.0)) for entity in range(16)]
    return fit(sequences, settings, stream.NAMES)
