from __future__ import annotations

from collections.abc import Callable

import pytest

from anomaly_daemon.domain.errors import CommitFailed, Fenced
from anomaly_daemon.domain.records import BatchOutput, Message, Partition
from tests.contract.logs import LogUnderTest, Reader, begin, joined, until

Fresh = Callable[[str], str]


@pytest.fixture
def readings(log: LogUnderTest, fresh: Fresh) -> str:
    topic = fresh("readings")
    log.create(topic, 2)
    log.append([Message(topic, None, str(number).encode(), partition_number=number % 2) for number in range(10)])
    return topic


@pytest.fixture
def alerts(log: LogUnderTest, fresh: Fresh) -> str:
    topic = fresh("alerts")
    log.create(topic, 1)
    return topic


def member(log: LogUnderTest, topic: str, group: str, name: str = "one") -> Reader:
    """A member that owns both partitions and has read all ten records."""
    reader = joined(log.source([topic], group, member=name), partitions=2)
    until(lambda: len(reader.records) == 10, reader)
    return reader


def test_messages_and_offsets_appear_together(log: LogUnderTest, fresh: Fresh, readings: str, alerts: str) -> None:
    group = fresh("detectors")
    reader = member(log, readings, group)
    message = Message(alerts, b"pump", b'{"status": "firing"}', (("ce_type", b"incident.opened.v1"),), timestamp_ms=1_600_000_000_000)

    log.sink(reader.source, group).commit(reader.output([message]))

    published = log.read(alerts)
    assert [(record.key, record.value, record.headers) for record in published] == [(message.key, message.value, message.headers)]
    assert published[0].timestamp_ms == 1_600_000_000_000
    partitions = [Partition(readings, 0), Partition(readings, 1)]
    assert reader.source.committed(partitions) == dict.fromkeys(partitions, 5)


def test_offsets_may_be_committed_without_messages(log: LogUnderTest, fresh: Fresh, readings: str) -> None:
    group = fresh("detectors")
    reader = member(log, readings, group)

    log.sink(reader.source, group).commit(reader.output())

    assert reader.source.committed([Partition(readings, 1)]) == {Partition(readings, 1): 5}


def test_an_output_without_anything_commits(log: LogUnderTest, fresh: Fresh, readings: str) -> None:
    group = fresh("detectors")
    reader = member(log, readings, group)

    log.sink(reader.source, group).commit(BatchOutput(lease=reader.lease))

    assert reader.source.committed([Partition(readings, 0)]) == {}


def test_commits_follow_one_another_in_order(log: LogUnderTest, fresh: Fresh, readings: str, alerts: str) -> None:
    group = fresh("detectors")
    reader = member(log, readings, group)
    sink = log.sink(reader.source, group)

    for offset in range(1, 6):
        messages = (Message(alerts, b"pump", str(offset).encode()),)
        sink.commit(BatchOutput(messages, {Partition(readings, 0): offset}, lease=reader.lease))

    assert [record.value for record in log.read(alerts)] == [b"1", b"2", b"3", b"4", b"5"]
    assert reader.source.committed([Partition(readings, 0)]) == {Partition(readings, 0): 5}


def test_a_partition_lost_before_the_commit_leaves_nothing_behind(log: LogUnderTest, fresh: Fresh, readings: str, alerts: str) -> None:
    group = fresh("detectors")
    one = member(log, readings, group)
    stale = one.output([Message(alerts, b"pump", b"from the member that lost it")])
    two = Reader(log.source([readings], group, member="two"))
    until(lambda: len(one.owned) == len(two.owned) == 1, one, two)

    with pytest.raises(CommitFailed):
        log.sink(one.source, group).commit(stale)

    until(lambda: len(two.records) == 5, two)
    log.sink(two.source, group).commit(two.output([Message(alerts, b"pump", b"from its new owner")]))
    assert [record.value for record in log.read(alerts)] == [b"from its new owner"]


def test_after_a_failed_commit_the_records_are_read_again_and_have_their_effect_once(
    log: LogUnderTest, fresh: Fresh, readings: str, alerts: str
) -> None:
    group = fresh("detectors")
    one = member(log, readings, group)
    two = Reader(log.source([readings], group, member="two"))
    stale = one.output([Message(alerts, b"pump", value) for value in one.values()])
    until(lambda: len(one.owned) == len(two.owned) == 1, one, two)
    with pytest.raises(CommitFailed):
        log.sink(one.source, group).commit(stale)

    one.records = []
    begin(one.source, sorted(one.owned))
    until(lambda: len(one.records) == 5 and len(two.records) == 5, one, two)
    for reader in (one, two):
        log.sink(reader.source, group).commit(reader.output([Message(alerts, b"pump", value) for value in reader.values()]))

    assert sorted(int(record.value or b"") for record in log.read(alerts)) == list(range(10))


def test_a_restarted_member_takes_over_at_once_and_its_predecessor_can_commit_nothing_more(
    log: LogUnderTest, fresh: Fresh, readings: str, alerts: str
) -> None:
    group = fresh("detectors")
    before = member(log, readings, group, name="one")
    old_sink = log.sink(before.source, group)
    after = member(log, readings, group, name="one")
    new_sink = log.sink(after.source, group)

    with pytest.raises((Fenced, CommitFailed)):
        old_sink.commit(before.output([Message(alerts, b"pump", b"from the dead")]))

    new_sink.commit(after.output([Message(alerts, b"pump", b"from the living")]))
    assert [record.value for record in log.read(alerts)] == [b"from the living"]


def test_a_sink_may_be_closed_twice(log: LogUnderTest, fresh: Fresh, readings: str) -> None:
    group = fresh("detectors")
    reader = member(log, readings, group)
    sink = log.sink(reader.source, group)
    sink.commit(reader.output())

    sink.close()
    sink.close()
