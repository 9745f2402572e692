"""Several files read in turn, an equal share of each, and how such a turn travels from the process that reads to the one that judges."""

from __future__ import annotations

import itertools
from collections.abc import Container, Generator, Sequence
from dataclasses import dataclass, field
from typing import IO

import msgspec

from anomaly_daemon.adapters.file_columns import FileBlock, RowColumns
from anomaly_daemon.adapters.file_names import InputFile
from anomaly_daemon.adapters.file_rows import read_blocks
from anomaly_daemon.domain.errors import InputError

OPEN_FILES_MAX = 256
_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True)
class Share:
    """Rows of one file that follow each other. file: its place among the files; first: row number; keys: None where all have the file's name."""

    file: int
    first: int
    keys: Sequence[bytes | None] | None
    values: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a file cannot be read on: what, where and the remedy."""

    file: int
    why: str


@dataclass(frozen=True, slots=True)
class Turn:
    """What one look at the files brought; nothing once all have ended. A file that failed has ended behind its shares of this turn."""

    shares: list[Share] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def without(self, files: Container[int]) -> Turn:
        """What it brought of the others."""
        return Turn([one for one in self.shares if one.file not in files], [one for one in self.failures if one.file not in files])


class Turns:
    """Up to 256 files open at a time, the others after them. Only files that were sought are read."""

    def __init__(self, files: Sequence[InputFile], columns: RowColumns, rows_max: int) -> None:
        self._files, self._columns, self._rows_max = files, columns, rows_max
        self._unread: list[int] = []
        self._rows: dict[int, int] = {}
        self._blocks: dict[int, Generator[FileBlock]] = {}
        self._begun: dict[int, tuple[FileBlock, int]] = {}

    @property
    def rest(self) -> dict[int, int]:
        """The next row of each file that has not ended, in the order in which they come: sought so, others go on with the same turns."""
        return {file: self._rows[file] for file in self._unread}

    def seek(self, file: int, row: int) -> None:
        """Make `row` the next one of this file; one that had ended comes after the others."""
        self._close(file)
        self._rows[file] = row
        if file not in self._unread:
            self._unread.append(file)

    def take(self) -> Turn:
        """The next rows, up to `rows_max`."""
        turn = Turn()
        left = self._rows_max
        while self._unread and left:
            left -= self._go_round(left, turn)
        return turn

    def close(self) -> None:
        """Close the files; nothing follows but after a seek."""
        for file in list(self._blocks):
            self._close(file)
        self._unread = []

    def _go_round(self, left: int, into: Turn) -> int:
        """One equal share of each open file, `left` rows in all at most; those that got none for want of room come first next time."""
        window, later = self._unread[:OPEN_FILES_MAX], self._unread[OPEN_FILES_MAX:]
        limit = max(1, left // len(window))
        read = {file: self._read(file, limit, into) for file in window[:left]}
        self._unread = window[left:] + [file for file, rows in read.items() if rows == limit] + later
        return sum(read.values())

    def _read(self, file: int, limit: int, into: Turn) -> int:
        """Add up to `limit` rows of the file; fewer where it ended or failed, and then it is closed."""
        wanted = limit
        while wanted:
            try:
                block, used = self._next_block(file)
            except InputError as error:
                into.failures.append(Failure(file, str(error)))
                block, used = None, 0
            if block is None:
                self._close(file)
                break
            rows = slice(used, used + wanted)
            values = block.values[rows]
            into.shares.append(Share(file, self._rows[file], None if self._columns.key is None else block.keys[rows], values))
            self._rows[file] += len(values)
            wanted -= len(values)
            if rows.stop < len(block):
                self._begun[file] = block, rows.stop
        return limit - wanted

    def _next_block(self, file: int) -> tuple[FileBlock | None, int]:
        """Rows, and how many of them were given out before; None behind the last row. Raises InputError."""
        if file in self._begun:
            return self._begun.pop(file)
        if file not in self._blocks:
            self._blocks[file] = read_blocks(self._files[file], self._columns, self._rows[file])
        return next(self._blocks[file], None), 0

    def _close(self, file: int) -> None:
        self._begun.pop(file, None)
        if file in self._blocks:
            self._blocks.pop(file).close()


class _Part(msgspec.Struct, frozen=True, array_like=True):
    """A share without its values."""

    file: int
    first: int
    rows: int
    keys: Sequence[bytes | None] | None


class _Head(msgspec.Struct, frozen=True, array_like=True):
    """A turn without its values."""

    parts: list[_Part]
    failures: list[Failure]


_decode_head = msgspec.msgpack.Decoder(_Head).decode


def write_turn(stream: IO[bytes], turn: Turn) -> None:
    """A head, then all values as lines: JSON holds no raw line feed, and neither does a line passed on as it stands."""
    parts = [_Part(share.file, share.first, len(share.values), share.keys) for share in turn.shares]
    write_message(stream, msgspec.msgpack.encode(_Head(parts, turn.failures)))
    write_message(stream, b"\n".join(itertools.chain.from_iterable(share.values for share in turn.shares)))


def read_turn(stream: IO[bytes]) -> Turn | None:
    """The same turn; None where the stream ended before it was whole."""
    encoded = read_message(stream)
    lines = None if encoded is None else read_message(stream)
    if encoded is None or lines is None:
        return None
    head = _decode_head(encoded)
    values = lines.split(b"\n") if head.parts else []
    ends = list(itertools.accumulate(part.rows for part in head.parts))
    assert len(values) == (ends[-1] if ends else 0), "a value holds a line feed"
    shares = [Share(part.file, part.first, part.keys, values[end - part.rows : end]) for part, end in zip(head.parts, ends, strict=True)]
    return Turn(shares, head.failures)


def write_message(stream: IO[bytes], message: bytes) -> None:
    """Behind its length."""
    stream.write(len(message).to_bytes(_LENGTH_BYTES, "little"))
    stream.write(message)


def read_message(stream: IO[bytes]) -> bytes | None:
    """None where the stream ended before it was whole."""
    length = stream.read(_LENGTH_BYTES)
    if len(length) < _LENGTH_BYTES:
        return None
    message = stream.read(wanted := int.from_bytes(length, "little"))
    return message if len(message) == wanted else None
