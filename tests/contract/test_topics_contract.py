from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from anomaly_daemon.adapters.clock import SystemClock
from anomaly_daemon.adapters.sqlite_topics import SqliteTopics
from anomaly_daemon.domain.errors import TopicError
from anomaly_daemon.domain.records import Message
from tests.contract.logs import LogUnderTest

Fresh = Callable[[str], str]

# Where Kafka's default partitioner puts these keys among twelve partitions.
PLACES = {b"21": 0, b"foobar": 6, b"a-little-bit-long-string": 8, b"valve1-2": 3, "größe".encode(): 8, b"": 9}


def test_a_log_has_a_name_of_its_own_that_stays(log: LogUnderTest, tmp_path: Path) -> None:
    log.create(f"readings-{os.getpid()}", 1)
    another = SqliteTopics(tmp_path / "another.db", SystemClock())

    named = {log.topics().log_id() for _ in range(2)}

    assert len(named | {another.log_id()}) == 2
    assert all(re.fullmatch("[A-Za-z0-9_-]{8,64}", name) for name in named)
    another.close()


def test_only_topics_that_exist_have_a_partition_count(log: LogUnderTest, fresh: Fresh) -> None:
    one, two, missing = fresh("one"), fresh("two"), fresh("missing")
    log.create(one, 1)
    log.create(two, 3)

    assert log.topics().partitions([one, two, missing]) == {one: 1, two: 3}


def test_creating_a_topic_twice_changes_nothing(log: LogUnderTest, fresh: Fresh) -> None:
    topic = fresh("readings")
    log.create(topic, 2)
    log.append([Message(topic, b"pump", b"kept")])

    log.create(topic, 5)

    assert log.topics().partitions([topic]) == {topic: 2}
    assert [record.value for record in log.read(topic)] == [b"kept"]


def test_a_topic_name_that_kafka_refuses_is_refused(log: LogUnderTest) -> None:
    with pytest.raises(TopicError, match="pumps/north"):
        log.create("pumps/north", 1)


def test_everything_about_a_message_is_kept(log: LogUnderTest, fresh: Fresh) -> None:
    topic = fresh("readings")
    log.create(topic, 1)
    headers = (("reason", b"schema"), ("reason", b"twice"), ("raw", b"\xff\x00"))

    appended = log.append(
        [
            Message(topic, b"pump", b'{"v": 1}', headers, timestamp_ms=1_600_000_000_123),
            Message(topic, None, b"\xff\xfe", timestamp_ms=1_600_000_000_124),
            Message(topic, b"", None, timestamp_ms=1_600_000_000_125),
        ]
    )

    assert appended == 3
    assert [(record.offset, record.timestamp_ms, record.key, record.value, record.headers) for record in log.read(topic)] == [
        (0, 1_600_000_000_123, b"pump", b'{"v": 1}', headers),
        (1, 1_600_000_000_124, None, b"\xff\xfe", ()),
        (2, 1_600_000_000_125, b"", None, ()),
    ]


def test_an_entity_lands_on_the_same_partition_on_every_log(log: LogUnderTest, fresh: Fresh) -> None:
    topic = fresh("readings")
    log.create(topic, 12)

    log.append([Message(topic, key, b"1") for key in PLACES])

    assert {record.key: record.partition.number for record in log.read(topic)} == PLACES


def test_a_partition_number_given_is_obeyed(log: LogUnderTest, fresh: Fresh) -> None:
    topic = fresh("readings")
    log.create(topic, 4)

    log.append([Message(topic, b"pump", str(number).encode(), partition_number=number) for number in (3, 0, 2)])

    assert [(record.partition.number, record.value) for record in log.read(topic)] == [(0, b"0"), (2, b"2"), (3, b"3")]


def test_messages_of_one_key_stay_in_order(log: LogUnderTest, fresh: Fresh) -> None:
    topic = fresh("readings")
    log.create(topic, 3)

    log.append([Message(topic, f"pump-{number % 5}".encode(), str(number).encode()) for number in range(500)])

    records = log.read(topic)
    for pump in range(5):
        values = [int(record.value or b"") for record in records if record.key == f"pump-{pump}".encode()]
        assert values == list(range(pump, 500, 5))


def test_appending_to_a_missing_topic_names_it_and_the_remedy(log: LogUnderTest, fresh: Fresh) -> None:
    log.create(fresh("other"), 1)
    missing = fresh("missing")

    with pytest.raises(TopicError, match=rf"no topic {missing}; it holds .*load --topic {missing} --create"):
        log.append([Message(missing, b"pump", b"1")])


def test_topics_may_be_closed_twice(log: LogUnderTest, fresh: Fresh) -> None:
    topics = log.topics()
    topics.create(fresh("readings"), 1)

    topics.close()
    topics.close()
