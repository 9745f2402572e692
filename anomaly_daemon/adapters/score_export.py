"""Exported scores: one row per record in log order, as Parquet in row groups, with flat memory and whole whatever happens.

Rows are gathered in columns; a full row group is encoded and written by a thread beside the loop, one at a time. Before
a row group is begun, the room for it and for the file's end is reserved on the disk: one that fills up ends the export
between two row groups, and the file can still be finished.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa
import pyarrow.parquet as pq

from anomaly_daemon.adapters.score_rows import TEXTS, LogOrder, RowGroup, schema
from anomaly_daemon.adapters.whole_file import WholeFile
from anomaly_daemon.domain.errors import InputError, StopAtOnce
from anomaly_daemon.domain.records import BatchOutput, Offset, Partition

ROW_GROUP_ROWS = 65_536
_PARTITIONS_NAMED_MAX = 20
# The file's end has an entry per column and row group, about 100 bytes without statistics of texts, and twice the schema's metadata.
_ENTRY_BYTES, _END_BYTES = 256, 32_768
_REMEDY = "make room and export what is missing with `anomaly-daemon replay --export`"
_NOTHING: Mapping[str, str] = MappingProxyType({})


class ParquetExport:
    """Takes batches in order and writes `path` when closed; until then the rows are in `path`.part.

    metadata: noted in the file's schema. is_forced: a file that is there already may be replaced.
    Raises InputError where the file cannot be made.
    """

    def __init__(self, path: Path, channels: Sequence[str], metadata: Mapping[str, str] = _NOTHING, *, is_forced: bool = False) -> None:
        self._path, self._channels = path, tuple(channels)
        self._schema = schema(channels, metadata)
        self._end_bytes = _END_BYTES + 4 * sum(len(key.encode()) + len(text.encode()) for key, text in metadata.items())
        self._file = WholeFile(path, is_forced=is_forced)
        try:
            self._file.reserve(self._end_bytes)
        except OSError as error:
            self._file.close()
            raise InputError(f"{path}: cannot be written: {error.strerror}; make room, or name a file elsewhere") from None
        self._writer = pq.ParquetWriter(
            self._file.stream,
            self._schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=list(TEXTS),
            write_statistics=[name for name in self._schema.names if name not in TEXTS],
        )
        self._order, self._group = LogOrder(), RowGroup(self._channels, ROW_GROUP_ROWS)
        self._thread = ThreadPoolExecutor(1, "export")
        self._pending: Future[RowGroup] | None = None
        self._rows, self._next_offsets = 0, dict[Partition, Offset]()
        self._failure: StopAtOnce | None = None
        self._is_torn = self._is_closed = False

    @property
    def rows(self) -> int:
        """Rows in the file; all of them once it is closed, whole row groups before."""
        return self._rows

    @property
    def next_offsets(self) -> Mapping[Partition, Offset]:
        """Per partition the offset after its last row in the file; where it has none yet, the first one wanted."""
        return self._next_offsets

    def begin(self, partition: Partition, offset: Offset) -> None:
        """The first row wanted of a partition; only the first call counts, and the first after `end`."""
        self._order.begin(partition, offset)
        self._next_offsets.setdefault(partition, offset)

    def end(self, partition: Partition) -> None:
        """The partition goes to another member, whose rows are not wanted should it come back."""
        self._order.end(partition)

    def write(self, output: BatchOutput) -> None:
        """Append the rows that are not there yet: a batch whose commit took effect unheard comes a second time, through recovery.

        Raises StopAtOnce when an earlier row group could not be written.
        """
        if self._failure is not None:
            raise self._failure
        scored = output.scored
        if scored is None:
            return
        rows = self._order.take([*scored.observations.records, *(rejection.record for rejection in scored.rejections)])
        while len(rows[0]):
            room = self._group.room
            self._group.append(scored, *(column[:room] for column in rows))
            rows = rows[0][room:], rows[1][room:], rows[2][room:]
            if not self._group.room:
                self._hand_over()

    def close(self) -> None:
        """Write what is held and the file's end, and put the file under its name; may be called twice.

        Raises StopAtOnce when rows that `write` took are not in the file and nobody was told yet.
        """
        if self._is_closed:
            return
        self._is_closed = True
        try:
            if self._failure is None:
                self._hand_over()
                self._settle()
        finally:
            self._thread.shutdown()
            self._finish()

    def discard(self) -> None:
        """Close without leaving a file: what was to be exported turned out to be nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        self._thread.shutdown()
        with contextlib.suppress(OSError, pa.ArrowException):
            self._writer.close()
        self._file.discard()

    def _hand_over(self) -> None:
        """The row group at hand goes to the thread once the one before it is done."""
        self._settle()
        if self._group.filled:
            group, self._group = self._group, RowGroup(self._channels, ROW_GROUP_ROWS)
            self._pending = self._thread.submit(self._store, group)

    def _settle(self) -> None:
        """Wait for the row group under way and count its rows."""
        if self._pending is None:
            return
        try:
            group = self._pending.result()
        except (OSError, pa.ArrowException) as error:
            self._pending = None
            self._failure = self._stopped(error)
            raise self._failure from None
        self._pending = None
        self._rows += group.filled
        self._next_offsets |= group.ends(self._order.partitions)

    def _store(self, group: RowGroup) -> RowGroup:
        """On the thread: encode and write a row group."""
        table = group.table(self._schema, self._order.partitions[:])
        self._end_bytes += _ENTRY_BYTES * len(self._schema)
        # Twice: a text column may be begun with a dictionary and go on without.
        self._file.reserve(2 * table.nbytes + self._end_bytes)
        self._is_torn = True
        self._writer.write_table(table, ROW_GROUP_ROWS)
        self._is_torn = False
        return group

    def _finish(self) -> None:
        try:
            if self._is_torn:
                with contextlib.suppress(OSError, pa.ArrowException):
                    self._writer.close()
            else:
                self._writer.close()
                self._file.finish()
        except (OSError, pa.ArrowException) as error:
            raise StopAtOnce(f"{self._path}: cannot be finished: {_reason(error)}; {_REMEDY}") from None
        finally:
            self._file.close()

    def _stopped(self, error: Exception) -> StopAtOnce:
        """What became of the file, in one sentence."""
        if self._is_torn:
            return StopAtOnce(f"{self._path}: {_reason(error)}; the file is not made; {_REMEDY}")
        ends = [f"{partition} before offset {offset}" for partition, offset in sorted(self._next_offsets.items())]
        more = f" and {len(ends) - _PARTITIONS_NAMED_MAX} partitions more" if len(ends) > _PARTITIONS_NAMED_MAX else ""
        held = f"{self._rows:,} rows: {', '.join(ends[:_PARTITIONS_NAMED_MAX])}{more}"
        return StopAtOnce(f"{self._path}: {_reason(error)}; the file is whole and holds {held}; {_REMEDY}")


def _reason(error: Exception) -> str:
    """The first line of it, without the number."""
    return getattr(error, "strerror", None) or str(error).split("\n", 1)[0]
