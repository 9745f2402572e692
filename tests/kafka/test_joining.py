"""What a member owns while it joins, however its polls lie, and what the client (3.0.12) makes of it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextlib import closing

import pytest
from kafka import KafkaAdminClient, KafkaConsumer
from kafka.admin import MemberToRemove
from kafka.coordinator.consumer import ConsumerCoordinator
from kafka.errors import KafkaTimeoutError

from anomaly_daemon.adapters.kafka_client import ANSWER_TIMEOUT_S
from anomaly_daemon.adapters.kafka_group import Lease
from anomaly_daemon.adapters.kafka_source import KafkaSource
from anomaly_daemon.domain.records import Batch, ChangeKind
from anomaly_daemon.settings import Kafka
from tests.contract.kafka_log import KafkaLog
from tests.contract.logs import Reader, joined, until
from tests.kafka.loops import PARTITIONS, append

Fresh = Callable[[str], str]
BUSY_S, HEARTBEAT_S = 0.3, 1.0
SESSION, STALL_S = "10s", 2.0


class Busy(Reader):
    """Longer about its records than a join takes."""

    def step(self, timeout_s: float = 0.002) -> Batch:
        batch = super().step(timeout_s)
        time.sleep(BUSY_S)
        return batch


def rest(*members: Reader) -> None:
    """Longer than a heartbeat, by which a member would learn of a rebalance."""
    ends_s = time.monotonic() + 3 * HEARTBEAT_S
    until(lambda: time.monotonic() >= ends_s, *members)


def generation_at_rest(*members: Reader) -> int:
    rest(*members)
    (generation,) = {member.lease.membership.generation_id for member in members if isinstance(member.lease, Lease)}
    return generation


def let_join(leader: Reader, beside: Reader) -> KafkaConsumer:
    """The leader joins anew, and waits for the other one as long as that is not polled."""
    rest(leader, beside)
    consumer: KafkaConsumer = leader.source.member.consumer
    assert consumer._coordinator._is_leader, "no rebalance begins where another member joins anew"
    consumer._coordinator.request_rejoin()
    joins_until_s = time.monotonic() + 0.5
    while time.monotonic() < joins_until_s:
        leader.step()
    assert consumer._coordinator.rejoining
    return consumer


@pytest.mark.parametrize("membership", ["log", "dynamic"])
def test_members_that_are_busy_between_short_polls_share_the_partitions_and_the_group_comes_to_rest(
    request: pytest.FixtureRequest, membership: str, fresh: Fresh, readings: str
) -> None:
    log: KafkaLog = request.getfixturevalue(membership)
    group = fresh("detectors")
    one, two = Busy(log.source([readings], group, member="one")), Busy(log.source([readings], group, member="two"))
    until(lambda: len(one.owned) == len(two.owned) == 2, one, two)
    append(log, readings, 50)
    until(lambda: len(one.records) + len(two.records) == 50 * PARTITIONS, one, two)

    generations = {generation_at_rest(one, two) for _ in range(2)}

    assert len(generations) == 1


def test_a_member_that_is_expelled_while_it_joins_is_told_that_it_lost_what_it_is_given_again(dynamic: KafkaLog, fresh: Fresh, readings: str) -> None:
    group = fresh("detectors")
    one, two = joined(dynamic.source([readings], group, member="one"), PARTITIONS), Reader(dynamic.source([readings], group, member="two"))
    until(lambda: len(one.owned) == len(two.owned) == 2, one, two)
    consumer = let_join(one, beside=two)
    one.changes.clear()

    with closing(KafkaAdminClient(bootstrap_servers=dynamic.bootstrap)) as admin:
        admin.remove_group_members(group, [MemberToRemove(member_id=consumer.group_metadata().member_id)])
    until(lambda: len(one.owned) == 2 and any(change.kind is ChangeKind.ASSIGNED for change in one.changes), one, two)

    assert [change.kind for change in one.changes] == [ChangeKind.LOST, ChangeKind.ASSIGNED]


def test_committed_offsets_are_told_while_a_join_waits_for_others(log: KafkaLog, fresh: Fresh, readings: str) -> None:
    group = fresh("detectors")
    one, two = joined(log.source([readings], group, member="one"), PARTITIONS), Reader(log.source([readings], group, member="two"))
    append(log, readings, 5)
    until(lambda: len(one.owned) == len(two.owned) == 2 and len(one.records) >= 10, one, two)
    rest(one, two)
    log.sink(one.source, group).commit(one.output())
    committed = one.output().next_offsets
    let_join(one, beside=two)
    began_s = time.monotonic()

    assert one.source.committed(sorted(committed)) == committed
    assert time.monotonic() - began_s < ANSWER_TIMEOUT_S / 2


def test_a_join_that_ran_out_of_time_is_begun_anew(log: KafkaLog, fresh: Fresh, readings: str, monkeypatch: pytest.MonkeyPatch) -> None:
    join, attempts = ConsumerCoordinator._do_join_and_sync_async, itertools.count()

    async def slow_at_first(coordinator: ConsumerCoordinator) -> bytes:
        if next(attempts) == 0:
            raise KafkaTimeoutError("the connection was not ready in time")
        return bytes(await join(coordinator))

    monkeypatch.setattr(ConsumerCoordinator, "_do_join_and_sync_async", slow_at_first)

    joined(log.source([readings], fresh("detectors")), PARTITIONS)

    assert next(attempts) > 1


def test_a_member_that_is_made_anew_claims_nothing_that_others_have_by_now(
    dynamic: KafkaLog, fresh: Fresh, readings: str, caplog: pytest.LogCaptureFixture
) -> None:
    group = fresh("detectors")
    one, two = joined(dynamic.source([readings], group, member="one"), PARTITIONS), Reader(dynamic.source([readings], group, member="two"))
    until(lambda: len(one.owned) == len(two.owned) == 2, one, two)
    one.source._give_up()
    until(lambda: len(two.owned) == PARTITIONS, two)

    until(lambda: len(one.owned) == len(two.owned) == 2, one, two)

    assert "assigned to multiple consumers" not in caplog.text


def test_members_that_wait_for_one_that_died_are_not_taken_for_stalled(log: KafkaLog, fresh: Fresh, readings: str) -> None:
    group, kafka = fresh("detectors"), Kafka(session_timeout=SESSION)

    def member(name: str) -> Reader:
        return Reader(KafkaSource(log.bootstrap, kafka, [readings], group, name, 500, answer_timeout_s=STALL_S, stall_timeout_s=STALL_S))

    one, dead = member("one"), member("dead")
    until(lambda: len(one.owned) == len(dead.owned) == 2, one, dead)
    one.changes.clear()
    dead.source.close()  # a static member's: the group waits for it
    three = member("three")
    until(lambda: one.source.member.consumer._coordinator.rejoining, one, three)
    append(log, readings, 50)
    with closing(one.source), closing(three.source):
        until(lambda: len(one.owned) + len(three.owned) == PARTITIONS and bool(three.owned), one, three)

        assert ChangeKind.LOST not in [change.kind for change in one.changes]


def test_members_that_are_restarted_one_by_one_with_fewer_topics_share_those_that_are_left(log: KafkaLog, fresh: Fresh, readings: str) -> None:
    group, more = fresh("detectors"), fresh("more-readings")
    log.create(more, PARTITIONS)

    def member(name: str, *topics: str) -> Reader:
        return Reader(log.source(topics, group, member=name))

    one, two = joined(log.source([readings, more], group, member="one"), 2 * PARTITIONS), member("two", readings, more)
    until(lambda: len(one.owned) == len(two.owned) == PARTITIONS, one, two)
    one.source.close()
    one = member("one", readings)
    until(lambda: {partition.topic for partition in one.owned} == {readings} and len(one.owned) + len(two.owned) == 2 * PARTITIONS, one, two)
    restarted_s = time.monotonic()
    two.source.close()
    two = member("two", readings)

    until(lambda: len(one.owned) == len(two.owned) == PARTITIONS / 2, one, two)
    assert time.monotonic() - restarted_s < log.kafka.session_timeout / 2
