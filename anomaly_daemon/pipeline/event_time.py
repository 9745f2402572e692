"""Event times as sent, text or epoch counts, → microseconds since 1970 UTC."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from anomaly_daemon.settings import microseconds_since_1970, parse_instant_us

MICROSECONDS_PER: Final = {"s": 1_000_000, "ms": 1_000, "us": 1}
_INSTANT_US_MAX: Final = 1 << 62

# The common spelling: 2024-05-01T12:00:00, then perhaps a point and one to six digits, then perhaps a Z.
_SECONDS_LENGTH: Final = 19
_LENGTH_MAX: Final = 27
_DIGITS: Final = [0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18]
_DASHES: Final = [4, 7]
_COLONS: Final = [13, 16]
_BETWEEN: Final = 10
_POINT: Final = 19
_FRACTION: Final = 20
_AFTER_FRACTION: Final = 26


def epoch_us(count: float, microseconds_per_unit: int) -> int:
    """An epoch count in microseconds, rounded, and held within what int64 can say."""
    scaled = count * microseconds_per_unit
    if abs(scaled) >= _INSTANT_US_MAX:
        return _INSTANT_US_MAX if scaled > 0 else -_INSTANT_US_MAX
    return round(scaled)


def parse_iso_us(text: str) -> int:
    """RFC 3339, then whatever else ISO 8601 allows: without seconds, a date alone, the basic format. Raises ValueError."""
    try:
        return microseconds_since_1970(msgspec.convert(text, datetime))
    except msgspec.ValidationError:
        return parse_instant_us(text)


def parse_all_iso_us(texts: list[str]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Of each text its instant, as `parse_iso_us` has it, and whether there is none."""
    times_us = np.zeros(len(texts), np.int64)
    is_unread = np.ones(len(texts), np.bool_)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    for length in set(lengths.tolist()):
        if _SECONDS_LENGTH <= length <= _LENGTH_MAX:
            rows = np.flatnonzero(lengths == length)
            joined = "".join(texts if len(rows) == len(texts) else [texts[row] for row in rows.tolist()])
            block = np.frombuffer(joined.encode("ascii", "replace"), np.uint8).reshape(len(rows), length)
            times_us[rows], is_unread[rows] = _parse_block(block)
    for row in np.flatnonzero(is_unread).tolist():
        try:
            times_us[row] = parse_iso_us(texts[row])
            is_unread[row] = False
        except ValueError:
            continue
    return times_us, is_unread


def _parse_block(block: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Texts of one length, [N, length]: their instants, and which are left unread for not being spelled as is common."""
    length = block.shape[1]
    by_column = np.ascontiguousarray(block.T)
    is_zulu = by_column[-1] == ord("Z")
    is_digit = by_column - np.uint8(ord("0")) <= 9
    is_common = is_digit[_DIGITS].all(0) & (by_column[:4] != ord("0")).any(0)
    is_common &= (by_column[_DASHES] == ord("-")).all(0) & (by_column[_COLONS] == ord(":")).all(0)
    is_common &= (by_column[_BETWEEN] == ord("T")) | (by_column[_BETWEEN] == ord(" "))
    if length == _FRACTION:
        is_common &= is_zulu
    elif length > _FRACTION:
        is_common &= (by_column[_POINT] == ord(".")) & is_digit[_FRACTION : min(length - 1, _AFTER_FRACTION)].all(0)
        is_common &= is_digit[-1] if length == _FRACTION + 1 else is_zulu if length == _LENGTH_MAX else is_zulu | is_digit[-1]
    texts = block[is_common]
    texts[is_zulu[is_common], -1] = 0
    times_us = np.zeros(len(block), np.int64)
    try:
        times_us[is_common] = texts.view(f"S{length}").ravel().astype("datetime64[us]").astype(np.int64)
    except ValueError:  # a month 13 or the like among them
        is_common[:] = False
    return times_us, ~is_common
