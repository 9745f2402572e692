"""What the contract suites ask of a log under test, the embedded log as one, and a reader that follows partition changes as the loop does.

Another log plugs in with a fixture `kafka_log` in tests/contract/kafka_log.py that yields a `LogUnderTest`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from anomaly_daemon.adapters.clock import SystemClock
from anomaly_daemon.adapters.sqlite_sink import SqliteSink
from anomaly_daemon.adapters.sqlite_source import SqliteSource
from anomaly_daemon.adapters.sqlite_topics import SqliteTopics
from anomaly_daemon.domain.errors import LogUnavailable
from anomaly_daemon.domain.ports import Sink, Source, Topics
from anomaly_daemon.domain.records import Batch, BatchOutput, ChangeKind, Message, Partition, PartitionChange, Record

# A client that stalls is noticed after 30 s, and a member that left without a word keeps its partitions for the session timeout of 45.
DEADLINE_S = 150.0


class LogUnderTest(Protocol):
    """One log, and its adapters opened on it; `close` closes whatever was opened."""

    def create(self, topic: str, partitions: int) -> None: ...

    def append(self, messages: Iterable[Message]) -> int: ...

    def source(
        self,
        topics: Sequence[str],
        group: str | None,
        member: str = "one",
        batch_records_max: int = 4096,
    ) -> Source: ...

    def sink(self, source: Source, group: str) -> Sink:
        """The sink that commits what `source` reads as a member of `group`."""
        ...

    def topics(self) -> Topics: ...

    def read(self, topic: str) -> list[Record]:
        """All records of a topic as a read_committed consumer sees them, by partition and offset."""
        ...

    def close(self) -> None: ...


class SqliteLog:
    """The embedded log under test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._clock = SystemClock()
        self._opened: list[Source | Sink | Topics] = []

    def create(self, topic: str, partitions: int) -> None:
        self.topics().create(topic, partitions)

    def append(self, messages: Iterable[Message]) -> int:
        return self.topics().append(messages)

    def source(
        self,
        topics: Sequence[str],
        group: str | None,
        member: str = "one",
        batch_records_max: int = 4096,
    ) -> Source:
        source = SqliteSource(self.path, topics, group, member, batch_records_max, session_timeout_s=30.0, clock=self._clock)
        self._opened.append(source)
        return source

    def sink(self, source: Source, group: str) -> Sink:  # noqa: ARG002 - here the lease in the output says whose it is
        sink = SqliteSink(self.path, group, self._clock)
        self._opened.append(sink)
        return sink

    def topics(self) -> Topics:
        topics = SqliteTopics(self.path, self._clock)
        self._opened.append(topics)
        return topics

    def read(self, topic: str) -> list[Record]:
        return read_all(self.source([topic], group=None))

    def close(self) -> None:
        for opened in self._opened:
            opened.close()


def begin(source: Source, partitions: Sequence[Partition]) -> None:
    """Seek to what is committed of each, or to what is retained of it."""
    earliest = {partition: bounds.earliest for partition, bounds in source.bounds(partitions).items()}
    for partition, offset in (earliest | source.committed(partitions)).items():
        source.seek(partition, offset)


class Reader:
    """A member that does what the loop does with changes: seeks to the committed offset of whatever it is assigned."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.owned: set[Partition] = set()
        self.changes: list[PartitionChange] = []
        self.records: list[Record] = []
        self.lease: object | None = None

    def step(self, timeout_s: float = 0.1) -> Batch:
        try:
            batch = self.source.poll(timeout_s)
        except LogUnavailable:
            return Batch()  # what the loop does too: wait, and take it from there
        for change in batch.changes:
            if change.kind is ChangeKind.LOST:  # what was read of them and not committed will be read again, by whoever gets them
                self.records = [record for record in self.records if record.partition not in change.partitions]
            if change.kind is ChangeKind.ASSIGNED:
                self.owned.update(change.partitions)
                begin(self.source, change.partitions)
            else:
                self.owned.difference_update(change.partitions)
        self.changes += batch.changes
        self.records += batch.records
        self.lease = batch.lease
        return batch

    def output(self, messages: Sequence[Message] = ()) -> BatchOutput:
        """What commits everything read so far under the newest lease."""
        next_offsets: dict[Partition, int] = {}
        for record in self.records:
            next_offsets[record.partition] = max(record.offset + 1, next_offsets.get(record.partition, 0))
        return BatchOutput(messages=tuple(messages), next_offsets=next_offsets, lease=self.lease)

    def values(self) -> list[bytes | None]:
        return [record.value for record in self.records]


def until(is_reached: Callable[[], bool], *readers: Reader) -> None:
    """Step the readers in turn until it is so; fails after the deadline."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not is_reached():
        assert time.monotonic() < deadline_s, f"not reached within {DEADLINE_S} s; owned: {[sorted(reader.owned) for reader in readers]}"
        for reader in readers:
            reader.step()


def joined(source: Source, partitions: int) -> Reader:
    """A reader that owns so many partitions."""
    reader = Reader(source)
    until(lambda: len(reader.owned) == partitions, reader)
    return reader


def read_all(source: Source) -> list[Record]:
    """Everything that a source without a group retains, by partition and offset."""
    reader = Reader(source)
    until(lambda: bool(reader.owned), reader)
    ends = {partition: bounds.end for partition, bounds in source.bounds(sorted(reader.owned)).items()}
    until(lambda: all(source.positions()[partition] >= end for partition, end in ends.items()), reader)
    return sorted(reader.records, key=lambda record: (record.partition, record.offset))


class ManualClock:
    """A clock that only moves when told or slept on; `on_sleep` plays another process that acts meanwhile."""

    def __init__(self, now_us: int = 1_700_000_000_000_000) -> None:
        self._elapsed_s = 0.0
        self._epoch_us = now_us
        self.on_sleep: list[Callable[[], object]] = []

    def monotonic_s(self) -> float:
        return self._elapsed_s

    def now_us(self) -> int:
        return self._epoch_us + round(self._elapsed_s * 1e6)

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)
        if self.on_sleep:
            self.on_sleep.pop(0)()

    def advance(self, seconds: float) -> None:
        self._elapsed_s += seconds
