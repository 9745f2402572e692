"""A way to the broker that carries 1 MB/s, and much to be carried: what is asked for at once stays within what one request or commit may take."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaProducer

from tests.chaos.cluster import OwnCluster
from tests.contract.kafka_log import broker_or_skip
from tests.kafka.broker import require_tools

PARTITIONS, RECORDS, RECORD_BYTES = 16, 1200, 16_000
WITHIN_S = 150.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[OwnCluster]:
    broker_or_skip(require_tools)
    with closing(OwnCluster(tmp_path)) as cluster:
        yield cluster


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.timeout(400)
def test_many_partitions_of_large_bad_records_are_read_and_dead_lettered_over_a_slow_way(cluster: OwnCluster) -> None:
    topic, dice = "slow-way", random.Random(1)
    site = cluster.site("slow", topic, "input.batch_records_max=4096", "kafka.commit_timeout=9s", "kafka.transaction_timeout=60s")
    with cluster.admin() as admin:
        admin.create_topics({topic: {"num_partitions": PARTITIONS}}, wait_for_metadata=True)
    with closing(KafkaProducer(bootstrap_servers=cluster.bootstrap)) as producer:
        for number in range(RECORDS):
            producer.send(topic, dice.randbytes(RECORD_BYTES), partition=number % PARTITIONS)
        producer.flush()
    cluster.proxy.bytes_per_s = 1e6

    try:
        site.run_to_end(WITHIN_S)
    finally:
        cluster.proxy.bytes_per_s = None

    assert len(site.dead_letters()) == RECORDS
    assert not {"commit_failed", "log_unavailable"} & set(site.events())
