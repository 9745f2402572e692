"""The input is written in transactions: behind its last record lies a mark, an offset that holds none."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from tests.chaos.reader import Groups
from tests.end_to_end.harness import end, make_site, wait_until
from tests.kafka.broker import Broker, ForeignBroker
from tests.small import stream

COUNT = 60


def test_state_outlives_retention_that_leaves_only_the_mark(broker: Broker | ForeignBroker, fresh: Callable[[str], str], tmp_path: Path) -> None:
    group, topic = fresh("detector"), fresh("readings")
    site = make_site(tmp_path, f"kafka://{broker.bootstrap}", [], topic=topic, group=group, partitions=1)
    with closing(KafkaProducer(bootstrap_servers=broker.bootstrap, transactional_id=topic)) as producer:
        producer.init_transactions()
        producer.begin_transaction()
        for record in stream(1, 4, COUNT):
            producer.send(topic, record.value, record.key)
        producer.commit_transaction()
    daemon = site.daemon()
    with closing(Groups(broker.bootstrap)) as groups:
        wait_until(daemon, lambda: groups.committed(group, topic) == {0: COUNT + 1}, site)
    end(daemon)
    with closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin:
        admin.delete_records({TopicPartition(topic, 0): COUNT + 1})
    before = site.state()

    site.fill(stream(2, 4, COUNT))
    site.run_to_end()

    assert not {"records_lost_to_retention", "state_rebuilt_from_log"} & set(site.events())
    assert before == {f"{topic}[0]": (COUNT + 1, before[f"{topic}[0]"][1])}
    assert len(site.state()) == 1
