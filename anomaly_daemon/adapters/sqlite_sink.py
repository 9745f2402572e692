"""`Sink` on the embedded log: alerts, dead letters and offsets in one SQLite transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path

from anomaly_daemon.adapters.sqlite_append import Appender
from anomaly_daemon.adapters.sqlite_groups import Lease, verify
from anomaly_daemon.adapters.sqlite_proofs import offset_proof
from anomaly_daemon.adapters.sqlite_retention import Housekeeper, Retention
from anomaly_daemon.adapters.sqlite_schema import BUSY_TIMEOUT_S, LogFile, damaged
from anomaly_daemon.domain.errors import CommitFailed
from anomaly_daemon.domain.ports import Clock
from anomaly_daemon.domain.records import BatchOutput, Offset, Partition

_PARTITION = "SELECT p.id FROM partitions p JOIN topics t ON t.id = p.topic_id WHERE t.name = ? AND p.number = ?"
_UNINDEXED = "SELECT p.id FROM partitions p NOT INDEXED JOIN topics t NOT INDEXED ON t.id = p.topic_id WHERE t.name = ? AND p.number = ?"
_MOVE = "UPDATE committed SET next_offset = :next, proof = :proof WHERE group_name = :group AND partition_id = :id AND next_offset <= :next"
_BEGIN = "INSERT INTO committed VALUES (:group, :id, :next, :proof) ON CONFLICT DO NOTHING"
_COUNT = "UPDATE groups SET committed = committed + 1 WHERE name = :group"


class SqliteSink:
    """Commits what a member of `group` made of its batches; applies the retention to the whole log now and then."""

    def __init__(
        self,
        path: Path,
        group: str,
        clock: Clock,
        retention_s: float | None = None,
        retention_bytes: int | None = None,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> None:
        self._group, self._path = group, path
        self._log = LogFile(path, clock, busy_timeout_s)
        self._appender = Appender(path, clock)
        self._housekeeper = Housekeeper(self._log, Retention(retention_s, retention_bytes), clock)
        self._partition_ids: dict[Partition, int] = {}

    def commit(self, output: BatchOutput) -> None:
        """Apply messages and offsets in one transaction, on disk when this returns.

        Raises CommitFailed when the lease no longer holds or an offset would go back, Fenced when the member's name was taken over,
        TopicError where a topic of a message is missing, LogUnavailable, LogCorrupt; nothing was applied then.
        """
        lease = output.lease
        if not isinstance(lease, Lease) or lease.group != self._group:
            raise CommitFailed(f"group {self._group}: the batch was not read as a member of this group; nothing was committed")
        with self._log.writing() as connection:
            next_offsets = {self._partition_id(connection, partition): offset for partition, offset in output.next_offsets.items()}
            verify(connection, lease, next_offsets)
            self._appender.append(connection, output.messages)
            self._move_forward(connection, next_offsets)
        self._housekeeper.run_if_due()

    def close(self) -> None:
        """Let go of the file; may be called twice."""
        self._log.close()

    def _move_forward(self, connection: sqlite3.Connection, next_offsets: Mapping[int, Offset]) -> None:
        for partition_id, offset in next_offsets.items():
            row = {"group": self._group, "id": partition_id, "next": offset, "proof": offset_proof(self._group, partition_id, offset)}
            if connection.execute(_MOVE, row).rowcount:
                continue
            if not connection.execute(_BEGIN, row).rowcount:
                raise CommitFailed(f"group {self._group}: offset {offset} lies before what was already committed; nothing was committed")
            connection.execute(_COUNT, row)

    def _partition_id(self, connection: sqlite3.Connection, partition: Partition) -> int:
        known = self._partition_ids.get(partition)
        if known is None:
            row, unindexed = (connection.execute(query, (partition.topic, partition.number)).fetchone() for query in (_PARTITION, _UNINDEXED))
            if row != unindexed:
                raise damaged(self._path, f"an index does not tell where partition {partition} is")
            if row is None:
                raise CommitFailed(f"group {self._group}: there is no partition {partition} to commit; nothing was committed")
            known = self._partition_ids[partition] = int(row[0])
        return known
