from anomaly_daemon.domain.records import Message, Partition, Reason, Record, Rejection
from anomaly_daemon.pipeline.dead_letters import dead_letter_message

BYTES_MAX = 1_000_000


def headers_of(message: Message) -> dict[str, str]:
    return {name: value.decode() for name, value in message.headers}


def rejected(headers: tuple[tuple[str, bytes], ...] = (), detail: str = "no field `pump`", key: bytes | None = b"\xff") -> Rejection:
    return Rejection(Record(Partition("readings", 3), 41, 1_700_000_000_123, key, b"\x00not json", headers), Reason.ENTITY_MISSING, detail)


def test_dead_letter_keeps_the_bytes_and_says_why_and_whence() -> None:
    message = dead_letter_message(rejected((("trace", b"\xfe"),)), "dead-letters", BYTES_MAX)

    assert (message.topic, message.key, message.value, message.partition_number) == ("dead-letters", b"\xff", b"\x00not json", None)
    assert message.headers == (
        ("trace", b"\xfe"),
        ("dead_letter.reason", b"entity_missing"),
        ("dead_letter.detail", b"no field `pump`"),
        ("dead_letter.topic", b"readings"),
        ("dead_letter.partition", b"3"),
        ("dead_letter.offset", b"41"),
        ("dead_letter.timestamp_ms", b"1700000000123"),
    )


def test_dead_letter_beyond_the_limit_is_cut_and_says_of_what() -> None:
    for key, value, headers in ((b"pump-7", b"x" * 50_000, ()), (b"k" * 50_000, b"x", ()), (b"k", b"x", (("a", b"y" * 50_000),))):
        record = Record(Partition("readings", 0), 7, 0, key, value, headers)

        message = dead_letter_message(Rejection(record, Reason.OVERSIZED, "too long"), "dead-letters", 10_000)

        size = len(message.key or b"") + len(message.value or b"") + sum(len(name) + len(said) for name, said in message.headers)
        assert size < 10_000
        assert key.startswith(message.key or b"?")
        assert value.startswith(message.value or b"?")
        assert f"value of {len(value)} bytes" in headers_of(message)["dead_letter.cut"]


def test_tombstone_stays_a_tombstone() -> None:
    record = Record(Partition("readings", 0), 7, 0, b"pump-7", None)

    message = dead_letter_message(Rejection(record, Reason.TOMBSTONE, "no value"), "dead-letters", BYTES_MAX)

    assert (message.key, message.value) == (b"pump-7", None)


def test_record_that_was_a_dead_letter_before_keeps_its_last_pass_and_only_that() -> None:
    message = dead_letter_message(rejected(), "dead-letters", BYTES_MAX)
    for _ in range(3):
        again = Record(Partition("dead-letters", 0), 5, 0, message.key, message.value, (*message.headers, ("dead_letter.note", b"mine")))
        message = dead_letter_message(Rejection(again, Reason.SCHEMA, "still wrong"), "dead-letters", BYTES_MAX)

    names = [name for name, _ in message.headers]
    assert message.headers[names.index("dead_letter.reason")][1] == b"schema"
    assert message.headers[names.index("dead_letter.previous.offset")][1] == b"5"
    assert len([name for name in names if name != "dead_letter.note"]) == len({*names} - {"dead_letter.note"}) == 12
    assert names.count("dead_letter.note") == 3


def test_long_detail_is_cut_and_undecodable_text_cannot_break_a_dead_letter() -> None:
    headers = dict(dead_letter_message(rejected(detail="\ud800" * 5000), "dead-letters", BYTES_MAX).headers)

    assert headers["dead_letter.detail"] == b"?" * 1000
