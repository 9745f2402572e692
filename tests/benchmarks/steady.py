"""A writer that hardly works while it writes: batches are encoded before, and only stamped with the time when they are sent.

What is measured beside it is then the daemon and the broker: a producer that encodes 20,000 records a second takes half a core.
"""

from __future__ import annotations

import itertools
import select
import socket
import struct
import time
from collections.abc import Iterator
from itertools import islice
from multiprocessing.process import BaseProcess

from crc32c import crc32c
from kafka.protocol.producer import ProduceRequest, ProduceResponse
from kafka.record.default_records import DefaultRecordBatchBuilder as Builder

from tests.benchmarks.stream import PARTITIONS, SPAWN, Pumps, records

_SLICE_S = 0.01
_VERSION = 9
_TIMEOUT_S = 30
_UNANSWERED_MAX = 1_000
_BATCH_BYTES_MAX = 1 << 20
_LENGTH = struct.Struct(">i")
# In a batch's header: its checksum, what that is of, and the times of its first and its last record.
_CHECKSUM, _CHECKED_AT, _TIMES, _TIMES_AT = struct.Struct(">I"), Builder.ATTRIBUTES_OFFSET, struct.Struct(">qq"), Builder.ATTRIBUTES_OFFSET + 6


def writer(bootstrap: str, topic: str, first: int, count: int, pumps: Pumps, rate: float) -> BaseProcess:
    """A process of its own, started, that writes so many records from number `first` on, so many a second, once all are encoded.

    To a broker that leads all partitions. The process ends with 1 where that does not take them in time.
    """
    assert rate * _SLICE_S >= PARTITIONS, f"{rate} a second: too few for a batch of each partition every {_SLICE_S} s"
    process = SPAWN.Process(target=_write, args=(bootstrap, topic, first, count, pumps, rate), name="writer", daemon=True)
    process.start()
    return process


def _write(bootstrap: str, topic: str, first: int, count: int, pumps: Pumps, rate: float) -> None:
    """In the child."""
    prepared = list(_slices(records(pumps, first, count), rate * _SLICE_S))
    host, port = bootstrap.rsplit(":", 1)
    with socket.create_connection((host, int(port)), _TIMEOUT_S) as broker:
        broker.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        started_s, answered = time.monotonic(), 0
        for sent, batches in enumerate(prepared):
            answered += _wait(broker, started_s + sent * _SLICE_S, sent - answered)
            broker.sendall(_request(topic, batches, sent))
        while answered < len(prepared):
            answered += _take_answer(broker)


def _wait(broker: socket.socket, until_s: float, unanswered: int) -> int:
    """Take answers until then, and on while too many are owed; returns how many there were."""
    taken = 0
    while (left_s := until_s - time.monotonic()) > 0 or unanswered - taken > _UNANSWERED_MAX:
        if taken == unanswered:
            time.sleep(left_s)
        elif select.select([broker], [], [], max(left_s, 0.0))[0]:
            taken += _take_answer(broker)
    return taken


def _slices(stream: Iterator[tuple[int, bytes, bytes]], size: float) -> Iterator[list[bytearray]]:
    """What is sent at once: a batch for each partition, by its number. size: records in them, on average."""
    sizes = (int((number + 1) * size) - int(number * size) for number in itertools.count())
    while some := list(islice(stream, next(sizes))):
        batches = [Builder(2, Builder.CODEC_LZ4, False, -1, -1, -1, _BATCH_BYTES_MAX) for _ in range(PARTITIONS)]
        offsets = [0] * PARTITIONS
        for partition, key, value in some:
            assert batches[partition].append(offsets[partition], 0, key, value, []) is not None, "more than a batch holds"
            offsets[partition] += 1
        yield [batch.build() for batch in batches]


def _request(topic: str, batches: list[bytearray], number: int) -> bytes:
    """Framed, its records of now."""
    now_ms = int(time.time() * 1000)
    topics = ProduceRequest.TopicProduceData
    parts = []
    for partition, batch in enumerate(batches):
        _TIMES.pack_into(batch, _TIMES_AT, now_ms, now_ms)
        _CHECKSUM.pack_into(batch, Builder.CRC_OFFSET, crc32c(memoryview(batch)[_CHECKED_AT:]))
        parts.append(topics.PartitionProduceData(index=partition, records=batch))
    request = ProduceRequest(acks=1, timeout_ms=_TIMEOUT_S * 1000, topic_data=[topics(name=topic, partition_data=parts)], version=_VERSION)
    request.with_header(correlation_id=number, client_id="steady")
    encoded: bytes = request.encode(header=True, framed=True)
    return encoded


def _take_answer(broker: socket.socket) -> int:
    """One answer. Raises AssertionError where the broker refused what it answers to."""
    (length,) = _LENGTH.unpack(_received(broker, _LENGTH.size))
    answer = ProduceResponse.decode(_received(broker, length), version=_VERSION, header=True)
    errors = {part.error_code for topic in answer.responses for part in topic.partition_responses}
    assert errors == {0}, f"the broker refused records: {errors}"
    return 1


def _received(broker: socket.socket, length: int) -> bytes:
    found = b""
    while len(found) < length:
        more = broker.recv(length - len(found))
        assert more, "the broker closed the connection"
        found += more
    return found
