"""A loop as small as can be: what the real one does with changes and failed commits, one alert per hundredth record."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from anomaly_daemon.domain.errors import CommitFailed, LogUnavailable
from anomaly_daemon.domain.ports import Sink, Source
from anomaly_daemon.domain.records import BatchOutput, ChangeKind, Message, Partition, PartitionChange, Record
from tests.contract.logs import LogUnderTest, begin

ALERT_EVERY = 100
PARTITIONS = 4


class Member:
    """Reads, publishes and commits; after a failure it starts over from the committed offsets."""

    def __init__(self, source: Source, sink: Sink, alerts_topic: str) -> None:
        self.source, self.sink, self.alerts_topic = source, sink, alerts_topic
        self.owned: set[Partition] = set()
        self.to_recover: set[Partition] = set()
        self.changes: list[PartitionChange] = []
        self.next_offsets: dict[Partition, int] = {}
        self.committed: list[Record] = []
        self.failures: list[Exception] = []
        self.before_commit: Callable[[], None] = lambda: None

    def step(self, timeout_s: float = 0.1) -> None:
        try:
            batch = self.source.poll(timeout_s)
            self.changes += batch.changes
            for change in batch.changes:
                if change.kind is ChangeKind.ASSIGNED:
                    self.owned.update(change.partitions)
                    self.to_recover.update(change.partitions)
                else:
                    self.owned.difference_update(change.partitions)
                    self.to_recover.difference_update(change.partitions)
            if self.to_recover:
                begin(self.source, sorted(self.to_recover))
                self.to_recover.clear()
            elif batch.records:
                self._commit(batch.records, batch.lease)
        except LogUnavailable as error:
            self.failures.append(error)
        except CommitFailed as error:
            self.failures.append(error)
            self.to_recover.update(self.owned)

    def _commit(self, records: Sequence[Record], lease: object) -> None:
        alerts = tuple(Message(self.alerts_topic, b"pump", name(record)) for record in records if record.offset % ALERT_EVERY == 0)
        next_offsets = {record.partition: record.offset + 1 for record in records}
        self.before_commit()
        self.sink.commit(BatchOutput(alerts, next_offsets, lease))
        self.next_offsets |= next_offsets
        self.committed += records


def append(log: LogUnderTest, topic: str, per_partition: int) -> None:
    """So many records to each partition."""
    log.append(Message(topic, None, b"1", partition_number=number % PARTITIONS) for number in range(per_partition * PARTITIONS))


def name(record: Record) -> bytes:
    """Where a record stands, as an alert's value."""
    return f"{record.partition.number}:{record.offset}".encode()


def expected(counts: dict[int, int]) -> list[bytes]:
    """The alerts of so many records per partition."""
    return sorted(f"{partition}:{offset}".encode() for partition, count in counts.items() for offset in range(0, count, ALERT_EVERY))
