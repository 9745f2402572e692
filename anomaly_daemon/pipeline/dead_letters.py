"""From a rejection to what is published of it: the record as it came, with why and whence in its headers. Pure: no clock."""

from __future__ import annotations

from collections.abc import Iterable

from anomaly_daemon.domain.records import DEAD_LETTER, Headers, Message, Rejection

DETAIL_CHARACTERS_MAX = 1000
_PREVIOUS = DEAD_LETTER + "previous."
_CUT = "cut"
# Of a dead letter beside its parts, as a log may write them down.
_FRAME_BYTES = 200


def dead_letter_message(rejection: Rejection, topic: str, bytes_max: int) -> Message:
    """The rejected record, key and value byte for byte, its own headers kept, with why and whence in `dead_letter.*` headers.

    A record that was a dead letter before keeps the last pass as `dead_letter.previous.*`, and only that one. What has no room in `bytes_max` is
    left out, and the header `dead_letter.cut` says what: one record must not be able to stop all others by its size.
    """
    record = rejection.record
    why = {
        "reason": rejection.reason.value,
        "detail": rejection.detail[:DETAIL_CHARACTERS_MAX],
        "topic": record.partition.topic,
        "partition": str(record.partition.number),
        "offset": str(record.offset),
        "timestamp_ms": str(record.timestamp_ms),
    }
    ours = tuple((DEAD_LETTER + name, text.encode("utf-8", "replace")) for name, text in why.items())
    kept = _kept(record.headers, (*why, _CUT))
    key, value = record.key, record.value
    room = bytes_max - _FRAME_BYTES - _size(ours)
    if len(key or b"") + len(value or b"") + _size(kept) > room:
        cut = f"key of {len(key or b'')} bytes, value of {len(value or b'')} bytes, headers of {_size(kept)} bytes"
        ours += ((DEAD_LETTER + _CUT, cut.encode()),)
        kept = kept if _size(kept) <= room // 4 else ()
        key = None if key is None else key[: room // 4]
        value = None if value is None else value[: room - len(key or b"") - _size(kept)]
    return Message(topic, key, value, kept + ours)


def _size(headers: Headers) -> int:
    """Bytes of headers, the lengths before them included."""
    return sum(len(name.encode("utf-8", "replace")) + len(value) + 10 for name, value in headers)


def _kept(headers: Headers, ours: Iterable[str]) -> Headers:
    """A record's own headers, out of the way of those that a dead letter adds."""
    renamed = {DEAD_LETTER + name: _PREVIOUS + name for name in ours}
    return tuple((renamed.get(name, name), value) for name, value in headers if name not in renamed.values())
