"""`Source` on files: one file is one partition, sorted by path, the row number its offset; there is no group and nothing to wait for.

A record's value is its row as JSON, its key the file's name without suffixes, and it has no timestamp of its own: entity and
event time are read from the fields that the settings name, and `record.entity: key` makes every file one entity.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import closing

from anomaly_daemon.adapters.file_columns import RowColumns
from anomaly_daemon.adapters.file_names import InputFile, find_files, is_gzipped
from anomaly_daemon.adapters.file_reader import ReaderProcess
from anomaly_daemon.adapters.file_rows import check_files, count_rows, is_json_lines, read_blocks
from anomaly_daemon.adapters.file_turns import Failure, Share, Turns
from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.domain.records import Batch, Bounds, ChangeKind, Offset, Partition, PartitionChange, Record
from anomaly_daemon.pipeline.time_range import TimesOf

READER_BYTES_MIN = 2 * 2**20
_NO_TIMESTAMP = -1  # as Kafka has it


class FileSource:
    """Reads paths, folders, globs and file:// URLs; all partitions are assigned at the first poll, empty batches follow the last row.

    Much that has to be parsed or unpacked is read by a process of its own, as soon as that is up.
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
        self._partitions = [Partition(topic, number) for number in range(len(files))]
        self._files = dict(zip(self._partitions, files, strict=True))
        self._batch_records_max, self._times_ms = batch_records_max, times_ms
        self._is_apart = sum(map(_bytes_to_parse, files)) >= READER_BYTES_MIN
        self._turns = Turns(files, self._columns, batch_records_max)
        self._process: ReaderProcess | None = None
        self._reader: Turns | ReaderProcess = self._turns
        self._failures: list[Failure] = []
        self._positions: dict[Partition, Offset] = {}
        self._counts: dict[Partition, int] = {}
        self._is_assigned = False

    def poll(self, timeout_s: float) -> Batch:  # noqa: ARG002 - files do not grow, so there is nothing to wait for
        """The next rows of up to 256 files in turn.

        Raises InputError naming file and row where one cannot be read on, after its rows before; StopAtOnce where the process that reads ended.
        """
        if not self._is_assigned:
            self._is_assigned = True
            if self._is_apart:
                self._process = ReaderProcess(list(self._files.values()), self._columns, self._batch_records_max)
            return Batch(changes=(PartitionChange(ChangeKind.ASSIGNED, tuple(self._partitions)),))
        records: list[Record] = []
        if not self._failures:
            turn = self._reader.take()
            for share in turn.shares:
                records += self._records(share)
                self._positions[self._partitions[share.file]] += len(share.values)
            self._failures += turn.failures
            self._hand_over()
        if self._failures and not records:
            raise InputError(self._failures.pop(0).why)
        return Batch(records=records)

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, Offset]:  # noqa: ARG002 - the seam's argument
        """None: a file has no groups."""
        return {}

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
        self._positions[partition] = offset
        self._failures = [failure for failure in self._failures if failure.file != partition.number]
        self._reader.seek(partition.number, offset)

    def close(self) -> None:
        """Close the files and end the process that reads; may be called twice."""
        self._turns.close()
        self._reader = self._turns
        if self._process is not None:
            self._process.close()
            self._process = None

    def _hand_over(self) -> None:
        """Once the process is up, it reads on behind the turn just taken, while that one is judged: nobody waits for its start."""
        if self._process is None or self._reader is self._process or not self._process.is_ready():
            return
        for file, row in self._turns.rest.items():
            self._process.seek(file, row)
        self._turns.close()
        self._process.read_ahead()
        self._reader = self._process

    def _offset_at(self, partition: Partition, time_ms: int) -> Offset:
        if self._times_ms is None:
            raise InputError(f"{self._files[partition].path}: its records bear no timestamps to look for; give row numbers instead of times")
        offset = 0
        with closing(read_blocks(self._files[partition], self._columns)) as blocks:
            for block in blocks:
                times = self._times_ms(self._records(Share(partition.number, offset, block.keys, block.values)))
                found = next((place for place, time in enumerate(times) if time >= time_ms), None)
                if found is not None:
                    return offset + found
                offset += len(block)
        return offset

    def _records(self, share: Share) -> list[Record]:
        partition = self._partitions[share.file]
        keys = itertools.repeat(self._files[partition].name.encode() or None) if share.keys is None else share.keys
        return list(map(Record, itertools.repeat(partition), itertools.count(share.first), itertools.repeat(_NO_TIMESTAMP), keys, share.values))


def _bytes_to_parse(file: InputFile) -> int:
    """Lines taken as they stand cost no more to cut than to take over from another process."""
    return 0 if is_json_lines(file) and not is_gzipped(file.path) else file.path.stat().st_size
