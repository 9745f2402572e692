"""A producer of the input died within a transaction: finite reads end before it, and say so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from threading import Timer

import pytest
from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition

from anomaly_daemon.domain.records import Partition
from tests.contract.kafka_log import KafkaLog
from tests.contract.logs import Reader, until
from tests.end_to_end.harness import Site, make_site, verb
from tests.kafka.broker import Broker, ForeignBroker
from tests.small import stream

READ, HELD_BACK, ENDS_WITHIN_S = 40, 3, 40


def producer(bootstrap: str, name: str) -> KafkaProducer:
    """Its first transaction is open."""
    made = KafkaProducer(bootstrap_servers=bootstrap, transactional_id=name, transaction_timeout_ms=600_000)
    made.init_transactions()
    made.begin_transaction()
    return made


@pytest.fixture
def site(tmp_path: Path, broker: Broker | ForeignBroker, fresh: Callable[[str], str]) -> Iterator[Site]:
    """Records, then some of a transaction that stays open, then one more."""
    topic = fresh("readings")
    log, group = f"kafka://{broker.bootstrap}", fresh("detector")
    site = make_site(tmp_path, log, stream(1, 4, READ), topic=topic, group=group, partitions=1)
    with closing(producer(broker.bootstrap, topic)) as dead:
        for _ in range(HELD_BACK):
            dead.send(topic, b"{}").get(10)
        site.append([b"{}"])
        yield site
        dead.abort_transaction()


def told(log: Path) -> list[tuple[str, int]]:
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [(line["partition"], line["offset"]) for line in lines if line["event"] == "transaction_found_open"]


def test_a_group_set_to_the_end_is_not_taken_for_beyond_it(site: Site, broker: Broker | ForeignBroker) -> None:
    end = TopicPartition(site.settings.input.topics[0], 0)
    with closing(KafkaConsumer(bootstrap_servers=broker.bootstrap, group_id=site.settings.input.group, enable_auto_commit=False)) as resetting:
        resetting.assign([end])
        resetting.commit({end: OffsetAndMetadata(READ + HELD_BACK + 1, "", -1)})

    site.run_to_end(ENDS_WITHIN_S)

    assert "log_unavailable" not in site.events()


def test_finite_reads_end_before_an_open_transaction_and_name_it(site: Site) -> None:
    topic, dump_log, output = site.settings.input.topics[0], site.folder / "dump.log", site.folder / "dump.jsonl"

    site.run_to_end(ENDS_WITHIN_S)
    assert site.replay(timeout_s=ENDS_WITHIN_S) == 0
    assert verb(*site.command("dump", "--topic", topic, "--output", str(output)), log=dump_log, timeout_s=ENDS_WITHIN_S) == 0

    assert len(output.read_bytes().splitlines()) == READ
    assert told(site.folder / "daemon.log") == told(site.folder / "replay.log") == told(dump_log) == [(f"{topic}[0]", READ)]


def test_a_transaction_that_ends_within_a_moment_lies_before_the_end(log: KafkaLog, fresh: Callable[[str], str]) -> None:
    topic = fresh("committed")
    log.create(topic, 1)
    reader, partition = Reader(log.source([topic], group=None)), Partition(topic, 0)
    until(lambda: bool(reader.owned), reader)
    with closing(producer(log.bootstrap, topic)) as writer:
        offset = writer.send(topic, b"1").get(10).offset
        commit = Timer(0.5, writer.commit_transaction)
        commit.start()
        end = reader.source.bounds([partition])[partition].end
        commit.join(10)

    assert end > offset
