"""`Source` on files: one file is one partition, sorted by path, the row number its offset; there is no group and nothing to wait for.

A record's value is its row as JSON, its key the file's name without suffixes, and it has no timestamp of its own: entity and
event time are read from the fields that the settings name, and `record.entity: key` makes every file one entity.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Sequence
from contextlib import closing

from anomaly_daemon.adapters.file_columns import FileBlock, RowColumns
from anomaly_daemon.adapters.file_names import find_files
from anomaly_daemon.adapters.file_rows import check_files, count_rows, read_blocks
from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.domain.records import Batch, Bounds, ChangeKind, Offset, Partition, PartitionChange, Record
from anomaly_daemon.pipeline.time_range import TimesOf

OPEN_FILES_MAX = 256
_NO_TIMESTAMP = -1  # as Kafka has it


class FileSource:
    """Reads paths, folders, globs and file:// URLs; all partitions are assigned at the first poll, empty batches follow the last row.

    key_column: the field that holds the record's key instead of the file's name. times_ms: event times, for `offsets_at`.
    Raises InputError where a pattern matches nothing or a file is of no known kind, cannot be opened or lacks the column.
    """

    def __init__(
        self,
        patterns: str | Sequence[str],
        topic: str = "files",
        batch_records_max: int = 4096,
        key_column: str | None = None,
        times_ms: TimesOf | None = None,
    ) -> None:
        files = find_files([patterns] if isinstance(patterns, str) else patterns)
        self._columns = RowColumns(key=key_column)
        check_files(files, self._columns)
        self._files = {Partition(topic, number): file for number, file in enumerate(files)}
        self._batch_records_max, self._times_ms = batch_records_max, times_ms
        self._positions: dict[Partition, Offset] = {}
        self._blocks: dict[Partition, Generator[FileBlock]] = {}
        self._begun: dict[Partition, tuple[FileBlock, int]] = {}
        self._unread: list[Partition] = []
        self._counts: dict[Partition, int] = {}
        self._is_assigned = False

    def poll(self, timeout_s: float) -> Batch:  # noqa: ARG002 - files do not grow, so there is nothing to wait for
        """The next rows of up to 256 files in turn. Raises InputError naming file and row where one cannot be read on."""
        if not self._is_assigned:
            self._is_assigned = True
            return Batch(changes=(PartitionChange(ChangeKind.ASSIGNED, tuple(self._files)),))
        records: list[Record] = []
        while self._unread and len(records) < self._batch_records_max:
            self._read_in_turn(records)
        return Batch(records=records)

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, Offset]:
        """The start: row 0 of every file."""
        return dict.fromkeys(partitions, 0)

    def bounds(self, partitions: Sequence[Partition]) -> dict[Partition, Bounds]:
        """0 and the number of rows; each file is counted once. Raises InputError naming file and row where one is damaged."""
        for partition in partitions:
            if partition not in self._counts:
                self._counts[partition] = count_rows(self._files[partition])
        return {partition: Bounds(0, self._counts[partition]) for partition in partitions}

    def offsets_at(self, partitions: Sequence[Partition], time_ms: int) -> dict[Partition, Offset]:
        """The first row of each file whose event time is not before; the end where there is none. Reads up to there. Raises InputError."""
        return {partition: self._offset_at(partition, time_ms) for partition in partitions}

    def positions(self) -> dict[Partition, Offset]:
        """The next offset that `poll` brings of each owned partition that was sought."""
        return dict(self._positions)

    def seek(self, partition: Partition, offset: Offset) -> None:
        """Make row `offset` the next one that `poll` brings of this file. ValueError before its ASSIGNED change."""
        if not self._is_assigned or partition not in self._files:
            raise ValueError(f"{partition} is not owned: seek follows its ASSIGNED change")
        self._close(partition)
        self._positions[partition] = offset
        if partition not in self._unread:
            self._unread = sorted([*self._unread, partition])

    def close(self) -> None:
        """Close the files; may be called twice."""
        for partition in list(self._blocks):
            self._close(partition)
        self._unread = []

    def _offset_at(self, partition: Partition, time_ms: int) -> Offset:
        if self._times_ms is None:
            raise InputError(f"{self._files[partition].path}: its records bear no timestamps to look for; give row numbers instead of times")
        offset = 0
        with closing(read_blocks(self._files[partition], self._columns)) as blocks:
            for block in blocks:
                times = self._times_ms(_records(partition, offset, block, slice(None)))
                found = next((place for place, time in enumerate(times) if time >= time_ms), None)
                if found is not None:
                    return offset + found
                offset += len(block)
        return offset

    def _read_in_turn(self, into: list[Record]) -> None:
        """One equal share of each open file; those that got none because the batch is full come first next time."""
        window, later = self._unread[:OPEN_FILES_MAX], self._unread[OPEN_FILES_MAX:]
        left = self._batch_records_max - len(into)
        share = max(1, left // len(window))
        going_on = [partition for partition in window[:left] if self._read(partition, share, into)]
        self._unread = window[left:] + going_on + later

    def _read(self, partition: Partition, limit: int, into: list[Record]) -> bool:
        """Append up to `limit` rows from the position on; whether the file may hold more: one that ends is closed."""
        if partition not in self._blocks:
            self._blocks[partition] = read_blocks(self._files[partition], self._columns, self._positions[partition])
        wanted = limit
        while wanted:
            block, used = self._begun.pop(partition, (None, 0))
            if block is None and (block := next(self._blocks[partition], None)) is None:
                self._close(partition)
                return False
            rows = slice(used, used + wanted)
            records = _records(partition, self._positions[partition], block, rows)
            into += records
            self._positions[partition] += len(records)
            wanted -= len(records)
            if rows.stop < len(block):
                self._begun[partition] = block, rows.stop
        return True

    def _close(self, partition: Partition) -> None:
        self._begun.pop(partition, None)
        if partition in self._blocks:
            self._blocks.pop(partition).close()


def _records(partition: Partition, first: Offset, block: FileBlock, rows: slice) -> list[Record]:
    keys, values, times = block.keys[rows], block.values[rows], itertools.repeat(_NO_TIMESTAMP)
    return list(map(Record, itertools.repeat(partition), itertools.count(first), times, keys, values))
