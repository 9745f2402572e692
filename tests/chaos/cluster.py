"""The cluster that is used, and the topics, groups and folders of each scenario on it: a broker of our own behind a proxy, or a user's cluster."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from tests.chaos.proxy import Proxy
from tests.end_to_end.harness import Site, start, write_site
from tests.kafka.broker import Broker, new_broker, new_brokers

PARTITIONS = 4
# Short times, so that what must time out does so within a run; fewer entities in memory than there are, so that some lie on disk whenever it breaks.
_ASSIGNMENTS = (
    "engine.resident_max=16",
    "input.batch_records_max=64",
    "checkpoints.every=500ms",
    "kafka.session_timeout=3s",
    "kafka.commit_timeout=5s",
    "kafka.transaction_timeout=10s",
)


# The least that brokers allow if they were not told otherwise; ours was.
_SESSION_ELSEWHERE = "kafka.session_timeout=6s"
_EMPTY_WITHIN_S, _LOOK_S = 30.0, 0.5
_GONE = ("OK", "GroupIdNotFoundError")
_COPIES = 3


class Cluster:
    """What is made on a cluster: topics and groups of this run, whose names nothing else has. Everybody goes straight to the brokers."""

    _assignments = (*_ASSIGNMENTS, _SESSION_ELSEWHERE)

    def __init__(self, folder: Path, bootstrap: str) -> None:
        self.bootstrap = self._way = bootstrap
        """For producer, reader and administration."""
        self._folder, self._run = folder, f"chaos-{uuid.uuid4().hex[:8]}"
        self._serial = itertools.count(1)
        self._topics: set[str] = set()
        self._groups: list[str] = []
        self.left: Sequence[str] = ()
        """Topics and groups that could not be removed."""
        self.wishes: Sequence[str] = ()
        """Settings in place of those that the harness or a scenario gives."""
        # The first process of all waits for everything heavy to be imported; no fault shall be timed by it.
        start("tests.chaos.daemon", ["--help"], folder / "first.log").join()

    @property
    def broker(self) -> Broker:
        """To be killed or frozen."""
        raise AssertionError("a scenario that harms the broker wants one of our own")

    @property
    def brokers(self) -> Sequence[Broker]:
        """Those that have copies of everything, to be harmed one at a time."""
        raise AssertionError("a scenario that harms one of several brokers wants several of our own")

    @property
    def proxy(self) -> Proxy:
        """To cut or slow what daemons say and hear."""
        raise AssertionError("a scenario that harms connections wants a broker of our own")

    def site(self, name: str, topic: str, *assignments: str, is_harmed: bool = True) -> Site:
        """Settings for a group of its own; one that is harmed goes the way of daemons. Its topics are there."""
        group = f"{self._run}-{name}-{next(self._serial)}"
        log, given = f"kafka://{self._way if is_harmed else self.bootstrap}", (*self._assignments, *assignments, *self.wishes)
        site = write_site(self._folder / group, log, topic=topic, group=group, partitions=PARTITIONS, assignments=given)
        self._groups.append(group)
        self.create(group + ".alerts", group + ".dead-letters")
        return site

    def topic(self, name: str) -> str:
        """A new topic to be read."""
        topic = f"{self._run}-{name}-readings-{next(self._serial)}"
        self.create(topic)
        return topic

    def create(self, *topics: str) -> None:
        """Topics without records; there when this returns."""
        self._topics.update(topics)
        with self.admin() as admin:
            admin.create_topics({topic: {"num_partitions": PARTITIONS} for topic in topics}, wait_for_metadata=True)

    def admin(self) -> KafkaAdminClient:
        """A connection of its own for the caller."""
        return KafkaAdminClient(bootstrap_servers=self.bootstrap)

    def close(self) -> None:
        """Remove what was made on it; what is not removed when this ends, however it does, is in `left`."""
        self.left = [*sorted(self._topics), *self._groups]
        with self.admin() as admin:
            found = admin.delete_topics(sorted(self._topics), raise_errors=False)["topics"] if self._topics else []
            self.left = [one["name"] for one in found if one["error_code"]] + delete_groups(admin, self._groups)


class OwnCluster(Cluster):
    """A broker of our own; daemons come through a proxy, producer, reader and administration go to the broker itself."""

    _assignments = _ASSIGNMENTS

    def __init__(self, folder: Path) -> None:
        self._proxy = Proxy()
        self._broker = new_broker(self._proxy.port)
        self._proxy.begin(self._broker.behind_proxy)
        super().__init__(folder, self._broker.bootstrap)
        self._way = f"127.0.0.1:{self._proxy.port}"

    @property
    def broker(self) -> Broker:
        """See Cluster."""
        return self._broker

    @property
    def proxy(self) -> Proxy:
        """See Cluster."""
        return self._proxy

    def close(self) -> None:
        """The broker is stopped and its data gone."""
        self._proxy.close()
        self._broker.stop()


class ReplicatedCluster(Cluster):
    """Brokers of our own, each with a copy of everything: any one of them may be harmed while the others go on."""

    _assignments = _ASSIGNMENTS

    def __init__(self, folder: Path) -> None:
        self._brokers = new_brokers(_COPIES)
        super().__init__(folder, ",".join(broker.bootstrap for broker in self._brokers))

    @property
    def brokers(self) -> Sequence[Broker]:
        """See Cluster."""
        return self._brokers

    def close(self) -> None:
        """The brokers are stopped and their data gone."""
        for broker in self._brokers:
            broker.stop()


def delete_groups(admin: KafkaAdminClient, groups: list[str]) -> list[str]:
    """Returns those that are still there when the brokers have had time to notice that their members died."""
    left, deadline_s = groups, time.monotonic() + _EMPTY_WITHIN_S
    while True:
        with suppress(KafkaError):
            left = [group for group, told in admin.delete_groups(left).items() if told not in _GONE]
        if not left or time.monotonic() > deadline_s:
            return left
        time.sleep(_LOOK_S)
