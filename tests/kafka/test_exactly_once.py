from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import closing

import pytest
from kafka.errors import KafkaError

from anomaly_daemon.adapters import kafka_sink
from anomaly_daemon.adapters.kafka_producer import Producer
from anomaly_daemon.adapters.kafka_sink import KafkaSink
from anomaly_daemon.domain.errors import CommitFailed, Fenced
from anomaly_daemon.domain.records import BatchOutput, Message, Partition
from anomaly_daemon.settings import Kafka
from tests.contract.kafka_log import KafkaLog
from tests.contract.logs import until
from tests.kafka.loops import Member, expected

Fresh = Callable[[str], str]
RECORDS, PARTITIONS = 20_000, 2


@pytest.fixture
def readings(log: KafkaLog, fresh: Fresh) -> str:
    topic = fresh("readings")
    log.create(topic, PARTITIONS)
    log.append(Message(topic, None, b"%d" % number, partition_number=number % PARTITIONS) for number in range(RECORDS))
    return topic


@pytest.fixture
def alerts(log: KafkaLog, fresh: Fresh) -> str:
    topic = fresh("alerts")
    log.create(topic, 1)
    return topic


def member(log: KafkaLog, readings: str, alerts: str, group: str) -> Member:
    source = log.source([readings], group, batch_records_max=500)
    return Member(source, log.sink(source, group), alerts)


def test_every_seventh_transaction_aborted_after_its_offsets_were_sent_leaves_each_alert_once(
    log: KafkaLog, fresh: Fresh, readings: str, alerts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = itertools.count(1)

    class Aborting(Producer):
        def commit_transaction(self) -> None:
            if next(turns) % 7 == 0:
                self.abort_transaction()
                raise KafkaError("aborted on purpose, after the offsets were sent")
            super().commit_transaction()

    monkeypatch.setattr(kafka_sink, "Producer", Aborting)
    one = member(log, readings, alerts, fresh("detectors"))

    per_partition = RECORDS // PARTITIONS
    until_committed(one, {Partition(readings, number): per_partition for number in range(PARTITIONS)})

    assert len(one.failures) >= 5
    assert sorted(record.value or b"" for record in log.read(alerts)) == expected(dict.fromkeys(range(PARTITIONS), per_partition))


def test_a_restart_ends_at_once_the_transaction_that_its_predecessor_left_open(
    log: KafkaLog, fresh: Fresh, readings: str, alerts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dying(Producer):
        def commit_transaction(self) -> None:
            raise SystemExit("killed before the end of the transaction")

    group = fresh("detectors")
    with monkeypatch.context() as patched:
        patched.setattr(kafka_sink, "Producer", Dying)
        patched.setattr(KafkaSink, "_replace", lambda *_: None)
        dying = member(log, readings, alerts, group)
        with pytest.raises(SystemExit):
            until(lambda: False, dying)
        assert dying.owned
    dying.source.close()

    one = member(log, readings, alerts, group)
    until_committed(one, {Partition(readings, number): RECORDS // PARTITIONS for number in range(PARTITIONS)})

    assert one.failures == []
    assert sorted(record.value or b"" for record in log.read(alerts)) == expected(dict.fromkeys(range(PARTITIONS), RECORDS // PARTITIONS))


def test_the_later_instance_of_one_identity_fences_the_earlier_one_for_good(log: KafkaLog, fresh: Fresh, alerts: str) -> None:
    identity = fresh("detectors-one")
    output = BatchOutput((Message(alerts, b"pump", b"1"),))
    earlier = KafkaSink(log.bootstrap, log.kafka, identity)
    earlier.commit(output)
    later = KafkaSink(log.bootstrap, log.kafka, identity)
    later.commit(output)

    for _ in range(2):
        with pytest.raises(Fenced, match=r"input\.member"):
            earlier.commit(output)
    later.commit(output)

    earlier.close()
    later.close()
    assert len(log.read(alerts)) == 3


def test_of_two_that_are_not_static_the_one_that_began_later_goes_on_though_the_earlier_had_not_committed_yet(
    log: KafkaLog, fresh: Fresh, readings: str, alerts: str
) -> None:
    """The group does not say which of them is the later: the epoch does."""
    group = fresh("detectors")
    with closing(KafkaLog(log.bootstrap, static_membership=False)) as dynamic:
        earlier = member(dynamic, readings, alerts, group)
        earlier.before_commit = not_yet
        dynamic.sink(earlier.source, group)._prepared()
        later = member(dynamic, readings, alerts, group)
        until(lambda: len(earlier.owned) == len(later.owned) == 1 and bool(later.next_offsets), earlier, later)
        earlier.before_commit = lambda: None

        with pytest.raises(Fenced, match=r"input\.member"):
            until(lambda: False, earlier, later)
        earlier.source.close()
        until_committed(later, {Partition(readings, number): RECORDS // PARTITIONS for number in range(PARTITIONS)})

    assert sorted(record.value or b"" for record in log.read(alerts)) == expected(dict.fromkeys(range(PARTITIONS), RECORDS // PARTITIONS))


def not_yet() -> None:
    raise CommitFailed("not yet")


class SteppingClock:
    """Goes on by `step_s` whenever it is read."""

    def __init__(self) -> None:
        self.now_s, self.step_s = 0.0, 0.0

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


def test_a_transaction_that_the_broker_ended_for_its_age_is_recovered_from(log: KafkaLog, fresh: Fresh, alerts: str) -> None:
    identity, output, clock = fresh("detectors-one"), BatchOutput((Message(alerts, b"pump", b"1"),)), SteppingClock()
    slow = KafkaSink(log.bootstrap, Kafka(commit_timeout="1h", transaction_timeout="1m"), identity, monotonic_s=clock)
    slow.commit(output)
    # The broker fences for age as it fences for a second instance; only the time that went by tells them apart.
    other = KafkaSink(log.bootstrap, log.kafka, identity)
    other.commit(output)

    clock.step_s = 100.0
    with pytest.raises(CommitFailed, match=r"kafka\.transaction_timeout"):
        slow.commit(output)

    slow.close()
    other.close()


def test_a_member_that_joined_its_group_anew_since_it_read_is_not_taken_for_another(log: KafkaLog, fresh: Fresh, readings: str, alerts: str) -> None:
    one = member(log, readings, alerts, fresh("detectors"))

    def join_anew() -> None:
        if not one.committed:
            return
        one.before_commit = lambda: None
        consumer = one.source.member.consumer
        consumer._coordinator.reset_generation()
        while consumer.group_metadata().generation_id < 0:
            consumer.poll(timeout_ms=100)

    one.before_commit = join_anew
    per_partition = RECORDS // PARTITIONS
    until_committed(one, {Partition(readings, number): per_partition for number in range(PARTITIONS)})

    told = {str(failure).rpartition(": ")[2] for failure in one.failures}
    assert told == {"this member has joined its group anew since the batch was read"}
    assert sorted(record.value or b"" for record in log.read(alerts)) == expected(dict.fromkeys(range(PARTITIONS), per_partition))


def test_offsets_without_proof_of_membership_are_not_committed(log: KafkaLog, fresh: Fresh, readings: str, alerts: str) -> None:
    group = fresh("detectors")
    source = log.source([readings], group)
    unjoined = source.poll(0.0).lease

    with pytest.raises(CommitFailed, match="not a member"):
        log.sink(source, group).commit(BatchOutput((Message(alerts, b"pump", b"1"),), {Partition(readings, 0): 1}, unjoined))

    assert log.read(alerts) == []


def until_committed(one: Member, ends: dict[Partition, int]) -> None:
    until(lambda: one.next_offsets == ends, one)
