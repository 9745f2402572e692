"""One row of a file as a record's parts, and the columns that say more of it than its JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from anomaly_daemon.domain.errors import InputError

LOOSE_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_EPOCH_UNITS = ((1e11, 0.001), (1e14, 1), (1e17, 1_000), (1e20, 1_000_000))  # below this the number is s, ms, µs, ns; units in a ms


class FileRow(msgspec.Struct, frozen=True, gc=False):
    """One row. key: None where it has none; timestamp_ms: None without a time column or where it cannot be read."""

    key: bytes | None
    value: bytes
    timestamp_ms: int | None


@dataclass(frozen=True, slots=True)
class FileBlock:
    """Rows that were read at once, as parallel lists: see FileRow."""

    keys: list[bytes | None]
    values: list[bytes]
    times_ms: list[int | None]

    def rows(self) -> Iterator[FileRow]:
        """One by one."""
        return map(FileRow, self.keys, self.values, self.times_ms)

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True)
class RowColumns:
    """Fields that say more of a row than its JSON. key: the record's key, default the file's name; time: the record's timestamp."""

    key: str | None = None
    time: str | None = None


NO_COLUMNS = RowColumns()


def index_of(path: Path, names: Sequence[str], column: str | None) -> int | None:
    """Where the column stands, None for none. Raises InputError when there is no such column."""
    if column is None:
        return None
    if column not in names:
        raise InputError(f"{path}: no column {column!r}; it has: {', '.join(names)}")
    return names.index(column)


def key_of(field: object) -> bytes | None:
    """The key that a text or a whole number makes; None for anything else."""
    if isinstance(field, str):
        return field.encode()
    return str(field).encode() if isinstance(field, int) and not isinstance(field, bool) else None


def timestamp_ms(moment: object) -> int | None:
    """Milliseconds since 1970 of ISO 8601 (UTC unless it says otherwise) or an epoch in s, ms, µs or ns by its size; None where it is neither."""
    if isinstance(moment, str):
        if LOOSE_NUMBER.fullmatch(moment):
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
