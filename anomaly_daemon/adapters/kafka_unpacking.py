"""Compressed batches in bounded memory: kafka-python 3.0.12 unpacks a batch whole, and 1 MB that the broker takes may unpack to a thousand.

A batch that unpacks to more than `WHOLE_BYTES_MAX` is unpacked as it is read, record by record. The broker bounds what is
packed (max.message.bytes); a batch of 1000 MiB of zeros passes its default of 1 MiB.
"""

from __future__ import annotations

import gzip
import io
import zlib
from typing import Any

import lz4.frame
import structlog
import zstandard
from kafka.consumer import group
from kafka.consumer.fetcher import Fetcher
from kafka.record import memory_records
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.util import encode_varint

from anomaly_daemon.adapters.kafka_records import ReadRecordBatch

log = structlog.get_logger(__name__)

WHOLE_BYTES_MAX = 32 << 20
# Above the largest record.record_bytes_max and output.dead_letter_bytes_max: what is cut is rejected as oversized, and cut alike.
RECORD_BYTES_MAX = 64 << 20
# No larger: a record that is cut is then the last of its poll.
POLL_BYTES_MAX = RECORD_BYTES_MAX
_CHUNK_BYTES = 1 << 20
_GZIP_WINDOW = 31
_VARINT_BITS_MAX = 70


class _Unpacking:
    """What a packed batch holds, from its start to its end, once."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream, self.taken = stream, 0

    def take(self, count: int) -> bytes:
        """So many bytes, fewer at the end."""
        found = self._stream.read(count)
        self.taken += len(found)
        return found

    def varint(self) -> int:
        """Raises ValueError or IndexError for what is none."""
        folded = 0
        for shift in range(0, _VARINT_BITS_MAX, 7):
            byte = self.take(1)[0]
            folded |= (byte & 0x7F) << shift
            if byte < 0x80:
                return (folded >> 1) ^ -(folded & 1)
        raise ValueError("a number without an end")

    def pass_over(self, count: int) -> None:
        while count > 0 and (found := len(self.take(min(count, _CHUNK_BYTES)))):
            count -= found

    def record(self) -> bytearray:
        """The next record as it is written down, one beyond RECORD_BYTES_MAX without its headers and the rest of key and value."""
        length = self.varint()
        if length <= RECORD_BYTES_MAX:
            return _with_length(self.take(length))
        end = self.taken + length
        body = bytearray()
        for _ in ("attributes", "timestamp", "offset"):
            encode_varint(self.varint(), body.append)
        for _ in ("key", "value"):
            size = self.varint()
            kept = self.take(min(size, RECORD_BYTES_MAX)) if size >= 0 else b""
            self.pass_over(size - len(kept))
            encode_varint(len(kept) if size >= 0 else -1, body.append)
            body += kept
        self.pass_over(end - self.taken)
        encode_varint(0, body.append)  # headers
        return _with_length(body)


class BoundedRecordBatch(ReadRecordBatch):
    """The client's own, but for what is too large to be unpacked whole. Snappy packs to a twentieth at best and is left to the client."""

    _decompressed: bool

    def __init__(self, buffer: bytes) -> None:
        super().__init__(buffer)
        self._unpacking: _Unpacking | None = None

    def _maybe_uncompress(self) -> None:
        codec = self.compression_type
        if self._decompressed or codec in (self.CODEC_NONE, self.CODEC_SNAPPY):
            super()._maybe_uncompress()
            return
        packed = bytes(memoryview(self._buffer)[self._pos :])
        whole = _unpacked(codec, packed)
        if whole is None:
            self._unpacking = _Unpacking(_stream(codec, packed))
        self._buffer, self._pos, self._decompressed = bytearray(whole or b""), 0, True

    def _read_msg(self) -> Any:
        if self._unpacking is not None:
            self._buffer, self._pos = self._unpacking.record(), 0
        return super()._read_msg()


class _BoundedRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """The client's own, but that `take` ends with the record that fills `room`, bytes that may still be taken."""

    room = POLL_BYTES_MAX

    def take(self, n: int | None = None) -> list[Any]:
        self._maybe_raise_next_inline_exception()
        records: list[Any] = []
        began = self.bytes_read
        end = began + self.room
        try:
            for record in self.record_iterator:
                records.append(record)
                if len(records) == n or self.bytes_read >= end:
                    break
        except Exception as error:
            if not records:
                raise
            self._next_inline_exception = error  # the next call raises it
        self.room = end - self.bytes_read
        if self.bytes_read - began >= RECORD_BYTES_MAX:
            self._tell_if_cut(records[-1])
        return records

    def _tell_if_cut(self, record: Any) -> None:
        if RECORD_BYTES_MAX in (record.serialized_key_size, record.serialized_value_size):
            where = f"{self.topic_partition.topic}[{self.topic_partition.partition}]"
            log.warning("record_cut", partition=where, offset=record.offset, kept_bytes=RECORD_BYTES_MAX, reason="it unpacks to more")


class _BoundedFetcher(Fetcher):  # type: ignore[misc]
    """The client's own, but that a poll ends with the record that fills POLL_BYTES_MAX, of whichever partition."""

    PartitionRecords = _BoundedRecords
    _room = POLL_BYTES_MAX

    @property
    def has_fetched_ahead(self) -> bool:
        """Whether the next poll begins with what came before it."""
        return bool(self._completed_fetches)

    def fetched_records(self, max_records: int | None = None, update_offsets: bool = True) -> Any:
        self._room = POLL_BYTES_MAX
        return super().fetched_records(max_records, update_offsets)

    def _append(self, drained: Any, part: Any, max_records: int, update_offsets: bool) -> int:
        part.room = self._room
        taken: int = super()._append(drained, part, max_records, update_offsets)
        self._room = part.room
        return taken if self._room > 0 else max_records


def bound_unpacking() -> None:
    """For every consumer that this process makes from now on; may be called twice."""
    memory_records.DefaultRecordBatch = BoundedRecordBatch
    group.Fetcher = _BoundedFetcher


def _unpacked(codec: int, packed: bytes) -> bytes | None:
    """What is packed; None where it is more than WHOLE_BYTES_MAX, or not of one piece."""
    enough = WHOLE_BYTES_MAX + 1
    if codec == DefaultRecordBatch.CODEC_GZIP:
        inflating = zlib.decompressobj(_GZIP_WINDOW)
        found = inflating.decompress(packed, enough)
        is_whole = inflating.eof and not inflating.unused_data
    elif codec == DefaultRecordBatch.CODEC_LZ4:
        reading = lz4.frame.LZ4FrameDecompressor()
        found = reading.decompress(packed, max_length=enough)
        is_whole = reading.eof and not reading.unused_data
    else:
        found = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True).read(enough)
        is_whole = True
    return found if is_whole and len(found) < enough else None


def _stream(codec: int, packed: bytes) -> io.BufferedIOBase:
    """The same, to be read bit by bit."""
    if codec == DefaultRecordBatch.CODEC_GZIP:
        return gzip.GzipFile(fileobj=io.BytesIO(packed))
    if codec == DefaultRecordBatch.CODEC_LZ4:
        reading: io.BufferedIOBase = lz4.frame.LZ4FrameFile(io.BytesIO(packed))
        return reading
    return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True), _CHUNK_BYTES)


def _with_length(body: bytes | bytearray) -> bytearray:
    record = bytearray()
    encode_varint(len(body), record.append)
    record += body
    return record
