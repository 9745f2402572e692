from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from kafka import KafkaProducer
from kafka.coordinator.consumer import ConsumerCoordinator

from anomaly_daemon.adapters import kafka_sink
from anomaly_daemon.domain.errors import CommitFailed, LogUnavailable
from anomaly_daemon.domain.records import BatchOutput, ChangeKind, Message, Partition
from tests.contract.kafka_log import KafkaLog
from tests.contract.logs import Reader, joined, until
from tests.kafka.broker import Broker
from tests.kafka.loops import Member, expected

Fresh = Callable[[str], str]
COMMIT_TIMEOUT_S, ANSWER_TIMEOUT_S = 3.0, 2.0


@pytest.fixture
def log(own_broker: Broker) -> KafkaLog:
    return KafkaLog(own_broker.bootstrap, ANSWER_TIMEOUT_S, commit_timeout=f"{COMMIT_TIMEOUT_S:.0f}s", session_timeout="6s")


@pytest.fixture
def one(log: KafkaLog, fresh: Fresh) -> Member:
    """A member that has committed the first 300 records of one partition."""
    readings, alerts = fresh("readings"), fresh("alerts")
    log.create(readings, 1)
    log.create(alerts, 1)
    source = log.source([readings], fresh("detectors"))
    one = Member(source, log.sink(source, fresh("detectors")), alerts)
    append(log, one, 300)
    until(lambda: len(one.committed) == 300, one)
    return one


def append(log: KafkaLog, one: Member, count: int) -> None:
    topic = one.source._topics[0]
    log.append(Message(topic, None, b"1", partition_number=0) for _ in range(count))


def alerts_of(log: KafkaLog, one: Member) -> list[bytes]:
    return sorted(record.value or b"" for record in log.read(one.alerts_topic))


@pytest.mark.parametrize("moment", ["before the transaction", "at its end"])
def test_a_broker_frozen_in_a_commit_costs_the_deadline_and_afterwards_nothing_is_doubled(
    moment: str, own_broker: Broker, log: KafkaLog, one: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    if moment == "at its end":
        end = KafkaProducer.commit_transaction
        monkeypatch.setattr(KafkaProducer, "commit_transaction", lambda producer: (own_broker.freeze(), end(producer)))
    else:
        one.before_commit = own_broker.freeze
    append(log, one, 300)

    started_s = time.monotonic()
    until(lambda: bool(one.failures), one)
    assert isinstance(one.failures[0], CommitFailed)
    assert f"{own_broker.bootstrap}: commit: its outcome is unknown" in str(one.failures[0])
    assert COMMIT_TIMEOUT_S <= time.monotonic() - started_s < COMMIT_TIMEOUT_S + 5.0

    monkeypatch.undo()
    one.before_commit = lambda: None
    own_broker.thaw()
    append(log, one, 300)
    until(lambda: one.next_offsets == {partition_of(one): 900}, one)

    assert alerts_of(log, one) == expected({0: 900})
    until_no_thread_named("kafka-commit", "kafka-discard")
    log.close()


def test_offsets_that_a_broker_tells_after_it_stood_still_are_asked_for_again(
    own_broker: Broker, one: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = KafkaLog(own_broker.bootstrap)
    source, partition = patient.source(one.source._topics, one.source._group, member="two"), partition_of(one)
    asked = asked_for_committed(monkeypatch)
    assert source.committed([partition]) == {partition: 300}
    assert len(asked) == 1

    own_broker.freeze()
    thaw = threading.Timer(3.0, own_broker.thaw)
    thaw.start()
    assert source.committed([partition]) == {partition: 300}
    thaw.join()
    patient.close()

    # Told late, it was asked for once more, by when the broker knows what has happened meanwhile.
    assert len(asked) == 3
    assert asked[2] - asked[1] > 3.0


def asked_for_committed(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When, by the monotonic clock: a round trip each."""
    asked: list[float] = []
    ask = ConsumerCoordinator.fetch_committed_offsets

    def noted(coordinator: ConsumerCoordinator, *arguments: object, **options: object) -> object:
        asked.append(time.monotonic())
        return ask(coordinator, *arguments, **options)

    monkeypatch.setattr(ConsumerCoordinator, "fetch_committed_offsets", noted)
    return asked


def test_committed_offsets_of_many_partitions_take_one_round_trip(log: KafkaLog, fresh: Fresh, monkeypatch: pytest.MonkeyPatch) -> None:
    topic, group = fresh("readings"), fresh("detectors")
    log.create(topic, 64)
    log.append([Message(topic, None, b"{}", partition_number=number) for number in range(64)])
    reader = joined(log.source([topic], group), partitions=64)
    partitions = [Partition(topic, number) for number in range(64)]
    log.sink(reader.source, group).commit(BatchOutput(next_offsets=dict.fromkeys(partitions, 1), lease=reader.source.poll(1.0).lease))

    asked = asked_for_committed(monkeypatch)

    assert reader.source.committed(partitions) == dict.fromkeys(partitions, 1)
    assert len(asked) == 1


def test_after_a_broker_was_killed_and_started_again_all_go_on_by_themselves_also_what_was_made_meanwhile(
    own_broker: Broker, log: KafkaLog, one: Member, fresh: Fresh
) -> None:
    own_broker.kill()

    until(lambda: any(isinstance(error, LogUnavailable) for error in one.failures), one)
    assert own_broker.bootstrap in str(one.failures[-1])
    with pytest.raises(LogUnavailable, match=own_broker.bootstrap):
        log.topics().partitions(["readings"])
    started_s = time.monotonic()
    made_meanwhile = log.source([one.alerts_topic], None)
    with pytest.raises(LogUnavailable, match="no broker answers within 2 s"):
        made_meanwhile.poll(0.1)
    assert time.monotonic() - started_s < 10.0

    own_broker.start()
    append(log, one, 300)
    until(lambda: one.next_offsets == {partition_of(one): 600}, one)
    assert alerts_of(log, one) == expected({0: 600})
    kinds = [change.kind for change in one.changes]
    assert kinds.count(ChangeKind.ASSIGNED) == kinds.count(ChangeKind.LOST) + 1
    other = Reader(made_meanwhile)
    until(lambda: len(other.records) == 6, other)
    log.close()


def test_of_several_servers_one_that_stands_still_takes_a_part_of_the_time_only(
    own_broker: Broker, one: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_port = silent.getsockname()[1]
        is_silent_one = itertools.chain([True], itertools.repeat(False))

        def taken(servers: Sequence[Any]) -> object:
            wanted = next(is_silent_one)
            return next(one for one in servers if (one.port == silent_port) is wanted)

        # The client takes one at random: here the silent one, then the other.
        monkeypatch.setattr("kafka.net.manager.random.choice", taken)
        log = KafkaLog(f"127.0.0.1:{silent_port},{own_broker.bootstrap}", answer_timeout_s=6.0)
        started_s = time.monotonic()
        reader = Reader(log.source([one.alerts_topic], None))
        assert 2.0 <= time.monotonic() - started_s < 5.0

        until(lambda: bool(reader.records), reader)
        log.close()


def test_a_commit_without_any_broker_fails_within_the_deadline() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        log = KafkaLog(f"127.0.0.1:{closed.getsockname()[1]}", ANSWER_TIMEOUT_S, commit_timeout="1s")
        sink = kafka_sink.KafkaSink(log.bootstrap, log.kafka, "nobody", answer_timeout_s=ANSWER_TIMEOUT_S)

        with pytest.raises(CommitFailed, match=r"no producer after 1\.0 s"):
            sink.commit(kafka_sink.BatchOutput((Message("alerts", b"pump", b"1"),)))

        sink.close()
        until_no_thread_named("kafka-prepare")


def partition_of(one: Member) -> Partition:
    return next(iter(one.next_offsets))


def until_no_thread_named(*names: str) -> None:
    deadline_s = time.monotonic() + 45.0
    while left := [thread for thread in threading.enumerate() if thread.name in names]:
        assert time.monotonic() < deadline_s, left
        left[0].join(1.0)
