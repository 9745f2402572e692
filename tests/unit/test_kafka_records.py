from __future__ import annotations

import pytest
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

from anomaly_daemon.adapters.kafka_unpacking import bound_unpacking


class Raw(str):
    """A name that goes out as bytes that are no UTF-8, as other clients may send it."""

    __slots__ = ()

    def encode(self, *_: object) -> bytes:
        return b"tr\xff\xfe"


@pytest.mark.parametrize("codec", [0, 3])
def test_a_header_name_that_is_no_text_is_shown_so_and_takes_nothing_else_along(codec: int) -> None:
    bound_unpacking()
    builder = MemoryRecordsBuilder(2, codec, 1 << 20)
    builder.append(1, b"pump", b"\xff", [("a", b"\xfe"), (Raw("x"), b"\xff1"), ("ü", None)])
    builder.append(2, None, b"next", [])
    builder.close()

    found = list(MemoryRecords(builder.buffer()).next_batch())

    assert [(one.key, one.value, one.headers) for one in found] == [
        (b"pump", b"\xff", [("a", b"\xfe"), ("tr??", b"\xff1"), ("ü", None)]),
        (None, b"next", []),
    ]
