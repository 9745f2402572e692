"""Retention of the embedded log: the oldest records go, by age or by size, and `earliest` moves up."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

import structlog

from anomaly_daemon.adapters.sqlite_append import RECORD_OVERHEAD_BYTES
from anomaly_daemon.adapters.sqlite_schema import LogFile
from anomaly_daemon.domain.ports import Clock

_log = structlog.get_logger(__name__)

# A transaction of housekeeping deletes at most this many, so that other writers wait some tens of milliseconds and no more.
_STEP_RECORDS = 256
_TRANSACTION_STEPS = 64


@dataclass(frozen=True, slots=True)
class Retention:
    """What to keep. age_s: by the record's timestamp; bytes_max: per topic; None: no limit. every_s: pause between two rounds."""

    age_s: float | None = None
    bytes_max: int | None = None
    every_s: float = 5.0


class Housekeeper:
    """Applies the retention to every topic of the log, at most once per `every_s`."""

    def __init__(self, log: LogFile, retention: Retention, clock: Clock) -> None:
        self._log = log
        self._retention = retention
        self._clock = clock
        self._due_s = clock.monotonic_s()

    def run_if_due(self) -> None:
        """Delete what is beyond the retention now; does nothing until the pause is over. Raises LogUnavailable, LogCorrupt."""
        if self._retention.age_s is None and self._retention.bytes_max is None:
            return
        if self._clock.monotonic_s() < self._due_s:
            return
        self._due_s = self._clock.monotonic_s() + self._retention.every_s
        deleted = 0
        while step := self._delete_some():
            deleted += step
        if deleted:
            _log.info("retention_applied", records_deleted=deleted, log=str(self._log.path))

    def _delete_some(self) -> int:
        """One transaction's worth; returns how many records went, 0 when nothing is left to delete."""
        with self._log.writing() as connection:
            deleted = 0
            for _ in range(_TRANSACTION_STEPS):
                step = self._delete_aged(connection) or self._delete_oversized(connection)
                if not step:
                    break
                deleted += step
            return deleted

    def _delete_aged(self, connection: sqlite3.Connection) -> int:
        if self._retention.age_s is None:
            return 0
        cutoff_ms = self._clock.now_us() // 1000 - int(self._retention.age_s * 1000)
        for _, partition_id, _ in _heads(connection, before_ms=cutoff_ms):
            return _delete_head(connection, partition_id, cutoff_ms=cutoff_ms, excess_bytes=None)
        return 0

    def _delete_oversized(self, connection: sqlite3.Connection) -> int:
        if self._retention.bytes_max is None:
            return 0
        over = connection.execute(
            "SELECT topic_id, sum(bytes) - ? AS excess FROM partitions GROUP BY topic_id HAVING excess > 0 LIMIT 1", (self._retention.bytes_max,)
        ).fetchone()
        if over is None:
            return 0
        oldest = min(head for head in _heads(connection, before_ms=None) if head[2] == over[0])
        return _delete_head(connection, oldest[1], cutoff_ms=None, excess_bytes=over[1])


def _heads(connection: sqlite3.Connection, before_ms: int | None) -> list[tuple[int, int, int]]:
    """(timestamp_ms, partition id, topic id) of the oldest record of each partition that has one, older than `before_ms`."""
    return connection.execute(
        """SELECT r.timestamp_ms, p.id, p.topic_id FROM partitions p JOIN records r ON r.partition_id = p.id AND r.offset = p.earliest
        WHERE ? IS NULL OR r.timestamp_ms < ? ORDER BY p.id""",
        (before_ms, before_ms),
    ).fetchall()


def _delete_head(connection: sqlite3.Connection, partition_id: int, cutoff_ms: int | None, excess_bytes: int | None) -> int:
    """Delete from the oldest on: records before the cutoff, or as many as make up the excess; one step at most."""
    rows = connection.execute(
        f"""SELECT offset, timestamp_ms, {RECORD_OVERHEAD_BYTES} + ifnull(length(key), 0) + ifnull(length(value), 0) + ifnull(length(headers), 0)
        FROM records WHERE partition_id = ? ORDER BY offset LIMIT ?""",
        (partition_id, _STEP_RECORDS),
    ).fetchall()
    earliest, freed_bytes, deleted = rows[0][0], 0, 0
    for offset, timestamp_ms, record_bytes in rows:
        if (cutoff_ms is not None and timestamp_ms >= cutoff_ms) or (excess_bytes is not None and freed_bytes >= excess_bytes):
            break
        earliest, freed_bytes, deleted = offset + 1, freed_bytes + record_bytes, deleted + 1
    connection.execute("DELETE FROM records WHERE partition_id = ? AND offset < ?", (partition_id, earliest))
    connection.execute("UPDATE partitions SET earliest = ?, bytes = bytes - ? WHERE id = ?", (earliest, freed_bytes, partition_id))
    return deleted
