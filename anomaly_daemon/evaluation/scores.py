"""Exported scores, read back: streamed in batches for whoever needs flat memory, or gathered per entity for the measures.

Columns as `replay --export` and `run --export` write them, one row per record in log order. In memory they become
    topic, entity, phase, incident_id                     int32 codes into `ScoreFile.words[column]`, −1 for null
    partition, offset                                     int64
    timestamp                                             int64, microseconds since 1970 UTC; NO_TIME for null
    anomaly_score, tail_probability, threshold, grade,    float64, NaN for null
    and each evidence channel
    is_anomaly                                            bool, null is False
A record that was rejected has a null entity.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from anomaly_daemon.domain.errors import InputError

Column = NDArray[Any]
BATCH_ROWS: Final = 65_536
NO_TIME: Final = int(np.iinfo(np.int64).min)
NO_CODE: Final = -1
DEVIATIONS: Final = "deviations"
MEASURED: Final = ("timestamp", "anomaly_score", "is_anomaly", "incident_id")


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or (pa.types.is_dictionary(kind) and _is_text(kind.value_type)))


_TEXTS: Final = ["topic", "entity", "phase", "incident_id"]
_KINDS: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    **dict.fromkeys(_TEXTS, (_is_text, "text")),
    **dict.fromkeys(("partition", "offset"), (pa.types.is_integer, "a whole number")),
    **dict.fromkeys(("anomaly_score", "tail_probability", "threshold", "grade"), (pa.types.is_floating, "a floating number")),
    "timestamp": (pa.types.is_timestamp, "a timestamp"),
    "is_anomaly": (pa.types.is_boolean, "a boolean"),
}


class ScoreFile:
    """An export, opened, with its schema checked; also a context manager.

    rows: records of the file, rejected ones included. channels: the evidence columns. metadata: what the writer noted, text to text.
    words: per text column the words met so far, in order of appearance; they grow while batches are read.
    """

    def __init__(self, path: Path) -> None:
        """Raises InputError where the file is missing, no Parquet, of another schema, or without a record."""
        self.path = path
        with _explaining(path):
            self._file = pq.ParquetFile(str(path), memory_map=False, pre_buffer=False)
        try:
            _check_schema(path, self._file.schema_arrow)
            # Opened anew: texts as codes halve what reading costs, but may be asked for only where they are.
            metadata = self._file.metadata
            self.close()
            self._file = pq.ParquetFile(str(path), metadata=metadata, memory_map=False, pre_buffer=False, read_dictionary=_TEXTS)
            schema = self._file.schema_arrow
            self.rows = int(self._file.metadata.num_rows)
            if self.rows == 0:
                raise InputError(f"{path}: holds no record; export a range or files that have some")
        except BaseException:
            self.close()
            raise
        self.names = (*_KINDS, *(field.name for field in schema if field.name not in _KINDS and pa.types.is_floating(field.type)))
        self.channels = tuple(name for name in self.names if name not in _KINDS and name != DEVIATIONS)
        self.metadata = {key.decode("utf-8", "replace"): text.decode("utf-8", "replace") for key, text in (schema.metadata or {}).items()}
        self.words: dict[str, list[str]] = {name: [] for name, (is_kind, _) in _KINDS.items() if is_kind is _is_text}
        self._codes: dict[str, dict[str, int]] = {name: {} for name in self.words}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; may be called twice."""
        self._file.close()

    def batches(self, columns: Sequence[str], batch_rows: int = BATCH_ROWS) -> Iterator[dict[str, Column]]:
        """The wanted columns, at most so many rows at a time, in file order; nothing else of the file is read.

        Raises InputError for a column that the file does not have, and where the file is damaged.
        """
        unknown = [name for name in columns if name not in self.names]
        if unknown:
            raise InputError(f"{self.path}: no column {', '.join(unknown)}; it has {', '.join(self.names)}")
        with _explaining(self.path):
            for batch in self._file.iter_batches(batch_rows, columns=list(columns)):
                yield {name: self._column(name, batch.column(name)) for name in columns}

    def _column(self, name: str, column: Any) -> Column:
        if name in self.words:
            return self._coded(name, column)
        if name == "timestamp":
            instants = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
            return np.asarray(instants.fill_null(NO_TIME).to_numpy(zero_copy_only=False), np.int64)
        if name == "is_anomaly":
            return np.asarray(column.fill_null(False).to_numpy(zero_copy_only=False), np.bool_)
        if name in ("partition", "offset"):
            return np.asarray(column.cast(pa.int64()).fill_null(NO_CODE).to_numpy(zero_copy_only=False), np.int64)
        return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)

    def _coded(self, name: str, column: Any) -> Column:
        """Text as codes that hold for the whole file."""
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        codes, words = self._codes[name], self.words[name]
        known = np.empty(len(column.dictionary), np.int32)
        for place, word in enumerate(column.dictionary.to_pylist()):
            code = codes.setdefault(word, len(words))
            if code == len(words):
                words.append(word)
            known[place] = code
        places = column.indices.fill_null(NO_CODE).to_numpy(zero_copy_only=False)
        return np.asarray(np.append(known, np.int32(NO_CODE))[places])


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """The rows that have an entity and a time, gathered by entity; within one in the order of the file.

    places:  entity → its place, in order of first appearance. bounds: int64 [entities + 1], where each one's rows begin.
    columns: name → [rows], as the module says. incident_ids: the words of column `incident_id`.
    """

    path: Path
    places: Mapping[str, int]
    bounds: NDArray[np.int64]
    columns: Mapping[str, Column]
    incident_ids: Sequence[str]

    def column(self, entity: str, name: str) -> Column:
        """One column of an entity: a view, not to be written to. Raises KeyError for what is not there."""
        place = self.places[entity]
        return self.columns[name][self.bounds[place] : self.bounds[place + 1]]


def read_scores(path: Path, columns: Sequence[str] = MEASURED) -> ScoreTable:
    """An export gathered per entity: besides a passing index of 8 bytes a row, as much memory as its columns.

    Raises InputError as `ScoreFile` does, and where no record was scored.
    """
    with ScoreFile(path) as file:
        codes = np.empty(file.rows, np.int32)
        gathered: dict[str, Column] = {}
        filled = 0
        for batch in file.batches(["entity", *columns]):
            entity = batch.pop("entity")
            is_scored = entity != NO_CODE
            if "timestamp" in batch:
                is_scored &= batch["timestamp"] != NO_TIME
            size = int(np.count_nonzero(is_scored))
            codes[filled : filled + size] = entity[is_scored]
            for name, column in batch.items():
                if name not in gathered:
                    gathered[name] = np.empty(file.rows, column.dtype)
                gathered[name][filled : filled + size] = column[is_scored]
            filled += size
        if filled == 0:
            raise InputError(f"{path}: none of its {file.rows:,} records was scored; see the dead-letter topic for the reasons")
        names, incident_ids = file.words["entity"], file.words["incident_id"]
    codes = codes[:filled]
    bounds = np.append(0, np.cumsum(np.bincount(codes, minlength=len(names)))).astype(np.int64)
    order = np.argsort(codes.astype(np.uint16) if len(names) <= 1 << 16 else codes, kind="stable")
    for name in gathered:
        gathered[name] = gathered[name][:filled][order]
    places = {name: place for place, name in enumerate(names) if bounds[place] < bounds[place + 1]}
    return ScoreTable(path, places, bounds, gathered, incident_ids)


def _check_schema(path: Path, schema: Any) -> None:
    missing = [name for name in _KINDS if name not in schema.names]
    if missing:
        raise InputError(
            f"{path}: not exported scores: no column {', '.join(missing)}; it has {', '.join(schema.names[:20]) or 'none'}. "
            "`anomaly-daemon replay --export` writes them"
        )
    for name, (is_kind, words) in _KINDS.items():
        if schema.names.count(name) > 1:
            raise InputError(f"{path}: not exported scores: column {name} stands twice; export them anew")
        if not is_kind(schema.field(name).type):
            raise InputError(f"{path}: not exported scores: column {name} is {schema.field(name).type}, not {words}; export them anew")


@contextlib.contextmanager
def _explaining(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; `anomaly-daemon replay --export {path}` writes one") from None
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: not a Parquet file, or damaged or cut short ({_first_line(error)}); export the scores anew") from None
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read: {_first_line(error)}; check the file and its rights, or export anew") from None


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0].rstrip(".")
