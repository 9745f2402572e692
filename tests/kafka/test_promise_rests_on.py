"""What the promise rests on and what it leaves out, shown on a real broker: isolation of readers, replicas, the group's offsets, duplicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from kafka import KafkaAdminClient, KafkaProducer

from anomaly_daemon.adapters.kafka_client import open_client
from anomaly_daemon.adapters.kafka_producer import producer_arguments
from anomaly_daemon.adapters.kafka_sink import KafkaSink
from anomaly_daemon.domain.records import BatchOutput, Message
from tests.chaos.cluster import delete_groups
from tests.chaos.reader import read
from tests.contract.kafka_log import KafkaLog
from tests.end_to_end.harness import Site, make_site
from tests.small import stream

Fresh = Callable[[str], str]
RECORDS = stream(3, 6, 1200)


def test_a_reader_that_is_not_at_read_committed_sees_what_was_aborted(log: KafkaLog, fresh: Fresh, monkeypatch: pytest.MonkeyPatch) -> None:
    alerts = fresh("alerts")
    log.create(alerts, 1)
    output = BatchOutput((Message(alerts, b"pump", b"said once"),))
    with closing(KafkaSink(log.bootstrap, log.kafka, fresh("detector-one"))) as sink:
        with monkeypatch.context() as patched:
            patched.setattr(KafkaProducer, "commit_transaction", KafkaProducer.abort_transaction)
            sink.commit(output)
        sink.commit(output)

    assert [record.value for record in log.read(alerts)] == [b"said once"]
    assert [record.value for record in read(log.bootstrap, alerts, "read_uncommitted")] == [b"said once", b"said once"]


def test_the_producer_asks_for_all_replicas_and_is_idempotent(log: KafkaLog, fresh: Fresh) -> None:
    """As the client stands once it is connected; what all replicas are, `min.insync.replicas` says: of one broker the same as one."""
    with closing(open_client(KafkaProducer, producer_arguments(log.bootstrap, log.kafka, 120.0, fresh("detector-one"), 10.0))) as producer:
        assert producer.config["acks"] == -1
        assert producer.config["enable_idempotence"]


def test_a_group_whose_offsets_are_forgotten_begins_at_its_start_and_says_everything_again(log: KafkaLog, fresh: Fresh, tmp_path: Path) -> None:
    group, assignments = fresh("detector"), ("input.start=earliest", "kafka.session_timeout=6s")
    site = make_site(tmp_path, f"kafka://{log.bootstrap}", RECORDS, topic=fresh("readings"), group=group, assignments=assignments)
    site.run_to_end()
    said = identities(site)
    with closing(KafkaAdminClient(bootstrap_servers=log.bootstrap)) as admin:
        assert delete_groups(admin, [group]) == []

    site.run_to_end()

    assert said
    assert set(said.values()) == {1}
    assert identities(site) == Counter(dict.fromkeys(said, 2))


def test_a_record_that_was_produced_twice_is_judged_twice(log: KafkaLog, fresh: Fresh, tmp_path: Path) -> None:
    site = make_site(tmp_path, f"kafka://{log.bootstrap}", [RECORDS[0]] * 2, topic=fresh("readings"), group=fresh("detector"))

    site.run_to_end(120, "--export", str(tmp_path / "scores.parquet"))

    assert pq.read_table(tmp_path / "scores.parquet").column("offset").to_pylist() == [0, 1]


def identities(site: Site) -> Counter[tuple[str, int]]:
    """How often each alert was said."""
    return Counter((str(alert["incident_id"]), int(str(alert["sequence"]))) for alert in site.alerts())
