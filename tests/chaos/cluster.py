"""A broker of our own behind a proxy, and the topics and folders of each scenario on it."""

from __future__ import annotations

import itertools
from pathlib import Path

from kafka import KafkaAdminClient

from tests.chaos.proxy import Proxy
from tests.end_to_end.harness import Site, start, write_site
from tests.kafka.broker import new_broker

PARTITIONS = 4
# Short times, so that what must time out does so within a run.
_ASSIGNMENTS = (
    "input.batch_records_max=64",
    "checkpoints.every=500ms",
    "kafka.session_timeout=3s",
    "kafka.commit_timeout=5s",
    "kafka.transaction_timeout=10s",
)


class Cluster:
    """Daemons come through the proxy; producer, reader and administration go to the broker itself."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._serial = itertools.count(1)
        self.proxy = Proxy()
        self.broker = new_broker(self.proxy.port)
        self.proxy.begin(self.broker.behind_proxy)
        # The first process of all waits for everything heavy to be imported; no fault shall be timed by it.
        start("tests.chaos.daemon", ["--help"], folder / "first.log").join()

    @property
    def bootstrap(self) -> str:
        """Past the proxy."""
        return self.broker.bootstrap

    def site(self, name: str, topic: str, *assignments: str, is_harmed: bool = True) -> Site:
        """Settings for a group of its own; one that is harmed goes through the proxy. Its topics are there."""
        number = next(self._serial)
        group = f"{name}-{number}"
        through = f"127.0.0.1:{self.proxy.port}" if is_harmed else self.bootstrap
        assignments = (*_ASSIGNMENTS, *assignments)
        site = write_site(self._folder / group, f"kafka://{through}", topic=topic, group=group, partitions=PARTITIONS, assignments=assignments)
        self.create(group + ".alerts", group + ".dead-letters")
        return site

    def topic(self, name: str) -> str:
        """A new topic to be read."""
        topic = f"{name}-readings-{next(self._serial)}"
        self.create(topic)
        return topic

    def create(self, *topics: str) -> None:
        """Topics without records; there when this returns."""
        with self.admin() as admin:
            admin.create_topics({topic: {"num_partitions": PARTITIONS, "replication_factor": 1} for topic in topics}, wait_for_metadata=True)

    def admin(self) -> KafkaAdminClient:
        """A connection of its own for the caller."""
        return KafkaAdminClient(bootstrap_servers=self.bootstrap)

    def close(self) -> None:
        """The broker is stopped and its data gone."""
        self.proxy.close()
        self.broker.stop()
