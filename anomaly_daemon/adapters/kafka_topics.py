"""The administrative side of Kafka: which topics there are, making them, and appending outside any group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, TopicAlreadyExistsError, TopicAuthorizationFailedError, UnknownTopicOrPartitionError

from anomaly_daemon.adapters.kafka_client import ANSWER_TIMEOUT_S, address, connection_arguments, open_client, translate
from anomaly_daemon.adapters.kafka_producer import Producer, discard, flush, producer_arguments, send
from anomaly_daemon.adapters.topic_names import missing_topics
from anomaly_daemon.domain.records import Message
from anomaly_daemon.settings import Kafka

T = TypeVar("T")
_FOR_EVER_MS = -1

# The client has no bound on what waits to be sent, so appending stops and waits after this many.
_UNACKNOWLEDGED_MAX = 20_000
_DELIVERY_TIMEOUT_S = 40.0
_CLOSE_TIMEOUT_S = 2.0


class KafkaTopics:
    """`Topics` over Kafka. Nothing is connected before the first call; after an error the next call connects anew.

    retention_s, retention_bytes: of topics that are made; None leaves them to the broker.
    """

    def __init__(
        self,
        servers: str,
        kafka: Kafka,
        retention_s: float | None = None,
        retention_bytes: int | None = None,
        *,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        limits = {"retention.ms": retention_s and round(retention_s * 1000), "retention.bytes": retention_bytes}
        self._configs = {key: str(limit) for key, limit in limits.items() if limit is not None}
        self._servers, self._answer_timeout_ms = servers, round(answer_timeout_s * 1000)
        self._admin_arguments = connection_arguments(servers, kafka, answer_timeout_s)
        self._producer_arguments = producer_arguments(servers, kafka, _DELIVERY_TIMEOUT_S, None, answer_timeout_s)
        self._admin: KafkaAdminClient | None = None
        self._producer: Producer | None = None
        self._known: set[str] = set()

    def log_id(self) -> str:
        """The cluster's; one that has none is not told from others of its kind. Raises LogUnavailable."""
        return self._asked("asking which cluster it is", lambda admin: admin.describe_cluster())["cluster_id"] or "unnamed"

    def partitions(self, topics: Sequence[str]) -> dict[str, int]:
        """Partition count of those topics that exist. Raises LogUnavailable, or TopicError where this user may not see one."""
        described = self._described(topics)
        hidden = sorted(topic["name"] for topic in described if topic["error_code"] == TopicAuthorizationFailedError.errno)
        if hidden:
            raise translate(TopicAuthorizationFailedError(", ".join(hidden)), self._servers, "looking up topics")
        return {topic["name"]: len(topic["partitions"]) for topic in described if topic["error_code"] == 0}

    def gone(self, topics: Sequence[str]) -> frozenset[str]:
        """Those that the cluster knows nothing of; one without a leader is not gone. Raises LogUnavailable."""
        return frozenset(topic["name"] for topic in self._described(topics) if topic["error_code"] == UnknownTopicOrPartitionError.errno)

    def create(self, topic: str, partitions: int) -> None:
        """Create a topic with the broker's replication and settings and wait until it is there; nothing happens when it exists.

        Raises LogUnavailable, or TopicError where the broker does not allow it.
        """
        wanted = {topic: {"num_partitions": partitions, "replication_factor": -1, "configs": self._configs}}

        def make(admin: KafkaAdminClient) -> None:
            try:
                admin.create_topics(wanted, timeout_ms=self._answer_timeout_ms)
            except TopicAlreadyExistsError:
                return
            admin.wait_for_topics([topic], timeout_ms=self._answer_timeout_ms)

        self._asked(f"creating topic {topic}", make)

    def kept_s(self, topic: str) -> float | None:
        """By the topic's own settings, or the broker's; None too where this user may not read them, or only compaction deletes."""
        values = self._configured(topic)
        kept_ms = int(values.get("retention.ms", _FOR_EVER_MS))
        return kept_ms / 1000 if kept_ms >= 0 and "delete" in values.get("cleanup.policy", "") else None

    def is_compacted(self, topic: str) -> bool:
        """By the topic's own settings, or the broker's."""
        return "compact" in self._configured(topic).get("cleanup.policy", "")

    def _configured(self, topic: str) -> dict[str, str]:
        """How the topic deletes; nothing where this user may not read it. Raises LogUnavailable."""
        asked = [ConfigResource(ConfigResourceType.TOPIC, topic, dict.fromkeys(("retention.ms", "cleanup.policy")))]
        found = self._asked("looking up retention", lambda admin: admin.describe_configs(asked, config_filter="all"))
        return {key: one["value"] for key, one in found.get("topic", {}).get(topic, {}).items()}

    def append(self, messages: Iterable[Message]) -> int:
        """Append in order, acknowledged by all replicas in sync; returns how many.

        Raises TopicError where a topic is missing or refuses a message, LogUnavailable where some may not have been
        appended.
        """
        count, remaining = 0, iter(messages)
        while chunk := list(islice(remaining, _UNACKNOWLEDGED_MAX)):
            self._require({message.topic for message in chunk} - self._known)
            try:
                producer = self._appending()
                flush(producer, [send(producer, message) for message in chunk], _DELIVERY_TIMEOUT_S)
            except KafkaError as error:
                self._give_up_producer()
                raise translate(error, self._servers, f"appending (the first {count} messages are there)") from error
            count += len(chunk)
        return count

    def close(self) -> None:
        """Let go of both connections; may be called twice."""
        self._close_admin()
        if self._producer is not None:
            self._producer.close(timeout=_CLOSE_TIMEOUT_S)
            self._producer = None

    def _described(self, topics: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        if not topics:  # which the broker would take for all
            return ()
        described: Sequence[Mapping[str, Any]] = self._asked("looking up topics", lambda admin: admin.describe_topics(list(topics)))
        return described

    def _require(self, topics: set[str]) -> None:
        if not topics:
            return
        self._known |= self.partitions(sorted(topics)).keys()
        if missing := topics - self._known:
            there = self._asked("listing topics", lambda admin: admin.list_topics())
            raise missing_topics(address(self._servers), missing, (name for name in there if not name.startswith("__")))

    def _asked(self, doing: str, ask: Callable[[KafkaAdminClient], T]) -> T:
        try:
            if self._admin is None:
                self._admin = open_client(KafkaAdminClient, self._admin_arguments)
            return ask(self._admin)
        except KafkaError as error:
            self._close_admin()
            raise translate(error, self._servers, doing) from error

    def _appending(self) -> Producer:
        if self._producer is None:
            self._producer = open_client(Producer, self._producer_arguments)
        return self._producer

    def _close_admin(self) -> None:
        if self._admin is not None:
            self._admin.close()
            self._admin = None

    def _give_up_producer(self) -> None:
        if self._producer is not None:
            discard(self._producer)
            self._producer = None
        self._known.clear()
