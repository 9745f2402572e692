"""CSV and Parquet files of labels as chunks of columns, each cell checked and named by its row where it cannot be used."""

from __future__ import annotations

import contextlib
import csv
import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.evaluation.labels import Booleans, Integers
from anomaly_daemon.pipeline.event_time import parse_all_iso_us

_BATCH_ROWS: Final = 65_536
_FLAGS: Final = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows of a file. columns: name → Arrow array; first_row: the number of the first one, as messages count."""

    path: Path
    columns: dict[str, Any]
    first_row: int

    def times_us(self, name: str) -> Integers:
        """[rows] microseconds since 1970 UTC. Raises InputError for a cell that is no time."""
        column = self._filled(name)
        if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
            zone = getattr(column.type, "tz", None)
            return np.asarray(column.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64()).to_numpy(zero_copy_only=False), np.int64)
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise InputError(f"{self.path}: column {name} is {column.type}, not a time; write timestamps, or text such as 2026-01-31T12:00:00Z")
        texts = column.to_pylist()
        times_us, is_unread = parse_all_iso_us(texts)
        if is_unread.any():
            row = int(np.argmax(is_unread))
            raise InputError(f"{self.path}: row {self.first_row + row}: {name} {texts[row]!r} is no time; write 2026-01-31T12:00:00Z")
        return times_us

    def flags(self, name: str) -> Booleans:
        """[rows] of 0 and 1, or false and true. Raises InputError for anything else."""
        encoded = self._filled(name).cast(pa.string()).dictionary_encode()
        words = encoded.dictionary.to_pylist()
        codes = encoded.indices.to_numpy(zero_copy_only=False)
        for code, word in enumerate(words):
            if word.lower() not in _FLAGS:
                row = int(np.argmax(codes == code))
                raise InputError(f"{self.path}: row {self.first_row + row}: {name} {word!r} is neither 0 nor 1")
        return np.asarray(np.array([_FLAGS[word.lower()] for word in words], np.bool_)[codes])

    def numbers(self, name: str) -> NDArray[np.float64] | None:
        """[rows], NaN for null; None where the column is not of numbers."""
        try:
            return np.asarray(self.columns[name].cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
        except pa.ArrowException:
            return None

    def by_word(self, name: str) -> Iterator[tuple[str, Integers]]:
        """Each word of a column and the rows that bear it, in order of first appearance. Raises InputError for a row without."""
        encoded = self._filled(name).cast(pa.string()).dictionary_encode()
        codes = encoded.indices.to_numpy(zero_copy_only=False)
        order = np.argsort(codes, kind="stable")
        ends = np.cumsum(np.bincount(codes, minlength=len(encoded.dictionary)))
        yield from zip(encoded.dictionary.to_pylist(), np.split(order, ends[:-1]), strict=True)

    def _filled(self, name: str) -> Any:
        column = self.columns[name]
        if column.null_count:
            row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
            raise InputError(f"{self.path}: row {self.first_row + row}: no {name}; every label needs one")
        return column


@dataclass(frozen=True, slots=True)
class Table:
    """A file that is open. names: its columns, in order; first_row: the number of its first row, which in a CSV is its line."""

    path: Path
    names: list[str]
    first_row: int
    batches: Callable[[Sequence[str]], Iterator[Any]]

    def chunks(self, columns: Sequence[str]) -> Iterator[Chunk]:
        """Its rows, these columns only; none where it holds no row."""
        first_row = self.first_row
        for batch in self.batches(columns):
            if batch.num_rows:
                yield Chunk(self.path, {name: batch.column(name) for name in columns}, first_row)
            first_row += batch.num_rows


@contextlib.contextmanager
def open_table(path: Path) -> Iterator[Table]:
    """A CSV file, gzipped or not, or a Parquet file, by its name. Raises InputError, also while it is read."""
    name = path.name.lower()
    try:
        if name.endswith(".parquet"):
            with pq.ParquetFile(str(path), memory_map=False, pre_buffer=False) as parquet:
                yield _checked(path, parquet.schema_arrow.names, 1, lambda columns: parquet.iter_batches(_BATCH_ROWS, columns=list(columns)))
        elif name.endswith((".csv", ".csv.gz")):
            names, delimiter = _header(path)
            yield _checked(path, names, 2, lambda columns: _csv_batches(path, names, delimiter, columns))
        else:
            raise InputError(f"{path}: not a known kind of labels; give .csv, .csv.gz, .parquet, NAB's windows in .json, or a folder")
    except (pa.ArrowException, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        reason = str(error).split("\n", 1)[0].rstrip(".")
        raise InputError(f"{path}: cannot be read as labels: {reason}; mend or leave out the file") from None
    except OSError as error:
        if error.strerror is None:
            raise InputError(f"{path}: the gzip file is damaged or cut short ({error}); fetch or pack it again") from None
        raise InputError(f"{path}: cannot be read: {error.strerror}; check the file and its rights") from None


def _checked(path: Path, names: list[str], first_row: int, batches: Callable[[Sequence[str]], Iterator[Any]]) -> Table:
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise InputError(f"{path}: column {', '.join(doubled)} stands twice; rename one")
    return Table(path, names, first_row, batches)


def _header(path: Path) -> tuple[list[str], str]:
    """The columns' names and the delimiter: whichever of comma, semicolon and tab the first line has most of."""
    with gzip.open(path, "rt", encoding="utf-8-sig") if path.name.lower().endswith(".gz") else path.open(encoding="utf-8-sig") as file:
        line = file.readline()
    if not line.strip():
        raise InputError(f"{path}: empty, or its first line is; a CSV file of labels begins with the names of its columns")
    delimiter = max(",;\t", key=line.count)
    return [name.strip() for name in next(csv.reader([line], delimiter=delimiter))], delimiter


def _csv_batches(path: Path, names: list[str], delimiter: str, columns: Sequence[str]) -> Iterator[Any]:
    """Record batches of trimmed text; an empty cell is null."""
    convert = arrow_csv.ConvertOptions(
        include_columns=list(columns), column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=True, null_values=[""]
    )
    read = arrow_csv.ReadOptions(column_names=names, skip_rows=1, use_threads=False)
    with pa.input_stream(str(path), compression="gzip" if path.name.lower().endswith(".gz") else None) as stream:
        try:
            reader = arrow_csv.open_csv(stream, read, arrow_csv.ParseOptions(delimiter=delimiter), convert)
        except pa.ArrowInvalid as error:
            if "Empty CSV" in str(error):
                return
            raise
        for batch in reader:
            yield pa.RecordBatch.from_arrays([pc.utf8_trim_whitespace(batch.column(name)) for name in columns], list(columns))
