from __future__ import annotations

import pytest
from kafka import KafkaAdminClient

from anomaly_daemon.domain.errors import LogUnavailable
from anomaly_daemon.domain.records import ChangeKind, Message, Partition
from tests.contract.kafka_log import KafkaLog
from tests.contract.logs import Reader, joined, until
from tests.kafka.broker import Broker

PARTITIONS = 6


@pytest.mark.slow
@pytest.mark.kafka
def test_partitions_without_a_leader_cost_the_others_nothing_and_are_read_once_they_have_one(brokers: list[Broker]) -> None:
    """One copy each: what a broker leads has no leader while it is away."""
    log = KafkaLog(",".join(broker.bootstrap for broker in brokers), answer_timeout_s=3.0)
    topic = "readings"
    admin = KafkaAdminClient(bootstrap_servers=log.bootstrap)
    admin.create_topics({topic: {"num_partitions": PARTITIONS, "replication_factor": 1}}, wait_for_metadata=True)
    leaders = {one["partition_index"]: one["leader_id"] for one in admin.describe_topics([topic])[0]["partitions"]}
    admin.close()
    without = {number for number, leader in leaders.items() if leader == 3}
    reader = joined(log.source([topic], "detectors"), PARTITIONS)

    def append(numbers: set[int]) -> None:
        log.append(Message(topic, None, b"1", partition_number=number) for number in sorted(numbers) for _ in range(50))

    append(set(leaders))
    until(lambda: len(reader.records) == 50 * PARTITIONS, reader)
    reader.changes.clear()
    brokers[2].kill()
    append(set(leaders) - without)
    until(lambda: len(reader.records) == 50 * (2 * PARTITIONS - len(without)), reader)
    idle(reader, 100)

    assert ChangeKind.LOST not in [change.kind for change in reader.changes]
    with pytest.raises(LogUnavailable, match="has no leader"):
        reader.source.bounds([Partition(topic, number) for number in leaders])

    brokers[2].revive()
    append(without)
    until(lambda: len(reader.records) == 50 * 2 * PARTITIONS, reader)
    log.close()


def idle(reader: Reader, polls: int) -> None:
    """Long enough to look at the ends several times."""
    for _ in range(polls):
        reader.step()
