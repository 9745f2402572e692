"""`Source` on files: one file is one partition, sorted by path, the row number its offset; there is no group and nothing to wait for."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Sequence

from anomaly_daemon.adapters.file_names import find_files
from anomaly_daemon.adapters.file_rows import FileRow, RowColumns, check_files, count_rows, read_rows
from anomaly_daemon.domain.records import Batch, Bounds, ChangeKind, Offset, Partition, PartitionChange, Record

OPEN_FILES_MAX = 256


class FileSource:
    """Reads paths, globs and file:// URLs; all partitions are assigned at the first poll, empty batches follow the last row.

    key_column: the field that holds the record's key; default: the file's name. Raises InputError where a pattern
    matches nothing or a file is of no known kind, cannot be opened or lacks the column.
    """

    def __init__(self, patterns: str | Sequence[str], topic: str = "files", batch_records_max: int = 4096, key_column: str | None = None) -> None:
        files = find_files([patterns] if isinstance(patterns, str) else patterns)
        self._columns = RowColumns(key=key_column)
        check_files(files, self._columns)
        self._files = {Partition(topic, number): file for number, file in enumerate(files)}
        self._batch_records_max = batch_records_max
        self._positions: dict[Partition, Offset] = {}
        self._rows: dict[Partition, Generator[FileRow]] = {}
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
        """0 and the number of rows; each file is counted once. Raises InputError."""
        for partition in partitions:
            if partition not in self._counts:
                self._counts[partition] = count_rows(self._files[partition])
        return {partition: Bounds(0, self._counts[partition]) for partition in partitions}

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
        for partition in list(self._rows):
            self._close(partition)
        self._unread = []

    def _read_in_turn(self, into: list[Record]) -> None:
        """One equal share of each open file; those that got none because the batch is full come first next time."""
        window, later = self._unread[:OPEN_FILES_MAX], self._unread[OPEN_FILES_MAX:]
        left = self._batch_records_max - len(into)
        share = max(1, left // len(window))
        going_on = [partition for partition in window[:left] if self._read(partition, share, into)]
        self._unread = window[left:] + going_on + later

    def _read(self, partition: Partition, limit: int, into: list[Record]) -> bool:
        """Append up to `limit` rows from the position on; whether the file may hold more: one that ends is closed."""
        position = self._positions[partition]
        if partition not in self._rows:
            self._rows[partition] = read_rows(self._files[partition], self._columns, position)
        rows = list(itertools.islice(self._rows[partition], limit))
        into += [Record(partition, offset, 0, row.key, row.value) for offset, row in enumerate(rows, start=position)]
        self._positions[partition] = position + len(rows)
        if len(rows) == limit:
            return True
        self._close(partition)
        return False

    def _close(self, partition: Partition) -> None:
        rows = self._rows.pop(partition, None)
        if rows is not None:
            rows.close()
