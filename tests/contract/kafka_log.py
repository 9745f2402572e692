"""Apache Kafka as a log under test: the contract suites run against a real broker."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import pytest

from anomaly_daemon.adapters.kafka_client import ANSWER_TIMEOUT_S
from anomaly_daemon.adapters.kafka_sink import KafkaSink
from anomaly_daemon.adapters.kafka_source import KafkaSource
from anomaly_daemon.adapters.kafka_topics import KafkaTopics
from anomaly_daemon.domain.ports import Sink, Source, Topics
from anomaly_daemon.domain.records import Message, Record
from anomaly_daemon.settings import Kafka
from tests.contract.logs import LogUnderTest, Reader, until
from tests.kafka.broker import Broker, ForeignBroker, ToolsMissingError, shared_broker
from tests.kafka.secured import SecuredBroker

B = TypeVar("B", Broker, ForeignBroker, SecuredBroker, Broker | ForeignBroker)


class KafkaLog:
    """The adapters over one cluster."""

    def __init__(self, bootstrap: str, answer_timeout_s: float = ANSWER_TIMEOUT_S, **settings: Any) -> None:
        self.bootstrap = bootstrap
        self._answer_timeout_s = answer_timeout_s
        self.kafka = Kafka(**settings)
        self._members: dict[Source, str] = {}
        self._sinks: dict[Source, KafkaSink] = {}
        self._topics: KafkaTopics | None = None
        self._opened: list[Source | Sink | Topics] = []

    def create(self, topic: str, partitions: int) -> None:
        self._own_topics().create(topic, partitions)

    def append(self, messages: Iterable[Message]) -> int:
        return self._own_topics().append(messages)

    def source(
        self,
        topics: Sequence[str],
        group: str | None,
        member: str = "one",
        batch_records_max: int = 4096,
    ) -> KafkaSource:
        source = KafkaSource(self.bootstrap, self.kafka, topics, group, member, batch_records_max, answer_timeout_s=self._answer_timeout_s)
        self._members[source] = member
        self._opened.append(source)
        return source

    def sink(self, source: Source, group: str) -> KafkaSink:
        """One per source, as one instance has: a second one of the same name would fence the first."""
        if source not in self._sinks:
            assert isinstance(source, KafkaSource)
            identity = f"{group}-{self._members[source]}"
            self._sinks[source] = KafkaSink(self.bootstrap, self.kafka, identity, source.member, answer_timeout_s=self._answer_timeout_s)
            self._opened.append(self._sinks[source])
        return self._sinks[source]

    def topics(self) -> KafkaTopics:
        topics = KafkaTopics(self.bootstrap, self.kafka, answer_timeout_s=self._answer_timeout_s)
        self._opened.append(topics)
        return topics

    def read(self, topic: str) -> list[Record]:
        """Read to the ends by position: control records and aborted transactions occupy offsets too."""
        reader = Reader(self.source([topic], group=None))
        until(lambda: bool(reader.owned), reader)
        ends = {partition: bounds.end for partition, bounds in reader.source.bounds(sorted(reader.owned)).items()}
        until(lambda: all(at >= ends[partition] for partition, at in reader.source.positions().items()), reader)
        return sorted(reader.records, key=lambda record: (record.partition, record.offset))

    def close(self) -> None:
        for opened in self._opened:
            opened.close()

    def _own_topics(self) -> KafkaTopics:
        if self._topics is None:
            self._topics = self.topics()
        return self._topics


def broker_or_skip(start: Callable[[], B] = shared_broker) -> B:
    """A broker, the shared one by default; without Java or Maven the test is left out, on a CI machine it fails."""
    try:
        return start()
    except ToolsMissingError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


@pytest.fixture
def kafka_log() -> Iterator[LogUnderTest]:
    log = KafkaLog(broker_or_skip().bootstrap)
    yield log
    log.close()
