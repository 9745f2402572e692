from __future__ import annotations

import random

import pytest
from kafka import TopicPartition
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

from anomaly_daemon.adapters import kafka_unpacking
from anomaly_daemon.adapters.kafka_unpacking import BoundedRecordBatch, bound_unpacking

CODECS = (0, 1, 2, 3, 4)
PACKED_IN_PARTS = (1, 3, 4)
Contents = list[tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]]


def packed(codec: int, values: list[bytes | None]) -> bytes:
    """A batch as the broker sends it."""
    builder = MemoryRecordsBuilder(2, codec, 64 << 20)
    for number, value in enumerate(values):
        builder.append(1000 + number, None if number % 3 else b"pump-%d" % number, value, [("name", b"x"), ("none", None)] if number % 2 else [])
    builder.close()
    return bytes(builder.buffer())


def contents(batch: DefaultRecordBatch) -> Contents:
    return [(one.offset, one.key, one.value, one.headers) for one in batch]


def some_values() -> list[bytes | None]:
    dice = random.Random(1)
    return [None, b"", *(dice.randbytes(dice.randrange(400)) for _ in range(300)), b"0" * 100_000, b"last"]


@pytest.mark.parametrize("whole_bytes_max", [1 << 20, 1000])
@pytest.mark.parametrize("codec", CODECS)
def test_records_are_those_that_the_client_itself_unpacks_whether_whole_or_in_parts(
    codec: int, whole_bytes_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_unpacking, "WHOLE_BYTES_MAX", whole_bytes_max)
    batch = packed(codec, some_values())

    found = contents(BoundedRecordBatch(batch))

    assert found == contents(DefaultRecordBatch(batch))
    assert len(found) == 304


@pytest.mark.parametrize("codec", PACKED_IN_PARTS)
def test_of_a_record_too_large_the_first_part_is_kept_and_the_next_one_is_whole(codec: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_unpacking, "WHOLE_BYTES_MAX", 1000)
    monkeypatch.setattr(kafka_unpacking, "RECORD_BYTES_MAX", 5000)
    value = bytes(range(256)) * 10_000

    found = contents(BoundedRecordBatch(packed(codec, [value, value, b"next"])))

    assert found == [(0, b"pump-0", value[:5000], []), (1, None, value[:5000], []), (2, None, b"next", [])]


@pytest.mark.parametrize("codec", PACKED_IN_PARTS)
def test_a_batch_that_promises_more_than_it_holds_is_called_corrupt(codec: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_unpacking, "WHOLE_BYTES_MAX", 1000)
    batch = bytearray(packed(codec, [b"0" * 2000, b"next"]))
    batch[57:61] = (3).to_bytes(4, "big")  # records in the batch

    with pytest.raises(CorruptRecordError):
        contents(BoundedRecordBatch(bytes(batch)))


def test_a_poll_ends_with_the_record_that_fills_it_and_the_next_one_goes_on_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bound_unpacking()
    monkeypatch.setattr(kafka_unpacking, "WHOLE_BYTES_MAX", 1000)
    records = kafka_unpacking._BoundedRecords(0, TopicPartition("readings", 0), MemoryRecords(packed(4, [b"0" * 1000] * 10)))

    taken = []
    for room, count in ((2500, None), (2500, 2), (1, None), (1 << 20, None)):
        records.room = room
        taken.append([record.offset for record in records.take(count)])

    assert taken == [[0, 1, 2], [3, 4], [5], [6, 7, 8, 9]]
