from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomaly_daemon.adapters import sqlite_source
from anomaly_daemon.adapters.sqlite_source import SqliteSource, fair_shares
from anomaly_daemon.adapters.sqlite_topics import SqliteTopics
from anomaly_daemon.domain.errors import TopicError
from anomaly_daemon.domain.records import Message, Partition
from tests.contract.logs import ManualClock, Reader


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def topics(tmp_path: Path, clock: ManualClock) -> SqliteTopics:
    topics = SqliteTopics(tmp_path / "topics.db", clock)
    topics.create("readings", 3)
    return topics


@pytest.fixture
def reader(tmp_path: Path, topics: SqliteTopics, clock: ManualClock) -> Reader:
    reader = Reader(SqliteSource(tmp_path / "topics.db", ["readings"], "detectors", "one", 12, 30.0, clock))
    reader.step()
    assert len(reader.owned) == 3
    return reader


def filled(topics: SqliteTopics, *counts: int) -> None:
    topics.append(Message("readings", None, b"x" * 10, partition_number=number) for number, count in enumerate(counts) for _ in range(count))


def taken(reader: Reader) -> list[int]:
    batch = reader.step()
    return [sum(record.partition.number == number for record in batch.records) for number in range(3)]


def test_a_busy_partition_does_not_starve_the_others(reader: Reader, topics: SqliteTopics) -> None:
    filled(topics, 1000, 2, 30)

    assert taken(reader) == [5, 2, 5]
    assert taken(reader) == [6, 0, 6]


def test_every_partition_has_its_turn_when_a_batch_is_smaller_than_their_number(tmp_path: Path, topics: SqliteTopics, clock: ManualClock) -> None:
    reader = Reader(SqliteSource(tmp_path / "topics.db", ["readings"], None, "one", 1, 30.0, clock))
    reader.step()
    filled(topics, 5, 5, 5)

    assert sum((sum(taken(reader)) for _ in range(3)), 0) == 3
    assert {record.partition.number for record in reader.records} == {0, 1, 2}


def test_a_waiting_poll_notices_what_another_connection_appends(reader: Reader, topics: SqliteTopics, clock: ManualClock) -> None:
    clock.on_sleep = [lambda: None, lambda: filled(topics, 1)]
    started_s = clock.monotonic_s()

    batch = reader.source.poll(10.0)

    assert len(batch.records) == 1
    assert clock.monotonic_s() - started_s < 0.02


def test_a_poll_with_nothing_to_bring_waits_for_its_timeout_and_no_longer(reader: Reader, clock: ManualClock) -> None:
    started_s = clock.monotonic_s()

    assert list(reader.source.poll(0.5).records) == []

    assert clock.monotonic_s() - started_s == pytest.approx(0.5)


def test_a_long_poll_keeps_the_membership_alive(reader: Reader, tmp_path: Path, clock: ManualClock) -> None:
    reader.source.poll(100.0)
    other = Reader(SqliteSource(tmp_path / "topics.db", ["readings"], "detectors", "two", 12, 30.0, clock))
    other.step()

    assert [change.kind for change in reader.step().changes] != []
    assert len(reader.owned) == 2


def test_a_batch_is_bounded_in_bytes(reader: Reader, topics: SqliteTopics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_source, "BATCH_BYTES_MAX", 30)
    monkeypatch.setattr(sqlite_source, "_FETCH_RECORDS", 2)
    filled(topics, 12, 12)

    assert sum(taken(reader)) == 4
    while len(reader.records) < 24:
        reader.step()
    for number in (0, 1):
        assert [record.offset for record in reader.records if record.partition.number == number] == list(range(12))


def test_a_seek_of_a_partition_that_is_not_owned_is_refused(tmp_path: Path, topics: SqliteTopics, clock: ManualClock) -> None:
    source = SqliteSource(tmp_path / "topics.db", ["readings"], None, "one", 12, 30.0, clock)

    with pytest.raises(ValueError, match=r"readings\[0\] is not owned"):
        source.seek(Partition("readings", 0), 0)


def test_a_seek_beyond_the_end_waits_for_that_offset(reader: Reader, topics: SqliteTopics) -> None:
    reader.source.seek(Partition("readings", 0), 3)
    filled(topics, 2)
    assert taken(reader) == [0, 0, 0]

    filled(topics, 3)

    assert [record.offset for record in reader.step().records] == [3, 4]


def test_a_log_that_does_not_exist_misses_all_topics_and_is_not_made(tmp_path: Path, clock: ManualClock) -> None:
    with pytest.raises(TopicError, match=r"fans, pumps.*load --topic fans --create"):
        SqliteSource(tmp_path / "none.db", ["pumps", "fans"], None, "one", 12, 30.0, clock)

    assert not (tmp_path / "none.db").exists()


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(0, 120))
def test_shares_take_all_they_may_and_differ_by_one_at_most_where_both_backlogs_are_larger(backlogs: list[int], total: int) -> None:
    shares = fair_shares(backlogs, total)

    assert sum(shares) == min(total, sum(backlogs))
    assert all(0 <= share <= backlog for share, backlog in zip(shares, backlogs, strict=True))
    unmet = [share for share, backlog in zip(shares, backlogs, strict=True) if share < backlog]
    assert not unmet or max(shares) - min(unmet) <= 1
