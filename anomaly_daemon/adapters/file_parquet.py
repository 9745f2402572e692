"""Parquet rows as JSON objects, one row group at a time: timestamps ISO 8601, NaN as null; whole columns at a time."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from anomaly_daemon.adapters.file_columns import FileBlock, RowColumns, index_of, key_of, timestamp_ms
from anomaly_daemon.adapters.file_lines import opened
from anomaly_daemon.adapters.file_names import InputFile, is_gzipped

_BATCH_ROWS = 1024
_UTC_NAMES = ("UTC", "Etc/UTC", "+00:00")
_encode_lines = msgspec.json.Encoder().encode_lines


def read_parquet(file: InputFile, columns: RowColumns, start: int) -> Iterator[FileBlock]:
    """The rows from number `start` on; row groups before it are not read. Raises InputError for a column that is not there."""
    name = file.name.encode() or None
    with _opened(file.path) as parquet:
        names = parquet.schema_arrow.names
        key_index = index_of(file.path, names, columns.key)
        time_index = index_of(file.path, names, columns.time)
        row_of = _row_type(names)
        groups, skipped = _row_groups_from(parquet, start)
        for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=groups):
            if skipped + batch.num_rows <= start:
                skipped += batch.num_rows
                continue
            cells = [_values(column) for column in batch.slice(start - skipped if skipped < start else 0).columns]
            skipped = max(skipped, start)
            values = _encode_lines(list(map(row_of, *cells))).splitlines()
            keys = [name] * len(values) if key_index is None else list(map(key_of, cells[key_index]))
            times: list[int | None] = [None] * len(values) if time_index is None else list(map(timestamp_ms, cells[time_index]))
            yield FileBlock(keys, values, times)


def count_parquet(path: Path) -> Iterator[int]:
    """Numbers that add up to that of the rows: the file says so itself."""
    with _opened(path) as parquet:
        yield int(parquet.metadata.num_rows)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A pyarrow ParquetFile; a gzipped one is unpacked to a temporary file first, because Parquet is read from its end."""
    import pyarrow.parquet as pq

    with opened(path) as stream, tempfile.TemporaryFile() as unpacked:
        if is_gzipped(path):
            shutil.copyfileobj(stream, unpacked)
            unpacked.seek(0)
        with pq.ParquetFile(unpacked if is_gzipped(path) else path, memory_map=False, pre_buffer=False) as parquet:
            yield parquet


def _row_groups_from(parquet: Any, start: int) -> tuple[list[int], int]:
    """The row groups that hold row `start` and later ones, and how many rows lie before them."""
    skipped = 0
    for group in range(parquet.num_row_groups):
        group_rows = parquet.metadata.row_group(group).num_rows
        if skipped + group_rows > start:
            return list(range(group, parquet.num_row_groups)), skipped
        skipped += group_rows
    return [], skipped


def _row_type(names: Sequence[str]) -> Callable[..., object]:
    """What makes an object of a row's values: a struct is encoded faster than a dictionary, but its names must need no escape."""
    fields = [f"field_{number}" for number in range(len(names))]
    try:
        return msgspec.defstruct("Row", [(field, Any) for field in fields], rename=dict(zip(fields, names, strict=True)), gc=False)
    except ValueError:
        return lambda *values: dict(zip(names, values, strict=True))


def _values(column: Any) -> list[Any]:
    """The values of a column; numpy makes them several times faster where it keeps their type."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_timestamp(kind):
        return _iso_times(column)
    is_kept = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind)
    if is_kept or (column.null_count == 0 and (pa.types.is_integer(kind) or pa.types.is_boolean(kind))):
        return list(column.to_numpy(zero_copy_only=False).tolist())
    return list(column.to_pylist())


def _iso_times(column: Any) -> list[Any]:
    """ISO 8601 as fine as the column's unit, microseconds at the finest; Z in UTC."""
    import pyarrow as pa
    import pyarrow.compute as pc

    zone = column.type.tz
    if column.type.unit == "ns":
        column = column.cast(pa.timestamp("us", zone), safe=False)
    if zone is not None and zone not in _UTC_NAMES:
        return list(column.to_pylist())
    texts = pc.replace_substring(column.cast(pa.timestamp(column.type.unit)).cast(pa.string()), " ", "T", max_replacements=1)
    return list(pc.binary_join_element_wise(texts, "" if zone is None else "Z", "").to_numpy(zero_copy_only=False).tolist())
