"""Checksums of what the embedded log must not mistake: SQLite has none, and a flipped bit in a page is another record to it."""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

_NOTHING = b"\xff\x00nothing"
_PRIME = 4_294_967_291  # the largest below 2³²: no two times that differ in one bit have the same remainder

Row = tuple[int, int, bytes | None, bytes | None, bytes | None, int | None]


def record_proof(timestamp_ms: int, key: bytes | None, value: bytes | None, headers: bytes | None) -> int:
    """Of a row of `records`, 32 bits."""
    proof = crc32(_NOTHING if value is None else value, crc32(_NOTHING if key is None else key, timestamp_ms % _PRIME))
    return proof if headers is None else crc32(headers, proof)


def offset_proof(group: str, partition_id: int, next_offset: int) -> int:
    """Of a row of `committed`, 32 bits."""
    return crc32(f"{group}/{partition_id}/{next_offset}".encode())


def first_broken(rows: Sequence[Row]) -> int | None:
    """The offset of the first row (offset, timestamp_ms, key, value, headers, proof) that is not as it was written, by `record_proof`.

    Rows of before there were proofs are believed where they are of the right types.
    """
    try:  # the common case in one expression: what this costs is paid for every record read
        doubtful: Sequence[Row] = [row for row in rows if row[5] != crc32(row[3], crc32(row[2], row[1] % _PRIME))]  # type: ignore[arg-type]
    except TypeError:  # of a key or value that is None, or none at all
        doubtful = rows
    return next((offset for offset, *content, proof in doubtful if not _is_written(content, proof)), None)


def _is_written(content: Sequence[object], proof: object) -> bool:
    try:
        found = record_proof(*content)  # type: ignore[arg-type]
    except TypeError:
        return False
    return proof is None or proof == found
