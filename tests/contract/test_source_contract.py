from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from anomaly_daemon.domain.errors import TopicError
from anomaly_daemon.domain.records import Batch, Bounds, ChangeKind, Message, Partition
from tests.contract.logs import LogUnderTest, Reader, joined, read_all, until

Fresh = Callable[[str], str]


def numbered(topic: str, count: int, partitions: int = 1) -> list[Message]:
    return [Message(topic, b"pump", str(number).encode(), partition_number=number % partitions) for number in range(count)]


@pytest.mark.parametrize("group", [None, "detectors"])
def test_the_first_change_assigns_every_partition_and_no_record_comes_before_a_seek(log: LogUnderTest, fresh: Fresh, group: str | None) -> None:
    topic = fresh("readings")
    log.create(topic, 2)
    log.append(numbered(topic, 10, partitions=2))
    source = log.source([topic], group and fresh(group))

    batches: list[Batch] = []
    while not any(batch.changes for batch in batches):
        batches.append(source.poll(0.2))
    batches += [source.poll(0.2) for _ in range(3)]

    changes = [change for batch in batches for change in batch.changes]
    assert [change.kind for change in changes] == [ChangeKind.ASSIGNED]
    assert set(changes[0].partitions) == {Partition(topic, 0), Partition(topic, 1)}
    assert not any(batch.records for batch in batches)


@pytest.mark.parametrize("group", [None, "detectors"])
def test_records_come_in_offset_order_from_every_partition(log: LogUnderTest, fresh: Fresh, group: str | None) -> None:
    topic = fresh("readings")
    log.create(topic, 3)
    log.append(numbered(topic, 3000, partitions=3))

    reader = joined(log.source([topic], group and fresh(group), batch_records_max=500), partitions=3)
    until(lambda: len(reader.records) == 3000, reader)

    for number in range(3):
        records = [record for record in reader.records if record.partition == Partition(topic, number)]
        assert [record.offset for record in records] == list(range(1000))
        assert [int(record.value or b"") for record in records] == list(range(number, 3000, 3))


def test_offsets_are_found_by_the_records_time_and_the_end_where_none_is_late_enough(log: LogUnderTest, fresh: Fresh) -> None:
    topic = fresh("readings")
    log.create(topic, 2)
    now_ms = time.time_ns() // 1_000_000
    log.append([Message(topic, b"pump", b"{}", timestamp_ms=now_ms + 10 * number, partition_number=0) for number in range(5)])
    source = log.source([topic], None)
    joined(source, partitions=2)
    filled, empty = Partition(topic, 0), Partition(topic, 1)

    assert source.offsets_at([filled, empty], now_ms - 1) == {filled: 0, empty: 0}
    assert source.offsets_at([filled, empty], now_ms + 20) == {filled: 2, empty: 0}
    assert source.offsets_at([filled], now_ms + 21) == {filled: 3}
    assert source.offsets_at([filled], now_ms + 1000) == {filled: 5}


def test_a_batch_holds_no_more_records_than_allowed(log: LogUnderTest, fresh: Fresh) -> None:
    topic = fresh("readings")
    log.create(topic, 3)
    log.append(numbered(topic, 300, partitions=3))
    reader = joined(log.source([topic], fresh("detectors"), batch_records_max=7), partitions=3)

    sizes = []
    while len(reader.records) < 300:
        sizes.append(len(reader.step().records))

    assert max(sizes) == 7


def test_a_batch_is_the_last_one_where_less_than_another_is_left(log: LogUnderTest, fresh: Fresh) -> None:
    topic = fresh("readings")
    log.create(topic, 1)
    log.append(numbered(topic, 100))
    reader = joined(log.source([topic], fresh("detectors"), batch_records_max=20), partitions=1)

    told = {}
    while len(reader.records) < 100:
        is_last = reader.step().is_last
        told[100 - len(reader.records)] = is_last
    log.append(numbered(topic, 1))
    while len(reader.records) < 101:
        is_last = reader.step().is_last

    assert [is_last for left, is_last in told.items() if 20 <= left < 100] == [False] * 4
    assert told[0]
    assert is_last


def test_several_topics_are_read_together(log: LogUnderTest, fresh: Fresh) -> None:
    pumps, fans = fresh("pumps"), fresh("fans")
    log.create(pumps, 1)
    log.create(fans, 2)
    log.append([*numbered(pumps, 5), *numbered(fans, 6, partitions=2)])

    reader = joined(log.source([pumps, fans], fresh("detectors")), partitions=3)
    until(lambda: len(reader.records) == 11, reader)

    assert {record.partition for record in reader.records} == {Partition(pumps, 0), Partition(fans, 0), Partition(fans, 1)}


def test_seek_moves_forward_and_back(log: LogUnderTest, fresh: Fresh) -> None:
    topic = fresh("readings")
    log.create(topic, 1)
    log.append(numbered(topic, 10))
    reader = joined(log.source([topic], fresh("detectors")), partitions=1)
    until(lambda: len(reader.records) == 10, reader)

    for offset in (7, 2, 9):
        reader.records.clear()
        reader.source.seek(Partition(topic, 0), offset)
        until(lambda: len(reader.records) == 10 - offset, reader)  # noqa: B023 - called within this turn
        assert [record.offset for record in reader.records] == list(range(offset, 10))


def test_positions_are_where_the_next_poll_goes_on(log: LogUnderTest, fresh: Fresh) -> None:
    topic = fresh("readings")
    log.create(topic, 1)
    log.append(numbered(topic, 10))
    reader = joined(log.source([topic], fresh("detectors"), batch_records_max=4), partitions=1)

    assert reader.source.positions() == {Partition(topic, 0): 0}
    until(lambda: len(reader.records) == 4, reader)
    assert reader.source.positions() == {Partition(topic, 0): 4}
    reader.source.seek(Partition(topic, 0), 2)
    assert reader.source.positions() == {Partition(topic, 0): 2}


def test_a_poll_with_nothing_there_brings_an_empty_batch(log: LogUnderTest, fresh: Fresh) -> None:
    topic = fresh("readings")
    log.create(topic, 1)
    reader = joined(log.source([topic], fresh("detectors")), partitions=1)

    batch = reader.source.poll(0.05)

    assert (list(batch.records), batch.changes) == ([], ())


def test_records_appended_after_the_assignment_arrive(log: LogUnderTest, fresh: Fresh) -> None:
    topic = fresh("readings")
    log.create(topic, 1)
    reader = joined(log.source([topic], fresh("detectors")), partitions=1)

    log.append(numbered(topic, 3))
    until(lambda: len(reader.records) == 3, reader)

    assert reader.values() == [b"0", b"1", b"2"]


def test_who_never_committed_is_told_nothing(log: LogUnderTest, fresh: Fresh) -> None:
    topic = fresh("readings")
    log.create(topic, 1)
    log.append(numbered(topic, 5))

    for group in (fresh("detectors"), None):
        assert joined(log.source([topic], group), partitions=1).source.committed([Partition(topic, 0)]) == {}


def test_bounds_tell_what_is_retained(log: LogUnderTest, fresh: Fresh) -> None:
    topic = fresh("readings")
    log.create(topic, 2)
    log.append([Message(topic, None, b"1", partition_number=1)] * 4)
    reader = joined(log.source([topic], None), partitions=2)

    assert reader.source.bounds([Partition(topic, 0), Partition(topic, 1)]) == {
        Partition(topic, 0): Bounds(0, 0),
        Partition(topic, 1): Bounds(0, 4),
    }


def test_a_member_goes_on_where_its_group_committed(log: LogUnderTest, fresh: Fresh) -> None:
    topic, group = fresh("readings"), fresh("detectors")
    log.create(topic, 1)
    log.append(numbered(topic, 10))
    first = joined(log.source([topic], group, batch_records_max=4), partitions=1)
    until(lambda: len(first.records) == 4, first)
    log.sink(first.source, group).commit(first.output())
    first.source.close()

    second = joined(log.source([topic], group), partitions=1)
    until(lambda: len(second.records) == 6, second)

    assert second.source.committed([Partition(topic, 0)]) == {Partition(topic, 0): 4}
    assert [record.offset for record in second.records] == [4, 5, 6, 7, 8, 9]


def test_two_members_share_the_partitions_and_read_each_record_once_what_was_handed_over_was_revoked(log: LogUnderTest, fresh: Fresh) -> None:
    topic, group = fresh("readings"), fresh("detectors")
    log.create(topic, 4)
    one = joined(log.source([topic], group, member="one"), partitions=4)
    two = Reader(log.source([topic], group, member="two"))
    until(lambda: len(one.owned) == len(two.owned) == 2, one, two)

    log.append(numbered(topic, 40, partitions=4))
    until(lambda: len(one.records) + len(two.records) == 40, one, two)

    assert one.owned.isdisjoint(two.owned)
    assert sorted(int(value or b"") for value in one.values() + two.values()) == list(range(40))
    assert {partition for change in one.changes if change.kind is ChangeKind.REVOKED for partition in change.partitions} >= two.owned


def test_sources_without_a_group_each_read_everything(log: LogUnderTest, fresh: Fresh) -> None:
    topic = fresh("readings")
    log.create(topic, 2)
    log.append(numbered(topic, 10, partitions=2))

    sources = [log.source([topic], None), log.source([topic], None)]

    assert [len(read_all(source)) for source in sources] == [10, 10]


def test_missing_topics_are_all_named_with_the_remedy(log: LogUnderTest, fresh: Fresh) -> None:
    there, fans, pumps = fresh("there"), fresh("fans"), fresh("pumps")
    log.create(there, 1)

    with pytest.raises(TopicError, match=rf"no topic {fans}, {pumps}; it holds .*load --topic") as refused:
        log.source([pumps, there, fans], fresh("detectors"))

    assert "create_topics" not in str(refused.value)


def test_a_source_may_be_closed_twice(log: LogUnderTest, fresh: Fresh) -> None:
    topic = fresh("readings")
    log.create(topic, 1)
    reader = joined(log.source([topic], fresh("detectors")), partitions=1)

    reader.source.close()
    reader.source.close()
