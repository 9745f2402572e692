"""Rows of a file as record bytes: CSV, JSON Lines and Parquet, gzipped or not, always streamed. Used by the file source and by `load`.

CSV: numbers stay as written, empty cells become null, other text a string; a row that does not fit its header is passed on as it stands, to be
rejected like any other bad record. JSON Lines: each line unchanged. Parquet: one JSON object a row, timestamps ISO 8601, NaN as null.
Blank lines are no rows.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import msgspec

from anomaly_daemon.adapters.file_names import InputFile, bare_suffix, is_gzipped
from anomaly_daemon.domain.errors import InputError

LINE_BYTES_MAX = 64 * 2**20
_PARQUET_BATCH_ROWS = 1024
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_LOOSE_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_EPOCH_UNITS = ((1e11, 0.001), (1e14, 1), (1e17, 1_000), (1e20, 1_000_000))  # below this the number is s, ms, µs, ns; units in a ms


class FileRow(msgspec.Struct, frozen=True, gc=False):
    """One row. timestamp_ms: None without a time column or where it cannot be read."""

    key: bytes | None
    value: bytes
    timestamp_ms: int | None


@dataclass(frozen=True, slots=True)
class RowColumns:
    """Fields that say more of a row than its JSON. key: the record's key, default the file's name; time: the record's timestamp."""

    key: str | None = None
    time: str | None = None


def check_files(files: Sequence[InputFile], columns: RowColumns) -> None:
    """Raises InputError for the first that is of no known kind, cannot be opened or lacks a column; reads one row of each."""
    for file in files:
        with closing(read_rows(file, columns)) as rows:
            first = next(rows, None)
        if first is not None and bare_suffix(file.path) == ".json" and not _fields_of(first.value):
            raise InputError(f"{file.path}: its first line is no JSON object of its own; write one object a line, and name the file .jsonl")


def read_lines(file: InputFile) -> Generator[bytes]:
    """The lines of a text file, gzipped or not, without their ends and without the blank ones. Raises InputError."""
    row = 0
    with _explaining(file.path, lambda: row), _opened(file.path) as stream:
        for line in _lines(stream):
            yield line
            row += 1


def read_rows(file: InputFile, columns: RowColumns = RowColumns(), start: int = 0) -> Generator[FileRow]:
    """The rows from number `start` on, in file order. Raises InputError naming file and row where it cannot be read on."""
    reader = _reader_of(file.path)
    row = 0
    with _explaining(file.path, lambda: start + row):
        for fields in reader(file, columns, start):
            yield fields
            row += 1


def count_rows(file: InputFile) -> int:
    """How many rows `read_rows` brings; Parquet says so itself, the others are read through once. Raises InputError."""
    with _explaining(file.path, lambda: 0):
        if bare_suffix(file.path) == ".parquet":
            with _opened_parquet(file.path) as parquet:
                return int(parquet.metadata.num_rows)
        if bare_suffix(file.path) == ".csv":
            with _opened_csv(file.path) as (_, _, rows):
                return sum(1 for _ in rows)
        with _opened(file.path) as stream:
            return sum(1 for _ in _lines(stream))


def timestamp_ms(moment: object) -> int | None:
    """Milliseconds since 1970 of ISO 8601 (UTC unless it says otherwise) or an epoch in s, ms, µs or ns by its size; None where it is neither."""
    if isinstance(moment, str):
        if _LOOSE_NUMBER.fullmatch(moment):
            moment = float(moment)
        else:
            try:
                moment = datetime.fromisoformat(moment)
            except ValueError:
                return None
    if isinstance(moment, datetime):
        return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    if isinstance(moment, (int, float)) and not isinstance(moment, bool):
        return next((round(moment / unit) for bound, unit in _EPOCH_UNITS if abs(moment) < bound), None)
    return None


Reader = Callable[[InputFile, RowColumns, int], Iterator[FileRow]]


def _read_csv(file: InputFile, columns: RowColumns, start: int) -> Iterator[FileRow]:
    with _opened_csv(file.path) as (names, delimiter, rows):
        key_index = _index_of(file.path, names, columns.key)
        time_index = _index_of(file.path, names, columns.time)
        labels = [json.dumps(name, ensure_ascii=False) + ":" for name in names]
        name = file.name.encode()
        for cells in itertools.islice(rows, start, None):
            if len(cells) != len(names):
                yield FileRow(None if key_index is not None else name, delimiter.join(cells).encode("utf-8", "surrogateescape"), None)
                continue
            value = "{" + ",".join([label + _json_of(cell) for label, cell in zip(labels, cells, strict=True)]) + "}"
            yield FileRow(
                name if key_index is None else cells[key_index].encode("utf-8", "surrogateescape"),
                value.encode("utf-8", "surrogateescape"),
                None if time_index is None else timestamp_ms(cells[time_index]),
            )


def _json_of(cell: str) -> str:
    if not cell:
        return "null"
    if _JSON_NUMBER.fullmatch(cell):
        return cell
    return json.dumps(float(cell)) if _LOOSE_NUMBER.fullmatch(cell) else json.dumps(cell, ensure_ascii=False)


def _index_of(path: Path, names: Sequence[str], column: str | None) -> int | None:
    if column is None:
        return None
    if column not in names:
        raise InputError(f"{path}: no column {column!r}; it has: {', '.join(names)}")
    return names.index(column)


def _read_json_lines(file: InputFile, columns: RowColumns, start: int) -> Iterator[FileRow]:
    name = file.name.encode()
    with _opened(file.path) as stream:
        for line in itertools.islice(_lines(stream), start, None):
            fields = _fields_of(line) if columns.key is not None or columns.time is not None else {}
            yield FileRow(
                name if columns.key is None else _key_of(fields.get(columns.key)),
                line,
                None if columns.time is None else timestamp_ms(fields.get(columns.time)),
            )


def _fields_of(line: bytes) -> dict[str, Any]:
    """The fields of a line, none of a bad one: that one is the decoder's to reject."""
    try:
        fields = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _key_of(field: object) -> bytes | None:
    if isinstance(field, str):
        return field.encode()
    return str(field).encode() if isinstance(field, int) and not isinstance(field, bool) else None


def _read_parquet(file: InputFile, columns: RowColumns, start: int) -> Iterator[FileRow]:
    name = file.name.encode()
    with _opened_parquet(file.path) as parquet:
        names = parquet.schema_arrow.names
        _index_of(file.path, names, columns.key)
        _index_of(file.path, names, columns.time)
        groups, skipped = _row_groups_from(parquet, start)
        rows = (row for batch in parquet.iter_batches(_PARQUET_BATCH_ROWS, row_groups=groups) for row in _microseconds(batch).to_pylist())
        for row in itertools.islice(rows, start - skipped, None):
            yield FileRow(
                name if columns.key is None else _key_of(row[columns.key]),
                msgspec.json.encode(row),
                None if columns.time is None else timestamp_ms(row[columns.time]),
            )


def _row_groups_from(parquet: Any, start: int) -> tuple[list[int], int]:
    """The row groups that hold row `start` and later ones, and how many rows lie before them."""
    skipped = 0
    for group in range(parquet.num_row_groups):
        group_rows = parquet.metadata.row_group(group).num_rows
        if skipped + group_rows > start:
            return list(range(group, parquet.num_row_groups)), skipped
        skipped += group_rows
    return [], skipped


def _microseconds(batch: Any) -> Any:
    """The batch with nanosecond timestamps cut to microseconds, which is what a datetime holds."""
    import pyarrow as pa

    fields = [
        field.with_type(pa.timestamp("us", field.type.tz)) if pa.types.is_timestamp(field.type) and field.type.unit == "ns" else field
        for field in batch.schema
    ]
    return batch.cast(pa.schema(fields), safe=False)


_READERS: dict[str, Reader] = {
    ".csv": _read_csv,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".json": _read_json_lines,
    ".parquet": _read_parquet,
}


def _reader_of(path: Path) -> Reader:
    reader = _READERS.get(bare_suffix(path))
    if reader is None:
        raise InputError(f"{path}: not a known kind of file; it must end in {', '.join(_READERS)}, with or without .gz")
    return reader


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    while line := stream.readline(LINE_BYTES_MAX):
        if len(line) == LINE_BYTES_MAX:
            raise ValueError(f"a line is longer than {LINE_BYTES_MAX} bytes")
        if line := line.rstrip(b"\r\n"):
            yield line


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as raw:
        if is_gzipped(path):
            with gzip.open(raw) as unpacked:
                yield io.BufferedReader(unpacked)
        else:
            yield raw


@contextmanager
def _opened_csv(path: Path) -> Iterator[tuple[list[str], str, Iterator[list[str]]]]:
    """Column names, delimiter and the rows that are not blank. Bad UTF-8 survives as surrogates and is written back as it was."""
    with _opened(path) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        header = text.readline(LINE_BYTES_MAX)
        delimiter = max(",;\t", key=header.count)
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), [])]
        if not any(names):
            raise InputError(f"{path}: row 0: no column names; the first line of a CSV file must name its columns")
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise InputError(f"{path}: column {', '.join(map(repr, doubled))} stands twice; rename one")
        lines = iter(lambda: text.readline(LINE_BYTES_MAX), "")
        yield names, delimiter, filter(None, csv.reader(lines, delimiter=delimiter, skipinitialspace=True))


@contextmanager
def _opened_parquet(path: Path) -> Iterator[Any]:
    """A pyarrow ParquetFile; a gzipped one is unpacked to a temporary file first, because Parquet is read from its end."""
    import pyarrow.parquet as pq

    with _opened(path) as stream, tempfile.TemporaryFile() as unpacked:
        if is_gzipped(path):
            shutil.copyfileobj(stream, unpacked)
            unpacked.seek(0)
        with pq.ParquetFile(unpacked if is_gzipped(path) else path, memory_map=False, pre_buffer=False) as parquet:
            yield parquet


@contextmanager
def _explaining(path: Path, row: Callable[[], int]) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: row {row()}: the gzip file is damaged or cut short ({error}); fetch or pack it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; check the file and its rights") from error
    except (csv.Error, ValueError) as error:
        raise InputError(f"{path}: row {row()}: {error}; mend or leave out the file") from error
