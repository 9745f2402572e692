"""CSV rows as JSON objects: numbers stay as written, empty cells become null, other text a string; whole columns at a time.

A row that does not fit the header is passed on as it stands, to be rejected like any other bad record.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from json.encoder import encode_basestring
from operator import itemgetter
from pathlib import Path

import msgspec

from anomaly_daemon.adapters.file_columns import LOOSE_NUMBER, FileBlock, RowColumns, index_of, timestamp_ms
from anomaly_daemon.adapters.file_lines import READ_ERRORS, count_lines, opened, whole_lines
from anomaly_daemon.adapters.file_names import InputFile
from anomaly_daemon.domain.errors import InputError

ROW_LINES_MAX = 1000
_PIECE_ROWS = 1024
_REMEMBERED_CELL_MAX, _REMEMBERED_CELLS = 64, 8192
_BLANKS = (" ", "\t", "\r", "\n")
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_parse_numbers = msgspec.json.Decoder(list[float]).decode
_parse_numbers_and_nulls = msgspec.json.Decoder(list[float | None]).decode

# Rows that fit the header, column by column, or the text of one row that does not.
Piece = Sequence[Sequence[str]] | str


def read_csv(file: InputFile, columns: RowColumns, start: int) -> Iterator[FileBlock]:
    """The rows from number `start` on. Raises InputError for a header that names no columns, one twice, or not those wanted."""
    with _opened(file.path) as table:
        key_index = index_of(file.path, table.names, columns.key)
        time_index = index_of(file.path, table.names, columns.time)
        labels = [json.dumps(name, ensure_ascii=False) + ":" for name in table.names]
        name = file.name.encode() or None
        for piece in table.pieces(start):
            if isinstance(piece, str):
                yield FileBlock([None if key_index is not None else name], [_encoded(piece)], [None])
                continue
            values = list(_json_objects(labels, piece))
            keys: list[bytes | None] = [name] * len(values) if key_index is None else list(map(_encoded, piece[key_index]))
            times: list[int | None] = [None] * len(values) if time_index is None else list(map(timestamp_ms, piece[time_index]))
            yield FileBlock(keys, values, times)


def count_csv(path: Path) -> Iterator[int]:
    """Numbers that add up to that of the rows, as they are found."""
    with _opened(path) as table:
        for block in table.blocks:
            if b'"' not in block or table.is_a_line_a_row(block):
                yield _count_rows(block)
            else:
                yield from map(_rows_in, table.careful_pieces(block))


def _rows_in(piece: Piece) -> int:
    return 1 if isinstance(piece, str) else len(piece[0])


@contextmanager
def _opened(path: Path) -> Iterator[_Table]:
    """Raises InputError for a first line that names no columns, or one twice."""
    with opened(path) as stream:
        blocks = whole_lines(stream, b"\n\r")
        first = next(blocks, b"").removeprefix(b"\xef\xbb\xbf")
        header = first.splitlines(keepends=True)[0] if first else b""
        line = _decoded(header)
        delimiter = max(",;\t", key=line.count)
        names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])]
        if not any(names):
            raise InputError(f"{path}: row 0: no column names; the first line of a CSV file must name its columns")
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise InputError(f"{path}: column {', '.join(map(repr, doubled))} stands twice; rename one")
        yield _Table(names, delimiter, itertools.chain([first[len(header) :]], blocks))


@dataclass(frozen=True, slots=True)
class _Table:
    """What stands behind the header: blocks of whole lines, each taken once."""

    names: list[str]
    delimiter: str
    blocks: Iterator[bytes]

    def pieces(self, start: int) -> Iterator[Piece]:
        """All rows from number `start` on; blocks before it are counted, not parsed."""
        skipped = 0
        for block in self.blocks:
            if b'"' not in block and skipped < start and (count := _count_rows(block)) <= start - skipped:
                skipped += count
                continue
            for piece in self._plain_pieces(block) if self._is_plain(block) else self.careful_pieces(block):
                count = _rows_in(piece)
                if skipped >= start:
                    yield piece
                elif skipped + count > start and not isinstance(piece, str):
                    yield [cells[start - skipped :] for cells in piece]
                skipped = max(skipped, min(skipped + count, start))

    def _is_plain(self, block: bytes) -> bool:
        """Whether every line is cut at its delimiters and nothing else: no quote, and no blank that would not count."""
        return not any(sign in block for sign in (b'"', b"\n ", b"\r ", self.delimiter.encode() + b" ")) and not block.startswith(b" ")

    def is_a_line_a_row(self, block: bytes) -> bool:
        """Whether no quoted cell goes over a line: every quote that opens one stands where a cell begins, or doubles the one that closed it."""
        parts = block.split(b'"')
        inside, ends = b"".join(parts[1::2]), frozenset(b"\r\n" + self.delimiter.encode())
        is_one_line = len(parts) % 2 == 1 and b"\n" not in inside and b"\r" not in inside
        return is_one_line and ends.issuperset(map(itemgetter(-1), filter(None, parts[:-1:2])))

    def _plain_pieces(self, block: bytes) -> Iterator[Piece]:
        lines = filter(None, _decoded(block).replace("\r\n", "\n").replace("\r", "\n").split("\n"))
        columns = len(self.names)
        for fits, some in itertools.groupby(lines, lambda line: line.count(self.delimiter) == columns - 1):
            if fits:
                cells = self.delimiter.join(some).split(self.delimiter)
                yield [cells[column::columns] for column in range(columns)]
            else:
                yield from some

    def careful_pieces(self, block: bytes) -> Iterator[Piece]:
        """From this block to the end of the file: a quoted cell may go over several lines.

        Where such a row does not fit the header, somebody forgot to close a quote: its first line is passed on alone, the next is read anew.
        """
        lines = (_decoded(line) for one in itertools.chain([block], self.blocks) for line in one.splitlines(keepends=True))
        again: deque[str] = deque()
        is_over, failure = False, None
        while not is_over:
            taken: list[str] = []
            rows: list[list[str]] = []
            try:
                for row in csv.reader(_taken(again, lines, taken), delimiter=self.delimiter, skipinitialspace=True, strict=True):
                    if len(row) == len(self.names):
                        rows.append(row)
                    elif row:
                        break
                    taken.clear()
                    if len(rows) == _PIECE_ROWS:
                        yield list(zip(*rows, strict=True))
                        rows = []
                else:
                    is_over = True
            except csv.Error:
                pass
            except READ_ERRORS as error:
                failure = error
            if rows:
                yield list(zip(*rows, strict=True))
            if failure is not None:
                raise failure
            if taken:
                yield taken[0].rstrip("\r\n")
                again.extendleft(reversed(taken[1:]))


def _taken(again: deque[str], lines: Iterator[str], taken: list[str]) -> Iterator[str]:
    """The lines to be read again, then those that follow, each noted in `taken`. Raises csv.Error beyond ROW_LINES_MAX."""
    while line := again.popleft() if again else next(lines, ""):
        taken.append(line)
        if len(taken) > ROW_LINES_MAX:
            raise csv.Error(f"a row goes over more than {ROW_LINES_MAX} lines")
        yield line


def _json_objects(labels: Sequence[str], columns: Sequence[Sequence[str]]) -> list[bytes]:
    """One object a row. labels: each column's name as JSON with its colon."""
    fields = (part for label, cells in zip(labels, columns, strict=True) for part in (itertools.repeat("," + label), _json_column(cells)))
    next(fields)
    rows = zip(itertools.repeat("{" + labels[0]), *fields, itertools.repeat("}"), strict=False)
    return _encoded("\n".join(map("".join, rows))).split(b"\n")


def _json_column(cells: Sequence[str]) -> Sequence[str]:
    """The JSON of each cell. A JSON parser tells ten times faster than a pattern, cell by cell, that all of them are numbers."""
    if _are_numbers(cells, _parse_numbers):
        return cells
    if "" in cells and "null" not in cells:
        filled = [cell or "null" for cell in cells]
        if _are_numbers(filled, _parse_numbers_and_nulls):
            return filled
    return [_remembered_json(cell) if len(cell) <= _REMEMBERED_CELL_MAX else _json_of(cell) for cell in cells]


def _are_numbers(cells: Sequence[str], parse: Callable[[str], Sequence[object]]) -> bool:
    joined = ",".join(cells)
    if any(blank in joined for blank in _BLANKS):
        return False
    try:
        return len(parse(f"[{joined}]")) == len(cells)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return False


def _json_of(cell: str) -> str:
    if not cell:
        return "null"
    if not LOOSE_NUMBER.fullmatch(cell):
        return encode_basestring(cell)
    return cell if _JSON_NUMBER.fullmatch(cell) else json.dumps(float(cell))


_remembered_json = lru_cache(_REMEMBERED_CELLS)(_json_of)


def _count_rows(block: bytes) -> int:
    return count_lines(block.replace(b"\r", b"\n"))


def _decoded(text: bytes) -> str:
    """Bad UTF-8 survives as surrogates and is written back as it was."""
    return text.decode("utf-8", "surrogateescape")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
