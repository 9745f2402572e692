from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing

import pytest
from kafka import KafkaAdminClient

from anomaly_daemon.domain.errors import SettingsError, TopicError
from anomaly_daemon.domain.records import BatchOutput, Message
from tests.contract.kafka_log import KafkaLog

Fresh = Callable[[str], str]


def test_a_message_may_have_neither_key_nor_value(log: KafkaLog, fresh: Fresh) -> None:
    topic = fresh("dead-letters")
    log.create(topic, 1)

    log.append([Message(topic, None, None, (("reason", b"tombstone"),))])
    source = log.source([topic], None)
    log.sink(source, fresh("detectors")).commit(BatchOutput((Message(topic, None, None),)))

    assert [(record.key, record.value, record.headers) for record in log.read(topic)] == [(None, None, (("reason", b"tombstone"),)), (None, None, ())]


def test_a_message_that_the_topic_refuses_for_its_size_is_told_with_the_remedy(log: KafkaLog, fresh: Fresh) -> None:
    topic = fresh("readings")
    log.create(topic, 1)
    incompressible = b"".join(hash((number, "size")).to_bytes(8, "little", signed=True) for number in range(200_000))

    with pytest.raises(TopicError, match=r"raise max\.message\.bytes"):
        log.append([Message(topic, None, incompressible)])

    assert log.append([Message(topic, None, b"small")]) == 1


def test_more_messages_than_may_wait_at_once_are_appended_in_order(log: KafkaLog, fresh: Fresh) -> None:
    topic = fresh("readings")
    log.create(topic, 1)

    assert log.append(Message(topic, None, b"%d" % number) for number in range(25_000)) == 25_000

    assert [int(record.value or b"") for record in log.read(topic)] == list(range(25_000))


def test_how_long_a_topic_keeps_a_record_is_known_where_its_age_decides(log: KafkaLog, fresh: Fresh) -> None:
    names = {
        fresh("readings"): {},
        fresh("short"): {"retention.ms": "60000"},
        fresh("all"): {"retention.ms": "-1"},
        fresh("c"): {"cleanup.policy": "compact"},
    }
    with closing(KafkaAdminClient(bootstrap_servers=log.bootstrap)) as admin:
        admin.create_topics({name: {"num_partitions": 1, "replication_factor": 1, "configs": configs} for name, configs in names.items()})

    assert [log.topics().kept_s(name) for name in names] == [604_800.0, 60.0, None, None]


def test_a_member_name_that_no_broker_takes_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"input\.member: 'pump room'"):
        KafkaLog("127.0.0.1:1").source(["readings"], "detectors", member="pump room")


def test_messages_of_which_a_topic_takes_fewer_at_once_than_the_client_sends_are_all_there_in_their_order(log: KafkaLog, fresh: Fresh) -> None:
    topic = fresh("readings")
    with closing(KafkaAdminClient(bootstrap_servers=log.bootstrap)) as admin:
        admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 1, "configs": {"max.message.bytes": "16384"}}})
    dice = random.Random(1)
    values = [dice.randbytes(1000) for _ in range(100)]  # which no codec makes smaller

    log.append(Message(topic, None, value) for value in values)
    log.sink(log.source([topic], None), fresh("detectors")).commit(BatchOutput(tuple(Message(topic, None, value) for value in values)))

    assert [record.value for record in log.read(topic)] == 2 * values
