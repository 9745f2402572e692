from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextlib import closing

import pytest
import structlog
from kafka import KafkaAdminClient, TopicPartition
from kafka.coordinator.consumer import ConsumerCoordinator

from anomaly_daemon.domain.errors import Fenced, LogUnavailable
from anomaly_daemon.domain.ports import Source
from anomaly_daemon.domain.records import ChangeKind, Message, Partition
from tests.contract.kafka_log import KafkaLog
from tests.contract.logs import Reader, joined, until
from tests.kafka.broker import Broker, ForeignBroker
from tests.kafka.loops import PARTITIONS, Member, append, expected

Fresh = Callable[[str], str]


@pytest.mark.parametrize("membership", ["log", "dynamic"])
def test_partitions_move_from_one_member_to_two_without_a_record_processed_twice(
    request: pytest.FixtureRequest, membership: str, fresh: Fresh, readings: str
) -> None:
    log: KafkaLog = request.getfixturevalue(membership)
    alerts, group = fresh("alerts"), fresh("detectors")
    log.create(alerts, 1)

    def member(name: str) -> Member:
        source = log.source([readings], group, member=name, batch_records_max=200)
        return Member(source, log.sink(source, group), alerts)

    append(log, readings, 500)
    one = member("one")
    until(lambda: len(one.committed) >= 400, one)
    two = member("two")
    until(lambda: len(one.owned) == len(two.owned) == 2, one, two)
    append(log, readings, 500)
    until(lambda: len(one.committed) + len(two.committed) >= 1000 * PARTITIONS, one, two)

    processed = [(record.partition, record.offset) for record in one.committed + two.committed]
    assert len(processed) == len(set(processed)) == 1000 * PARTITIONS
    assert sorted(record.value or b"" for record in log.read(alerts)) == expected(dict.fromkeys(range(PARTITIONS), 1000))
    revoked = {partition for change in one.changes if change.kind is ChangeKind.REVOKED for partition in change.partitions}
    assert revoked >= two.owned
    # Cooperative: what one member keeps is never taken from it.
    assert revoked.isdisjoint(one.owned)


def test_what_a_member_that_dies_between_the_two_rounds_of_a_rebalance_leaves_to_nobody_is_taken_up(
    log: KafkaLog, fresh: Fresh, readings: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, impatient = fresh("detectors"), KafkaLog(log.bootstrap, answer_timeout_s=2.0)
    one = joined(impatient.source([readings], group, member="one"), PARTITIONS)
    complete = ConsumerCoordinator._on_join_complete_async
    rounds = itertools.count()

    async def leaves_out_the_second(coordinator: ConsumerCoordinator, *arguments: object) -> None:
        if next(rounds) < 2:  # of either member
            vars(coordinator)["request_rejoin"] = lambda: None
        await complete(coordinator, *arguments)
        vars(coordinator).pop("request_rejoin", None)

    monkeypatch.setattr(ConsumerCoordinator, "_on_join_complete_async", leaves_out_the_second)
    two = Reader(impatient.source([readings], group, member="two"))
    until(lambda: len(one.owned) == 2, one, two)
    assert not two.owned

    until(lambda: len(two.owned) == 2, one, two)
    assert len(one.owned) == 2
    impatient.close()


def test_a_member_that_restarts_within_the_session_keeps_its_partitions_and_the_other_notices_nothing(
    log: KafkaLog, fresh: Fresh, readings: str
) -> None:
    group = fresh("detectors")
    one, two = joined(log.source([readings], group, member="one"), PARTITIONS), Reader(log.source([readings], group, member="two"))
    until(lambda: len(one.owned) == len(two.owned) == 2, one, two)
    changes_before, owned_before = list(one.changes), set(two.owned)

    two.source.close()
    again = Reader(log.source([readings], group, member="two"))
    until(lambda: len(again.owned) == 2, again, one)

    assert again.owned == owned_before
    assert one.changes == changes_before


def test_a_member_that_is_not_static_gives_its_partitions_up_when_it_leaves(dynamic: KafkaLog, fresh: Fresh, readings: str) -> None:
    group = fresh("detectors")
    one, two = joined(dynamic.source([readings], group, member="one"), PARTITIONS), Reader(dynamic.source([readings], group, member="two"))
    until(lambda: len(one.owned) == len(two.owned) == 2, one, two)

    left_s = time.monotonic()
    two.source.close()
    until(lambda: len(one.owned) == PARTITIONS, one)

    assert time.monotonic() - left_s < dynamic.kafka.session_timeout / 2


def test_a_member_whose_name_another_process_has_taken_is_told_though_nothing_comes_to_be_committed(
    log: KafkaLog, fresh: Fresh, readings: str
) -> None:
    group = fresh("detectors")
    earlier = joined(log.source([readings], group, member="one"), PARTITIONS)
    later = joined(log.source([readings], group, member="one"), PARTITIONS)

    with pytest.raises(Fenced, match=r"taken this one's name.*input\.member"):
        poll_on(earlier.source)

    later.step()
    assert len(later.owned) == PARTITIONS


def test_a_member_that_gets_no_partition_says_once_that_it_waits(log: KafkaLog, fresh: Fresh) -> None:
    group, topic, impatient = fresh("detectors"), fresh("readings"), KafkaLog(log.bootstrap, answer_timeout_s=1.0)
    log.create(topic, 1)
    with closing(impatient), structlog.testing.capture_logs() as said:
        one = joined(impatient.source([topic], group, member="one"), 1)
        two = Reader(impatient.source([topic], group, member="two"))
        deadline_s = time.monotonic() + 3.0
        until(lambda: time.monotonic() > deadline_s, one, two)

    assert not two.owned
    assert [line["event"] for line in said if line["event"] == "partitions_awaited"] == ["partitions_awaited"]


def test_partitions_added_to_a_topic_are_assigned_even_where_every_poll_is_short(
    broker: Broker | ForeignBroker, log: KafkaLog, fresh: Fresh, readings: str
) -> None:
    reader = joined(log.source([readings], fresh("detectors")), PARTITIONS)
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    admin.create_partitions({readings: PARTITIONS + 2})
    admin.close()

    # The client looks for new partitions every five minutes; below it is asked to look now.
    assert reader.source.member.consumer.config["metadata_max_age_ms"] == 300_000
    deadline_s = time.monotonic() + 30.0
    while len(reader.owned) < PARTITIONS + 2:
        assert time.monotonic() < deadline_s, "the member never finished joining"
        reader.source.member.consumer._cluster.request_update()
        reader.step(timeout_s=0.001)

    append(log, readings, 10)
    until(lambda: len(reader.records) == 10 * PARTITIONS, reader)


def poll_on(source: Source) -> None:
    """A minute of polls."""
    for _ in range(600):
        source.poll(0.1)


def test_an_offset_that_the_log_no_longer_holds_is_told_never_jumped_over(broker: Broker | ForeignBroker, log: KafkaLog, fresh: Fresh) -> None:
    topic = fresh("readings")
    log.create(topic, 1)
    log.append([Message(topic, None, b"1")] * 20)
    reader = joined(log.source([topic], fresh("detectors")), 1)
    until(lambda: len(reader.records) == 20, reader)
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    admin.delete_records({TopicPartition(topic, 0): 15})
    admin.close()
    partition = Partition(topic, 0)

    reader.source.seek(partition, 3)
    with pytest.raises(LogUnavailable, match=r"no longer holds .*starting over"):
        poll_on(reader.source)

    assert reader.source.bounds([partition])[partition].earliest == 15
    reader.changes.clear()
    until(lambda: len(reader.changes) == 2, reader)
    assert [change.kind for change in reader.changes] == [ChangeKind.LOST, ChangeKind.ASSIGNED]
