"""The records of a fetched batch, each read in one go, with header names that are no text.

kafka-python 3.0.12 asks the batch's header and the record itself for each fact of each record, through properties: a third of the time that reading
takes. And Kafka takes any bytes for a header's name, where the client calls the batch corrupt and its partition stands still for good.
"""

from __future__ import annotations

from typing import Any

from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.util import decode_varint


class ReadRecord:
    """What the client's own record says of itself, as plain attributes."""

    __slots__ = ("headers", "key", "offset", "size_in_bytes", "timestamp", "timestamp_type", "value")

    checksum = None

    def __init__(
        self,
        size_in_bytes: int,
        offset: int,
        timestamp: int,
        timestamp_type: int,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, bytes | None]],
    ) -> None:
        self.size_in_bytes, self.offset, self.timestamp, self.timestamp_type = size_in_bytes, offset, timestamp, timestamp_type
        self.key, self.value, self.headers = key, value, headers

    def validate_crc(self) -> bool:
        """The batch has one, a record of its own has none."""
        return True


class ReadRecordBatch(DefaultRecordBatch):  # type: ignore[misc]
    """The client's own, but for how it reads a record: its format is in Kafka's documentation under "Record"."""

    _buffer: bytearray
    _pos: int

    def __init__(self, buffer: bytes) -> None:
        super().__init__(buffer)
        self._first_offset, self._is_control = self.base_offset, self.is_control_batch
        self._timestamp_type = self.timestamp_type
        self._appended_at = self.max_timestamp if self._timestamp_type == self.LOG_APPEND_TIME else None
        self._first_timestamp = self.first_timestamp

    def _read_msg(self) -> Any:
        if self._is_control:
            return super()._read_msg()
        buffer = self._buffer
        length, start = decode_varint(buffer, self._pos)
        timestamp_delta, position = decode_varint(buffer, start + 1)  # after the attributes, which say nothing yet
        offset_delta, position = decode_varint(buffer, position)
        key, position = _bytes(buffer, position)
        value, position = _bytes(buffer, position)
        headers, position = _headers(buffer, position) if buffer[position] else ([], position + 1)
        if position - start != length:
            raise CorruptRecordError(f"a record of {length} bytes takes {position - start}")
        self._pos = position
        timestamp = self._first_timestamp + timestamp_delta if self._appended_at is None else self._appended_at
        return ReadRecord(length, self._first_offset + offset_delta, timestamp, self._timestamp_type, key, value, headers)


def _bytes(buffer: bytearray, position: int) -> tuple[bytes | None, int]:
    """Those at a position, None where their length is negative; and where they end."""
    length, begin = decode_varint(buffer, position)
    if length < 0:
        return None, begin
    end = begin + length
    return bytes(buffer[begin:end]), end


def _headers(buffer: bytearray, position: int) -> tuple[list[tuple[str, bytes | None]], int]:
    """The headers at a position, and where they end. Raises CorruptRecordError, IndexError or ValueError for what are none."""
    count, position = decode_varint(buffer, position)
    if count < 0:
        raise CorruptRecordError(f"{count} headers")
    headers = []
    for _ in range(count):
        name, position = _bytes(buffer, position)
        if name is None:
            raise CorruptRecordError("a header without a name")
        value, position = _bytes(buffer, position)
        headers.append((_readable(name), value))
    return headers, position


def _readable(name: bytes) -> str:
    """Bytes that no text holds as question marks."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return "".join(chr(byte) if byte < 0x80 else "?" for byte in name)
