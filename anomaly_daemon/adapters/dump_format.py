"""One record as one JSON line and back: what `dump` writes and `load` reads.

Bytes that are UTF-8 stand as text, others as base64 under the same name with `_base64` behind it.
"""

from __future__ import annotations

import base64

import msgspec
from msgspec import UNSET, UnsetType

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.domain.records import DEAD_LETTER, Message, Record


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    value: str | UnsetType = UNSET
    value_base64: bytes | UnsetType = UNSET


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: str | UnsetType | None = UNSET
    key_base64: bytes | UnsetType = UNSET
    value: str | UnsetType | None = UNSET
    value_base64: bytes | UnsetType = UNSET
    headers: list[_Header] = []


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Line).decode


def encode_record(record: Record) -> bytes:
    """The line of a record, without its end."""
    return _encode(
        {
            "topic": record.partition.topic,
            "partition": record.partition.number,
            "offset": record.offset,
            "timestamp_ms": record.timestamp_ms,
            **_spelled("key", record.key),
            **_spelled("value", record.value),
            "headers": [{"name": name, **_spelled("value", value)} for name, value in record.headers],
        }
    )


def is_dumped(line: bytes) -> bool:
    """Whether `dump` wrote the line."""
    try:
        _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def decode_message(line: bytes, topic: str) -> Message:
    """The message that puts a dumped record into `topic`, on the partition it came from. Raises InputError.

    A dead letter that goes back to the topic it was rejected from finds its partition and its time again there: it was dumped from another topic.
    """
    try:
        fields = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not a line that `dump` wrote: {error}") from error
    headers = tuple((header.name, _bytes_of(header.value, header.value_base64) or b"") for header in fields.headers)
    key = _bytes_of(fields.key, fields.key_base64)
    value = _bytes_of(fields.value, fields.value_base64)
    found = {name: value for name, value in headers if name.startswith(DEAD_LETTER)}
    if found.get(f"{DEAD_LETTER}topic") == topic.encode():
        number, timestamp_ms = found.get(f"{DEAD_LETTER}partition", b""), found.get(f"{DEAD_LETTER}timestamp_ms", b"")
        if not (number.isdigit() and timestamp_ms.removeprefix(b"-").isdigit()):
            raise InputError(f"a dead letter of {topic} whose headers do not tell its partition and time: {number!r}, {timestamp_ms!r}")
        return Message(topic, key, value, headers, int(timestamp_ms), int(number))
    return Message(topic, key, value, headers, fields.timestamp_ms, fields.partition)


def whole_record_of(message: Message) -> str | None:
    """Where the whole record is of a cut dead letter that is on its way back to where it was rejected from; None of any other message."""
    found = dict(message.headers)
    if f"{DEAD_LETTER}cut" not in found or found.get(f"{DEAD_LETTER}topic") != message.topic.encode():
        return None
    return f"{message.topic}[{message.partition_number}] offset {found.get(f'{DEAD_LETTER}offset', b'unknown').decode('utf-8', 'replace')}"


def _spelled(name: str, content: bytes | None) -> dict[str, str | None]:
    if content is None:
        return {name: None}
    try:
        return {name: content.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(content).decode()}


def _bytes_of(text: str | UnsetType | None, encoded: bytes | UnsetType) -> bytes | None:
    if not isinstance(encoded, UnsetType):
        return encoded
    return text.encode() if isinstance(text, str) else None
