"""The producer's side of the client, where the broker, the way to it or a namesake comes between two of its requests."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from anomaly_daemon.adapters.kafka_client import connection_arguments, open_client
from anomaly_daemon.adapters.kafka_producer import Producer, send
from anomaly_daemon.adapters.kafka_sink import KafkaSink
from anomaly_daemon.domain.errors import CommitFailed, TopicError
from anomaly_daemon.domain.records import BatchOutput, Message
from tests.chaos.proxy import Api, Cut, Moment, Proxy
from tests.contract.kafka_log import KafkaLog
from tests.kafka.broker import Broker

Fresh = Callable[[str], str]
pytestmark = pytest.mark.kafka


@pytest.fixture
def alerts(log: KafkaLog, fresh: Fresh) -> str:
    topic = fresh("alerts")
    log.create(topic, 1)
    return topic


@pytest.fixture
def cut(proxied: tuple[Broker, Proxy, KafkaLog]) -> tuple[KafkaLog, Callable[[Cut], None]]:
    """A log behind a proxy, and what arms it."""
    _, proxy, log = proxied
    return log, proxy.arm


def output(topic: str, value: bytes) -> BatchOutput:
    return BatchOutput((Message(topic, b"pump", value),))


def sink_of(log: KafkaLog, name: str) -> KafkaSink:
    return KafkaSink(log.bootstrap, log.kafka, name)


def producer_of(sink: KafkaSink) -> Producer:
    return sink._preparation.wait(10.0)


def epoch_of(sink: KafkaSink) -> int:
    epoch: int = producer_of(sink)._transaction_manager.producer_id_and_epoch.epoch
    return epoch


def begin(sink: KafkaSink, topic: str, value: bytes) -> None:
    producer_of(sink).begin_transaction()
    send(producer_of(sink), Message(topic, b"pump", value)).get(10.0)


@pytest.mark.parametrize("away_s", [0.2, 3.0])
def test_a_commit_that_finds_the_broker_away_goes_on_as_soon_as_it_is_back_and_not_after_its_deadline(
    own_broker: Broker, log: KafkaLog, alerts: str, fresh: Fresh, away_s: float
) -> None:
    """By the timeouts as they are by default: a request that met a refused connection was forgotten, and the commit's 30 s passed."""
    with closing(sink_of(log, fresh("sink"))) as sink:
        sink.commit(output(alerts, b"before"))

        own_broker.kill()
        committing = threading.Thread(target=commit_within, args=(60.0, sink, output(alerts, b"after")))
        committing.start()
        time.sleep(away_s)
        own_broker.start()
        back_s = time.monotonic()
        committing.join()
        took_s = time.monotonic() - back_s

    assert took_s < 10.0
    assert [record.value for record in log.read(alerts)] == [b"before", b"after"]


def test_an_earlier_instance_that_wakes_within_a_commit_does_not_end_what_the_later_one_has_open(log: KafkaLog, alerts: str, fresh: Fresh) -> None:
    name = fresh("namesake")
    with closing(sink_of(log, name)) as earlier:
        begin(earlier, alerts, b"earlier")
        with closing(sink_of(log, name)) as later:
            begin(later, alerts, b"later")

            with pytest.raises(KafkaError):
                send(producer_of(earlier), Message(alerts, b"pump", b"woken")).get(10.0)
            time.sleep(1.0)  # in which it used to ask for a new epoch
            producer_of(later).commit_transaction()

    assert [record.value for record in log.read(alerts)] == [b"later"]


@pytest.mark.parametrize("api", [Api.ADD_PARTITIONS_TO_TXN, Api.PRODUCE, Api.END_TXN])
def test_after_a_commit_in_which_a_connection_was_lost_what_is_delayed_there_belongs_to_an_earlier_epoch(
    cut: tuple[KafkaLog, Callable[[Cut], None]], fresh: Fresh, api: Api
) -> None:
    log, arm = cut
    topic = fresh("alerts")
    log.create(topic, 1)
    with closing(sink_of(log, fresh("sink"))) as sink:
        sink.commit(output(topic, b"1"))
        sink.commit(output(topic, b"2"))
        epoch = epoch_of(sink)
        lost = Cut(api, Moment.BEFORE)
        arm(lost)

        sink.commit(output(topic, b"3"))

        assert lost.is_done.is_set()
        assert epoch_of(sink) > epoch
        sink.commit(output(topic, b"4"))

    assert [record.value for record in log.read(topic)] == [b"1", b"2", b"3", b"4"]


def test_an_undisturbed_commit_keeps_its_producer(log: KafkaLog, alerts: str, fresh: Fresh) -> None:
    with closing(sink_of(log, fresh("sink"))) as sink:
        epoch = epoch_of(sink)
        for value in (b"1", b"2", b"3"):
            sink.commit(output(alerts, value))

        assert epoch_of(sink) == epoch


def test_a_commit_that_no_broker_answers_says_what_it_waits_for_and_why(own_broker: Broker, alerts: str, fresh: Fresh) -> None:
    with closing(KafkaLog(own_broker.bootstrap, commit_timeout="3s")) as log, closing(sink_of(log, fresh("sink"))) as sink:
        sink.commit(output(alerts, b"1"))
        own_broker.kill()

        with pytest.raises(
            CommitFailed, match=rf"no answer after 3\.0 s, waiting to write messages to {alerts}; told last: .*{own_broker.bootstrap.split(':')[1]}"
        ):
            sink.commit(output(alerts, b"2"))


@pytest.mark.slow
def test_a_commit_that_too_few_replicas_take_says_so_and_so_do_those_that_wait_behind_it(brokers: list[Broker]) -> None:
    servers = ",".join(broker.bootstrap for broker in brokers)
    told = r"; told last: topic alerts: \[Error 19\] NotEnoughReplicasError"
    with closing(KafkaLog(servers, commit_timeout="5s")) as log, closing(sink_of(log, "sink")) as sink:
        make(log, "alerts", {"min.insync.replicas": "3"}, copies=3)
        sink.commit(output("alerts", b"1"))
        assert [record.value for record in log.read("alerts")] == [b"1"]  # the transaction has ended on every copy
        follower = brokers[described(log, "alerts")["leader_id"] % 3]
        follower.kill()
        wait_for_copies(log, "alerts", 2)

        with pytest.raises(CommitFailed, match=f"waiting to write messages to alerts{told}"):
            sink.commit(output("alerts", b"2"))
        time.sleep(3.0)
        with pytest.raises(CommitFailed, match=f"no producer after 5.0 s.*{told}"):
            sink.commit(output("alerts", b"2"))

        follower.revive()
        wait_for_copies(log, "alerts", 3)
        commit_within(60.0, sink, output("alerts", b"2"))
        assert [record.value for record in log.read("alerts")] == [b"1", b"2"]


def test_who_ends_because_of_a_refused_message_leaves_nothing_open_behind(log: KafkaLog, alerts: str, fresh: Fresh) -> None:
    letters = fresh("letters")
    make(log, letters, {"max.message.bytes": "1000"})
    sink = sink_of(log, fresh("sink"))
    messages = (Message(alerts, b"pump", b"1"), Message(letters, b"pump", os.urandom(5000)))
    with pytest.raises(TopicError, match=letters):
        sink.commit(BatchOutput(messages))
    sink.close()
    closed_s = time.monotonic()

    log.append([Message(alerts, b"pump", b"read")])

    assert [record.value for record in log.read(alerts)] == [b"read"]
    assert time.monotonic() - closed_s < 10.0  # the broker itself would end it after transaction_timeout


def test_connections_are_kept_alive(log: KafkaLog) -> None:
    admin = open_client(KafkaAdminClient, connection_arguments(log.bootstrap, log.kafka))
    admin.describe_cluster()

    for connection in admin._client._manager._conns.values():
        taken: socket.socket = connection.transport._sock
        assert taken.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
    assert admin._client._manager._conns
    admin.close()


def commit_within(deadline_s: float, sink: KafkaSink, wanted: BatchOutput) -> None:
    """As the loop does: again, after a failure."""
    last_s = time.monotonic() + deadline_s
    while True:
        try:
            sink.commit(wanted)
        except CommitFailed:
            if time.monotonic() > last_s:
                raise
            time.sleep(0.1)
        else:
            return


def make(log: KafkaLog, topic: str, configs: dict[str, str], copies: int = 1) -> None:
    admin = open_client(KafkaAdminClient, connection_arguments(log.bootstrap, log.kafka))
    admin.create_topics({topic: {"num_partitions": 1, "replication_factor": copies, "configs": configs}}, wait_for_metadata=True)
    admin.close()


def described(log: KafkaLog, topic: str) -> dict[str, Any]:
    """Its first partition."""
    admin = open_client(KafkaAdminClient, connection_arguments(log.bootstrap, log.kafka))
    partition: dict[str, Any] = admin.describe_topics([topic])[0]["partitions"][0]
    admin.close()
    return partition


def wait_for_copies(log: KafkaLog, topic: str, copies: int) -> None:
    found: list[int] = []
    deadline_s = time.monotonic() + 60.0
    while len(found) != copies:
        assert time.monotonic() < deadline_s, found
        time.sleep(0.2)
        with suppress(KafkaError):  # it may ask the one that is away
            found = described(log, topic)["isr_nodes"]
    time.sleep(2.0)  # until the leader knows it too
