"""Text files, gzipped or not, as blocks of whole lines: flat memory, and every line before a damaged place is given out."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from anomaly_daemon.adapters.file_names import STANDARD_INPUT, is_gzipped

LINE_BYTES_MAX = 64 * 2**20
BLOCK_BYTES = 64 * 2**10
READ_ERRORS = (EOFError, OSError, ValueError, zlib.error)
_GZIP_MAGIC = b"\x1f\x8b"

Bytes: TypeAlias = "io.BufferedReader[Any]"


@contextmanager
def opened(path: Path) -> Iterator[Bytes]:
    """The bytes of a file, unpacked. Standard input is unpacked where it begins as gzip does, and not closed."""
    if path == STANDARD_INPUT:
        with open(0, "rb", closefd=False) as raw:
            yield from _unpacked(raw, is_packed=raw.peek(2).startswith(_GZIP_MAGIC))
    else:
        with path.open("rb") as raw:
            yield from _unpacked(raw, is_packed=is_gzipped(path))


def _unpacked(raw: Bytes, *, is_packed: bool) -> Iterator[Bytes]:
    if is_packed:
        with gzip.open(raw) as packed, io.BufferedReader(_Unpacked(packed), BLOCK_BYTES) as stream:
            yield stream
    else:
        yield raw


class _Unpacked(io.RawIOBase):
    """Gives out what can be unpacked up to the damaged place: GzipFile.read loses what it read before an error."""

    def __init__(self, packed: gzip.GzipFile) -> None:
        self._packed = packed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what a BufferedReader hands over
        block = self._packed.read1(len(buffer))
        buffer[: len(block)] = block
        return len(block)


def whole_lines(stream: Bytes, ends: bytes = b"\n") -> Generator[bytes]:
    """Blocks that stop behind a line's end, one of the bytes of `ends`; the last one may lack it. A mark that says UTF-8 is left out.

    Raises ValueError for UTF-16 and for a line longer than LINE_BYTES_MAX.
    """
    begun: list[bytes] = []
    begun_bytes = 0
    first = stream.read(len(codecs.BOM_UTF8))
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError("it is UTF-16; make it UTF-8, as by `iconv -f UTF-16 -t UTF-8`")
    block = first.removeprefix(codecs.BOM_UTF8) or stream.read1(BLOCK_BYTES)
    while block:
        cut = max(block.rfind(end) for end in (ends[:1], ends[-1:])) + 1
        if cut:
            yield b"".join((*begun, block[:cut]))
            begun, begun_bytes, block = [], 0, block[cut:]
        begun.append(block)
        begun_bytes += len(block)
        if begun_bytes > LINE_BYTES_MAX:
            raise ValueError(f"a line is longer than {LINE_BYTES_MAX} bytes")
        block = stream.read1(BLOCK_BYTES)
    if begun_bytes:
        yield b"".join(begun)


def count_lines(block: bytes) -> int:
    """Lines of a block of whole ones that are not blank; a carriage return counts for nothing."""
    lines = (block.replace(b"\r", b"") if b"\r" in block else block).split(b"\n")
    return len(lines) - lines.count(b"")
