from __future__ import annotations

from pathlib import Path

import pytest

from anomaly_daemon.adapters.sqlite_append import murmur2
from anomaly_daemon.adapters.sqlite_source import SqliteSource
from anomaly_daemon.adapters.sqlite_topics import SqliteTopics
from anomaly_daemon.domain.errors import TopicError
from anomaly_daemon.domain.records import Message, Record
from tests.contract.logs import ManualClock, read_all


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "topics.db"


def records(path: Path, topic: str) -> list[Record]:
    source = SqliteSource(path, [topic], None, "one", 4096, 30.0, ManualClock())
    found = read_all(source)
    source.close()
    return found


@pytest.mark.parametrize(
    ("key", "hashed"),
    [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536), (b"a-little-bit-longer-string", -1486304829),
     (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971), (b"abc", 479470107)],
)  # fmt: skip
def test_keys_hash_as_in_the_tests_of_kafka_itself(key: bytes, hashed: int) -> None:
    assert murmur2(key) == hashed & 0xFFFFFFFF


def test_asking_for_topics_makes_no_file(path: Path) -> None:
    assert SqliteTopics(path, ManualClock()).partitions(["readings"]) == {}
    assert not path.parent.exists()


def test_messages_without_a_key_take_the_partitions_in_turn(path: Path) -> None:
    topics = SqliteTopics(path, ManualClock())
    topics.create("readings", 3)

    topics.append([Message("readings", None, str(number).encode()) for number in range(7)])

    assert [(record.partition.number, record.value) for record in records(path, "readings")] == [
        (0, b"0"), (0, b"3"), (0, b"6"), (1, b"1"), (1, b"4"), (2, b"2"), (2, b"5"),
    ]  # fmt: skip


def test_a_message_without_a_timestamp_bears_the_time_of_its_append(path: Path) -> None:
    topics = SqliteTopics(path, ManualClock(now_us=1_234_567_000))
    topics.create("readings", 1)

    topics.append([Message("readings", b"pump", b"1")])

    assert records(path, "readings")[0].timestamp_ms == 1_234_567


def test_a_partition_that_is_not_there_is_refused_with_its_whole_transaction(path: Path) -> None:
    topics = SqliteTopics(path, ManualClock())
    topics.create("readings", 2)

    with pytest.raises(TopicError, match="no partition 2"):
        topics.append([Message("readings", b"pump", b"1"), Message("readings", b"pump", b"2", partition_number=2)])

    assert records(path, "readings") == []


def test_more_messages_than_one_transaction_holds_are_all_appended_in_order(path: Path) -> None:
    topics = SqliteTopics(path, ManualClock())
    topics.create("readings", 1)

    assert topics.append(Message("readings", b"pump", str(number).encode()) for number in range(20_000)) == 20_000

    assert [record.value for record in records(path, "readings")] == [str(number).encode() for number in range(20_000)]


@pytest.mark.parametrize("partitions", [0, -1, 4097])
def test_a_topic_has_at_least_one_partition_and_not_endlessly_many(path: Path, partitions: int) -> None:
    with pytest.raises(TopicError, match="partitions"):
        SqliteTopics(path, ManualClock()).create("readings", partitions)
