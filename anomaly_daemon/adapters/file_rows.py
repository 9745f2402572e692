"""Rows of a file as record bytes: CSV, JSON Lines and Parquet, gzipped or not, always streamed. Used by the file source and by `load`.

JSON Lines: each line unchanged. Blank lines are no rows.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from anomaly_daemon.adapters.file_columns import NO_COLUMNS, FileBlock, FileRow, RowColumns, key_of, timestamp_ms
from anomaly_daemon.adapters.file_csv import count_csv, read_csv
from anomaly_daemon.adapters.file_lines import count_lines, opened, whole_lines
from anomaly_daemon.adapters.file_names import InputFile, bare_suffix
from anomaly_daemon.adapters.file_parquet import count_parquet, read_parquet
from anomaly_daemon.domain.errors import InputError


def is_json_lines(file: InputFile) -> bool:
    """Whether its rows are lines passed on as they stand."""
    return _kind_of(file) is _JSON_LINES


def check_files(files: Sequence[InputFile], columns: RowColumns) -> None:
    """Raises InputError for the first that is of no known kind, cannot be opened or lacks a column; reads one row of each."""
    for file in files:
        with closing(read_rows(file, columns)) as rows:
            first = next(rows, None)
        if first is not None and bare_suffix(file.path) == ".json" and not _fields_of(first.value):
            raise InputError(f"{file.path}: its first line is no JSON object of its own; write one object a line, and name the file .jsonl")


def read_rows(file: InputFile, columns: RowColumns = NO_COLUMNS, start: int = 0) -> Generator[FileRow]:
    """The rows from number `start` on, in file order. Raises InputError naming file and row where it cannot be read on."""
    with closing(read_blocks(file, columns, start)) as blocks:
        for block in blocks:
            yield from block.rows()


def read_blocks(file: InputFile, columns: RowColumns = NO_COLUMNS, start: int = 0) -> Generator[FileBlock]:
    """The same, as many rows at a time as the file's own blocks bring."""
    kind = _kind_of(file)
    row = start
    with _explaining(file.path, lambda: row):
        for block in kind.read(file, columns, start):
            yield block
            row += len(block)


def count_rows(file: InputFile) -> int:
    """How many rows `read_rows` brings; Parquet says so itself, the others are gone through once. Raises InputError naming file and row."""
    kind = _kind_of(file)
    rows = 0
    with _explaining(file.path, lambda: rows):
        for count in kind.count(file.path):
            rows += count
    return rows


def _read_json_lines(file: InputFile, columns: RowColumns, start: int) -> Iterator[FileBlock]:
    name = file.name.encode() or None
    skipped = 0
    with opened(file.path) as stream:
        for block in whole_lines(stream):
            if skipped < start and (count := count_lines(block)) <= start - skipped:
                skipped += count
                continue
            lines = block.split(b"\n")
            if b"\r" in block:
                lines = [line.rstrip(b"\r") for line in lines]
            lines = list(filter(None, lines))[start - skipped :]
            skipped = start
            if columns == NO_COLUMNS:
                yield FileBlock([name] * len(lines), lines, [None] * len(lines))
            else:
                yield _with_columns(lines, columns, name)


def _with_columns(lines: list[bytes], columns: RowColumns, name: bytes | None) -> FileBlock:
    fields = [_fields_of(line) for line in lines]
    keys = [name] * len(lines) if columns.key is None else [key_of(one.get(columns.key)) for one in fields]
    times: list[int | None] = [None if columns.time is None else timestamp_ms(one.get(columns.time)) for one in fields]
    return FileBlock(keys, lines, times)


def _count_json_lines(path: Path) -> Iterator[int]:
    with opened(path) as stream:
        yield from map(count_lines, whole_lines(stream))


def _fields_of(line: bytes) -> dict[str, Any]:
    """The fields of a line, none of a bad one: that one is the decoder's to reject."""
    try:
        fields = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return fields if isinstance(fields, dict) else {}


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a kind of file is read and counted; count: numbers that add up to that of the rows."""

    read: Callable[[InputFile, RowColumns, int], Iterator[FileBlock]]
    count: Callable[[Path], Iterator[int]]


_JSON_LINES = _Kind(_read_json_lines, _count_json_lines)
_KINDS: dict[str, _Kind] = {
    ".csv": _Kind(read_csv, count_csv),
    ".jsonl": _JSON_LINES,
    ".ndjson": _JSON_LINES,
    ".json": _JSON_LINES,
    ".parquet": _Kind(read_parquet, count_parquet),
}


def _kind_of(file: InputFile) -> _Kind:
    kind = _KINDS.get(file.suffix or bare_suffix(file.path))
    if kind is None:
        raise InputError(f"{file.path}: not a known kind of file; it must end in {', '.join(_KINDS)}, with or without .gz")
    return kind


@contextmanager
def _explaining(path: Path, row: Callable[[], int]) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: row {row()}: the gzip file is damaged or cut short ({error}); fetch or pack it again") from error
    except OSError as error:
        if error.strerror is not None:
            raise InputError(f"{path}: cannot be read: {error.strerror}; check the file and its rights") from error
        raise InputError(f"{path}: row {row()}: the file is damaged or cut short ({error}); fetch or write it again") from error
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path}: row {row()}: {error}; mend or leave out the file") from error
