"""Bytes harmed at random, the same for the same generator."""

from __future__ import annotations

import random
from collections.abc import Callable

_PIECE_BYTES_MAX = 64


def harmed(dice: random.Random, content: bytes) -> bytes:
    """The content with one to three harms done to it, always another content."""
    while True:
        found = content
        for _ in range(dice.choice((1, 1, 1, 2, 3))):
            found = dice.choice(_HARMS)(dice, found)
        if found != content:
            return found


def _flip(dice: random.Random, content: bytes) -> bytes:
    if not content:
        return b"\0"
    place = dice.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << dice.randrange(8)]) + content[place + 1 :]


def _overwrite(dice: random.Random, content: bytes) -> bytes:
    first, last = _range(dice, content)
    return content[:first] + dice.randbytes(last - first) + content[last:]


def _zero(dice: random.Random, content: bytes) -> bytes:
    first, last = _range(dice, content)
    return content[:first] + bytes(last - first) + content[last:]


def _truncate(dice: random.Random, content: bytes) -> bytes:
    return content[: dice.randrange(len(content) + 1)]


def _leave_out(dice: random.Random, content: bytes) -> bytes:
    first, last = _range(dice, content)
    return content[:first] + content[last:]


def _double(dice: random.Random, content: bytes) -> bytes:
    first, last = _range(dice, content)
    return content[:last] + content[first:last] + content[last:]


def _insert(dice: random.Random, content: bytes) -> bytes:
    place = dice.randrange(len(content) + 1)
    return content[:place] + dice.choice((dice.randbytes(dice.randrange(1, 9)), b"\0", b"{", b"]", b'"', b"-", b"9", b"\xff")) + content[place:]


def _swap(dice: random.Random, content: bytes) -> bytes:
    (first, middle), (other, end) = sorted((_range(dice, content), _range(dice, content)))
    if middle > other:
        return content[:first] + content[other:end] + content[first:other] + content[end:]
    return content[:first] + content[other:end] + content[middle:other] + content[first:middle] + content[end:]


def _change_digit(dice: random.Random, content: bytes) -> bytes:
    digits = [place for place, byte in enumerate(content[:100_000]) if 48 <= byte <= 57]
    if not digits:
        return content
    place = dice.choice(digits)
    return content[:place] + dice.choice(b"0123456789").to_bytes(1, "big") + content[place + 1 :]


def _nest(dice: random.Random, content: bytes) -> bytes:
    place = dice.randrange(len(content) + 1)
    return content[:place] + dice.choice((b"[", b"{", b'{"a":', b"- ", b"? ")) * dice.choice((3, 400, 5000)) + content[place:]


def _range(dice: random.Random, content: bytes) -> tuple[int, int]:
    first = dice.randrange(len(content) + 1)
    return first, min(len(content), first + dice.randrange(1, _PIECE_BYTES_MAX))


_HARMS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _flip,
    _flip,
    _overwrite,
    _zero,
    _truncate,
    _leave_out,
    _double,
    _insert,
    _swap,
    _change_digit,
    _nest,
)
