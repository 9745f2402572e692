from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from anomaly_daemon.adapters.sqlite_append import RECORD_OVERHEAD_BYTES
from anomaly_daemon.adapters.sqlite_sink import SqliteSink
from anomaly_daemon.adapters.sqlite_source import SqliteSource
from anomaly_daemon.adapters.sqlite_topics import SqliteTopics
from anomaly_daemon.domain.errors import LogUnavailable
from anomaly_daemon.domain.records import BatchOutput, Bounds, Message, Partition
from tests.contract.logs import ManualClock, Reader

ONE, TWO = Partition("readings", 0), Partition("readings", 1)
RECORD_BYTES = RECORD_OVERHEAD_BYTES + 100


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "topics.db"


def topics(path: Path, clock: ManualClock, age_s: float | None = None, bytes_max: int | None = None) -> SqliteTopics:
    made = SqliteTopics(path, clock, retention_s=age_s, retention_bytes=bytes_max)
    made.create("readings", 2)
    return made


def reader(path: Path, clock: ManualClock) -> Reader:
    made = Reader(SqliteSource(path, ["readings"], "detectors", "one", 4096, 1000.0, clock))
    made.step()
    return made


def messages(count: int, partition: int = 0) -> list[Message]:
    return [Message("readings", None, b"x" * 100, partition_number=partition)] * count


def test_records_older_than_the_limit_go_and_the_earliest_offset_moves_up(path: Path, clock: ManualClock) -> None:
    log = topics(path, clock, age_s=60)
    log.append(messages(700))
    clock.advance(50)
    log.append(messages(10))
    clock.advance(11)
    log.append(messages(1, partition=1))

    assert reader(path, clock).source.bounds([ONE, TWO]) == {ONE: Bounds(700, 710), TWO: Bounds(0, 1)}


def test_a_partition_whose_records_are_all_too_old_is_empty_and_its_offsets_go_on(path: Path, clock: ManualClock) -> None:
    log = topics(path, clock, age_s=60)
    log.append(messages(300))
    clock.advance(100)
    log.append(messages(1, partition=1))
    assert reader(path, clock).source.bounds([ONE]) == {ONE: Bounds(300, 300)}

    log.append(messages(2))

    assert reader(path, clock).source.bounds([ONE]) == {ONE: Bounds(300, 302)}


def test_beyond_the_size_limit_the_oldest_records_of_the_topic_go(path: Path, clock: ManualClock) -> None:
    log = topics(path, clock, bytes_max=1000 * RECORD_BYTES)
    log.append(messages(900))
    clock.advance(10)
    log.append(messages(600, partition=1))

    assert reader(path, clock).source.bounds([ONE, TWO]) == {ONE: Bounds(500, 900), TWO: Bounds(0, 600)}


def test_one_topic_beyond_its_size_costs_the_others_nothing(path: Path, clock: ManualClock) -> None:
    log = topics(path, clock, bytes_max=100 * RECORD_BYTES)
    log.create("quiet", 1)
    log.append([Message("quiet", None, b"x" * 100)] * 50)
    clock.advance(10)
    log.append(messages(300))

    quiet = SqliteSource(path, ["quiet"], None, "one", 100, 30.0, clock)
    assert quiet.bounds([Partition("quiet", 0)]) == {Partition("quiet", 0): Bounds(0, 50)}
    assert reader(path, clock).source.bounds([ONE]) == {ONE: Bounds(200, 300)}


def test_without_limits_everything_is_kept(path: Path, clock: ManualClock) -> None:
    log = topics(path, clock)
    log.append(messages(10))
    clock.advance(1e9)
    log.append(messages(10))

    assert reader(path, clock).source.bounds([ONE]) == {ONE: Bounds(0, 20)}


def test_housekeeping_pauses_between_its_rounds(path: Path, clock: ManualClock) -> None:
    log = topics(path, clock, bytes_max=10 * RECORD_BYTES)
    log.append(messages(10))
    log.append(messages(10))
    assert reader(path, clock).source.bounds([ONE]) == {ONE: Bounds(0, 20)}

    clock.advance(5)
    log.append(messages(1))

    assert reader(path, clock).source.bounds([ONE]) == {ONE: Bounds(11, 21)}


def test_a_sink_applies_the_retention_too(path: Path, clock: ManualClock) -> None:
    topics(path, clock).append(messages(20))
    member = reader(path, clock)
    clock.advance(100)

    SqliteSink(path, "detectors", clock, retention_s=60).commit(BatchOutput((), {ONE: 5}, member.lease))

    assert member.source.bounds([ONE]) == {ONE: Bounds(20, 20)}


def test_a_member_below_the_earliest_offset_is_told_so_once_and_goes_on_there(path: Path, clock: ManualClock) -> None:
    log = topics(path, clock, age_s=60)
    log.append(messages(20))
    member = reader(path, clock)
    clock.advance(100)
    log.append(messages(3))

    with pytest.raises(LogUnavailable, match="no longer holds offset 0, which was next, and begins at 20"):
        member.source.poll(0.0)
    assert [record.offset for record in member.step().records] == [20, 21, 22]
    assert member.source.positions()[ONE] == 23


@pytest.mark.parametrize("kept", [3, 0])
def test_what_retention_takes_between_look_and_reading_is_told_too(
    path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    log = topics(path, clock, age_s=60)
    log.append(messages(20))
    member = reader(path, clock)
    read = SqliteSource._read

    def overtaken(*arguments: Any) -> int:
        monkeypatch.undo()
        clock.advance(100)
        log.append(messages(kept) + messages(1, partition=1))
        return read(*arguments)

    monkeypatch.setattr(SqliteSource, "_read", overtaken)

    with pytest.raises(LogUnavailable, match="no longer holds offset 0, which was next, and begins at 20"):
        [member.source.poll(0.0) for _ in range(2)]
    assert [record.offset for record in member.step().records if record.partition == ONE] == list(range(20, 20 + kept))
