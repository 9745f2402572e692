"""Header names that are no text: Kafka takes any bytes, kafka-python 3.0.12 calls such a batch corrupt, and its partition stands still for good."""

from __future__ import annotations

from typing import Any

from kafka.record.default_records import DefaultRecordBatch
from kafka.record.util import decode_varint


class TolerantRecordBatch(DefaultRecordBatch):  # type: ignore[misc]
    """The client's own, but that bytes of a header's name that no text holds are read as question marks."""

    __slots__ = ()

    def _read_msg(self) -> Any:
        try:
            return super()._read_msg()
        except UnicodeDecodeError:
            self._make_names_readable()
            return super()._read_msg()

    def _make_names_readable(self) -> None:
        """In place and without moving a byte, in the record that comes next."""
        buffer, position = self._buffer, self._pos
        for _ in range(4):  # length, attributes, timestamp, offset
            _, position = decode_varint(buffer, position)
        for _ in ("key", "value"):
            length, position = decode_varint(buffer, position)
            position += max(length, 0)
        headers, position = decode_varint(buffer, position)
        for _ in range(headers):
            length, position = decode_varint(buffer, position)
            name = bytes(buffer[position : position + length])
            try:
                name.decode()
            except UnicodeDecodeError:
                buffer[position : position + length] = bytes(byte if byte < 0x80 else ord("?") for byte in name)
            position += length
            length, position = decode_varint(buffer, position)
            position += max(length, 0)
