"""`Source` on the embedded log: records in offset order, shared fairly between partitions, with or without a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

from anomaly_daemon.adapters.sqlite_append import decode_headers
from anomaly_daemon.adapters.sqlite_groups import Lease, Membership
from anomaly_daemon.adapters.sqlite_proofs import first_broken, offset_proof
from anomaly_daemon.adapters.sqlite_schema import BUSY_TIMEOUT_S, LogFile, damaged, is_made
from anomaly_daemon.adapters.topic_names import missing_topics
from anomaly_daemon.domain.errors import LogCorrupt, LogUnavailable
from anomaly_daemon.domain.ports import Clock
from anomaly_daemon.domain.records import Batch, Bounds, ChangeKind, Offset, Partition, PartitionChange, Record

_log = structlog.get_logger(__name__)

BATCH_BYTES_MAX = 64 * 2**20
_FETCH_RECORDS = 128
_WAIT_STEP_S = 0.002


class _Ownership(Protocol):
    """What a source asks of whoever knows which partitions it owns."""

    def is_due(self) -> bool: ...
    def refresh(self) -> tuple[PartitionChange, ...]: ...
    def lease(self) -> Lease | None: ...
    def leave(self) -> None: ...


class _Alone:
    """Without a group: every partition is assigned at the first poll, for good."""

    def __init__(self, partitions: Sequence[Partition]) -> None:
        self._changes: tuple[PartitionChange, ...] = (PartitionChange(ChangeKind.ASSIGNED, tuple(sorted(partitions))),)

    def is_due(self) -> bool:
        return False

    def refresh(self) -> tuple[PartitionChange, ...]:
        changes, self._changes = self._changes, ()
        return changes

    def lease(self) -> None:
        return None

    def leave(self) -> None:
        return None


class SqliteSource:
    """Reads `topics` of the log. group None: all partitions, no membership, and nothing is committed.

    member: this process's name in the group; the next process of the same name takes its place at once.
    Raises TopicError naming every topic that is missing.
    """

    def __init__(
        self,
        path: Path,
        topics: Sequence[str],
        group: str | None,
        member: str,
        batch_records_max: int,
        session_timeout_s: float,
        clock: Clock,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> None:
        if not is_made(path):
            raise missing_topics(f"log {path}", topics, ())
        self._group = group
        self._batch_records_max = batch_records_max
        self._clock = clock
        self._file = LogFile(path, clock, busy_timeout_s)
        try:
            self._partitions = _partition_ids(self._file, topics)
            _check_ends(self._file)
        except BaseException:
            self._file.close()
            raise
        self._ids = {partition: partition_id for partition_id, partition in self._partitions.items()}
        self._ownership: _Ownership = (
            _Alone(list(self._ids)) if group is None else Membership(self._file, group, member, self._partitions, session_timeout_s, clock)
        )
        self._owned: set[Partition] = set()
        self._positions: dict[int, Offset] = {}
        self._turn = 0
        self._is_closed = False

    def poll(self, timeout_s: float) -> Batch:
        """Wait up to `timeout_s` for records or partition changes; appends by other processes are noticed within milliseconds.

        A batch with changes brings no records. Raises LogUnavailable, also where retention overtook a member, once; LogCorrupt, and Fenced when
        another process took this member's name.
        """
        deadline_s = self._clock.monotonic_s() + timeout_s
        while True:
            changes = self._ownership.refresh()
            if changes:
                self._note(changes)
                return Batch(changes=changes, lease=self._ownership.lease())
            lease = self._ownership.lease()
            seen = self._file.changes_seen()
            records, left = self._fetch()
            if records or not self._wait_for_change(seen, deadline_s):
                return Batch(records=records, lease=lease, is_last=left < self._batch_records_max)

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, Offset]:
        """The next offset the group has to process, of those partitions that it ever committed. Raises LogCorrupt."""
        # One statement: others commit meanwhile.
        query = "SELECT g.committed, partition_id, next_offset, proof FROM groups g LEFT JOIN committed ON group_name = name WHERE name = ?"
        with self._file.reading() as connection:
            rows = connection.execute(query, (self._group,)).fetchall()
        told, committed = rows[0][0] if rows else 0, {row[1]: row[2] for row in rows if row[1] is not None}
        is_whole = all(proof is None or proof == offset_proof(str(self._group), partition_id, offset) for _, partition_id, offset, proof in rows)
        if len(committed) != told or not is_whole:
            raise damaged(self._file.path, f"what group {self._group} committed is not as it was written")
        return {partition: committed[self._ids[partition]] for partition in partitions if self._ids[partition] in committed}

    def bounds(self, partitions: Sequence[Partition]) -> dict[Partition, Bounds]:
        """What each partition retains now."""
        retained = self._retained()
        return {partition: Bounds(*retained[partition]) for partition in partitions}

    def offsets_at(self, partitions: Sequence[Partition], time_ms: int) -> dict[Partition, Offset]:
        """By the records' timestamps, which need not rise with the offsets: the first that is not before, as Kafka has it."""
        retained = self.bounds(partitions)
        query = "SELECT offset FROM records WHERE partition_id = ? AND timestamp_ms >= ? ORDER BY offset LIMIT 1"
        with self._file.reading() as connection:
            found = {partition: connection.execute(query, (self._ids[partition], time_ms)).fetchone() for partition in partitions}
        return {partition: int(row[0]) if row is not None else retained[partition].end for partition, row in found.items()}

    def positions(self) -> dict[Partition, Offset]:
        """The next offset that `poll` brings of each owned partition that was sought."""
        return {self._partitions[partition_id]: position for partition_id, position in self._positions.items()}

    def seek(self, partition: Partition, offset: Offset) -> None:
        """Make `offset` the next one that `poll` brings of an owned partition; below `earliest` it brings the earliest.

        ValueError where the partition is not owned.
        """
        if partition not in self._owned:
            raise ValueError(f"{partition} is not owned: seek follows its ASSIGNED change")
        self._positions[self._ids[partition]] = offset

    def close(self) -> None:
        """Leave the group and let go of the file; may be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._ownership.leave()
        except (LogUnavailable, LogCorrupt) as error:
            _log.warning("group_not_left", group=self._group, reason=str(error))
        self._file.close()

    def _note(self, changes: Sequence[PartitionChange]) -> None:
        for change in changes:
            for partition in change.partitions:
                self._positions.pop(self._ids[partition], None)
            if change.kind is ChangeKind.ASSIGNED:
                self._owned.update(change.partitions)
            else:
                self._owned.difference_update(change.partitions)

    def _fetch(self) -> tuple[list[Record], int]:
        """Up to a batch of what is there now, the partitions in turn; and how many records that leaves."""
        backlogs = self._backlogs()
        shares = fair_shares([backlog for _, backlog in backlogs], self._batch_records_max)
        records: list[Record] = []
        bytes_left = BATCH_BYTES_MAX
        for (partition_id, _), share in zip(backlogs, shares, strict=True):
            if share and bytes_left > 0:
                bytes_left -= self._read(partition_id, share, bytes_left, records)
        return records, sum(backlog for _, backlog in backlogs) - len(records)

    def _backlogs(self) -> list[tuple[int, int]]:
        """(partition id, records waiting) of the partitions that have some, a different one first each time."""
        if not self._positions:
            return []
        retained = self._retained()
        backlogs = []
        for partition_id, position in self._positions.items():
            earliest, end = retained[self._partitions[partition_id]]
            if position < earliest:
                self._begin_at(partition_id, earliest)
            if self._positions[partition_id] < end:
                backlogs.append((partition_id, end - self._positions[partition_id]))
        first = self._turn % max(1, len(backlogs))
        self._turn += 1
        return backlogs[first:] + backlogs[:first]

    def _begin_at(self, partition_id: int, earliest: Offset) -> None:
        """Retention took what was next. Raises LogUnavailable for a member: recovery tells of it, and what the loss does to state."""
        told = f"{self._partitions[partition_id]} no longer holds offset {self._positions[partition_id]}, which was next, and begins at {earliest}"
        self._positions[partition_id] = earliest
        if self._group is not None:
            raise LogUnavailable(f"log {self._file.path}: {told}: starting over from there")
        _log.warning("records_expired_unread", reason=told)

    def _read(self, partition_id: int, limit: int, bytes_max: int, into: list[Record]) -> int:
        """Append up to `limit` records from the position on, advance it; returns their bytes, at most one fetch beyond `bytes_max`."""
        partition, first, read_bytes = self._partitions[partition_id], self._positions[partition_id], 0
        with self._file.reading() as connection:
            cursor = connection.execute(
                "SELECT offset, timestamp_ms, key, value, headers, proof FROM records WHERE partition_id = ? AND offset >= ? ORDER BY offset LIMIT ?",
                (partition_id, first, limit),
            )
            try:
                while read_bytes < bytes_max and (rows := cursor.fetchmany(_FETCH_RECORDS)):
                    self._check(partition_id, rows)
                    into += [
                        Record(partition, offset, timestamp_ms, key, value, () if headers is None else decode_headers(headers))
                        for offset, timestamp_ms, key, value, headers, _ in rows
                    ]
                    read_bytes += sum([len(row[3]) for row in rows if row[3] is not None])
                    self._positions[partition_id] = rows[-1][0] + 1
            except msgspec.DecodeError as error:
                raise damaged(self._file.path, f"headers of a record of {partition}: {error}") from error
            finally:
                cursor.close()  # an open cursor would hold the WAL back from its checkpoint
        if self._positions[partition_id] == first and (missing := self._first_missing(partition_id, ())) is not None:
            raise damaged(self._file.path, f"record {missing} of {partition} is missing")
        return read_bytes

    def _check(self, partition_id: int, rows: Sequence[tuple[Any, ...]]) -> None:
        """Raises LogCorrupt for records that are not as they were written, or are missing where none was deleted; LogUnavailable: see _begin_at."""
        partition, position = self._partitions[partition_id], self._positions[partition_id]
        broken = first_broken(rows)
        if broken is not None:
            raise damaged(self._file.path, f"record {broken} of {partition} is not as it was written")
        if rows[0][0] == position and rows[-1][0] == position + len(rows) - 1:
            return
        if (missing := self._first_missing(partition_id, rows)) is not None:
            raise damaged(self._file.path, f"record {missing} of {partition} is missing")
        self._begin_at(partition_id, rows[0][0])  # retention was at work since the backlog was looked at

    def _first_missing(self, partition_id: int, rows: Sequence[tuple[Any, ...]]) -> int | None:
        """The first offset, from the position on, that should be among the rows; None where only retention was at work meanwhile."""
        earliest, end = self._retained()[self._partitions[partition_id]]
        there = {row[0] for row in rows}
        last = rows[-1][0] if rows else end
        return next((offset for offset in range(max(self._positions[partition_id], earliest), last) if offset not in there), None)

    def _wait_for_change(self, seen: int, deadline_s: float) -> bool:
        """Whether something was committed by another connection, or a heartbeat fell due, before the deadline."""
        while (left_s := deadline_s - self._clock.monotonic_s()) > 0:
            self._clock.sleep(min(_WAIT_STEP_S, left_s))
            if self._file.changes_seen() != seen or self._ownership.is_due():
                return True
        return False

    def _retained(self) -> Mapping[Partition, tuple[Offset, Offset]]:
        """Raises LogCorrupt where one that was there is not."""
        with self._file.reading() as connection:
            found = {row[0]: row[1:] for row in connection.execute("SELECT id, earliest, next FROM partitions").fetchall()}
        missing = next((partition for partition, partition_id in self._ids.items() if partition_id not in found), None)
        if missing is not None:
            raise damaged(self._file.path, f"{missing} is missing")
        return {partition: found[partition_id] for partition, partition_id in self._ids.items()}


def fair_shares(backlogs: Sequence[int], total: int) -> list[int]:
    """How many records to take of each backlog: as even as the backlogs allow, `total` at most; what does not divide goes to the first."""
    shares = [0] * len(backlogs)
    left = total
    waiting = [index for index, backlog in enumerate(backlogs) if backlog]
    while waiting and left:
        each = max(1, left // len(waiting))
        for index in waiting:
            taken = min(each, backlogs[index] - shares[index], left)
            shares[index] += taken
            left -= taken
        waiting = [index for index in waiting if shares[index] < backlogs[index]]
    return shares


def _check_ends(log: LogFile) -> None:
    """Raises LogCorrupt where a partition does not begin and end with its records."""
    query = """SELECT t.name, p.number, p.earliest, p.next,
        (SELECT min(offset) FROM records WHERE partition_id = p.id) AS first, (SELECT max(offset) FROM records WHERE partition_id = p.id) AS last
        FROM partitions p JOIN topics t ON t.id = p.topic_id
        WHERE first IS NOT NULL AND (first <> earliest OR last <> next - 1) OR first IS NULL AND earliest <> next"""
    with log.reading() as connection:
        row = connection.execute(query).fetchone()
    if row is not None:
        topic, number, earliest, end, first, last = row
        raise damaged(log.path, f"{Partition(topic, number)} should hold {earliest} to {end - 1}, not {first} to {last}")


def _partition_ids(log: LogFile, topics: Sequence[str]) -> dict[int, Partition]:
    with log.reading() as connection:
        rows = connection.execute("SELECT p.id, t.name, p.number FROM partitions p JOIN topics t ON t.id = p.topic_id").fetchall()
    found = {partition_id: Partition(topic, number) for partition_id, topic, number in rows if topic in topics}
    missing = set(topics) - {partition.topic for partition in found.values()}
    if missing:
        raise missing_topics(f"log {log.path}", missing, {topic for _, topic, _ in rows})
    return found
