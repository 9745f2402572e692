"""Which rights the daemon needs on a cluster that grants them one by one, and which of them this user lacks.

Nothing is asked that could change anything: a heartbeat of nobody, the end of a transaction that no producer has, and
topics that are only validated. The broker looks at the right first, and so tells.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

from kafka import KafkaAdminClient, errors
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.protocol.consumer import HeartbeatRequest
from kafka.protocol.producer import EndTxnRequest

from anomaly_daemon.adapters.kafka_client import ANSWER_TIMEOUT_S, connection_arguments, open_client, translate
from anomaly_daemon.settings import Kafka

T = TypeVar("T")

LIMITS = ("transaction.max.timeout.ms", "group.min.session.timeout.ms", "group.max.session.timeout.ms")
_NO_PRODUCER = 2**63 - 1
# Later versions may look for a producer of another id first.
_END_TRANSACTION_VERSION_MAX = 3


@dataclass(frozen=True, slots=True)
class Right:
    """An operation that has to be allowed; READ and WRITE imply DESCRIBE."""

    resource: Literal["topic", "group", "transactional-id"]
    name: str
    operation: Literal["READ", "WRITE", "CREATE"]

    def __str__(self) -> str:
        return f"{self.operation} on {self.resource} {self.name}"


def principal(kafka: Kafka) -> str:
    """What the broker calls us, by its default rules."""
    if kafka.security_protocol in ("SASL_PLAINTEXT", "SASL_SSL"):
        return f"User:{kafka.sasl_username}"
    return "User:SUBJECT-OF-THE-CERTIFICATE" if kafka.security_protocol == "SSL" and kafka.ssl_certfile is not None else "User:ANONYMOUS"


def granting_commands(servers: str, kafka: Kafka, rights: Sequence[Right]) -> list[str]:
    """A line for the administrator's shell for each right."""
    head = f"kafka-acls --bootstrap-server {servers} --command-config admin.properties --add --allow-principal {shlex.quote(principal(kafka))}"
    return [f"{head} --operation {right.operation} --{right.resource} {shlex.quote(right.name)}" for right in rights]


class KafkaRights:
    """What this user may do; connected from the start."""

    def __init__(self, servers: str, kafka: Kafka, *, answer_timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Raises SettingsError where the broker refuses this client, LogUnavailable where none answers."""
        self._servers = servers
        arguments = connection_arguments(servers, kafka, answer_timeout_s)
        self._admin: KafkaAdminClient = self._asked("connecting", lambda: open_client(KafkaAdminClient, arguments))

    def missing(self, rights: Sequence[Right]) -> list[Right]:
        """Those that this user lacks, in order; none on a cluster without an authorizer. Raises LogUnavailable."""
        topics = sorted({right.name for right in rights if right.resource == "topic"})
        described = self._asked("asking for the rights on topics", lambda: self._admin.describe_topics(topics)) if topics else []
        told = {topic["name"]: topic for topic in described}
        return [right for right in rights if not self._asked(f"asking for {right}", partial(self._has, right, told))]

    def limits_s(self) -> dict[str, float]:
        """What a broker takes, of `LIMITS`; nothing where this user may not read its settings. Raises LogUnavailable."""
        broker = self._asked("looking up the brokers", lambda: self._admin.describe_cluster()["brokers"][0]["broker_id"])
        wanted = ConfigResource(ConfigResourceType.BROKER, str(broker), dict.fromkeys(LIMITS))
        try:
            told = self._admin.describe_configs([wanted], config_filter="all")
        except errors.KafkaError:
            return {}
        return {name: int(one["value"]) / 1000 for name, one in told.get("broker", {}).get(str(broker), {}).items()}

    def close(self) -> None:
        """Let go of the connection; may be called twice."""
        self._admin.close()

    def _has(self, right: Right, told: Mapping[str, Mapping[str, Any]]) -> bool:
        """told: topics as the broker described them."""
        if right.resource == "group":
            return self._is_allowed(HeartbeatRequest(group_id=right.name, generation_id=-1, member_id=""), errors.GroupAuthorizationFailedError)
        if right.resource == "transactional-id":
            end = EndTxnRequest(
                transactional_id=right.name, producer_id=_NO_PRODUCER, producer_epoch=0, committed=False, max_version=_END_TRANSACTION_VERSION_MAX
            )
            return self._is_allowed(end, errors.TransactionalIdAuthorizationFailedError)
        topic = told[right.name]
        if right.operation == "CREATE":
            return topic["error_code"] != errors.UnknownTopicOrPartitionError.errno or self._may_create(right.name)
        if topic["error_code"] == errors.TopicAuthorizationFailedError.errno:
            return False
        # A broker before 2.3 does not tell.
        return topic["authorized_operations"] is None or right.operation in topic["authorized_operations"]

    def _may_create(self, topic: str) -> bool:
        wanted = {topic: {"num_partitions": 1, "replication_factor": -1}}
        (outcome,) = self._admin.create_topics(wanted, validate_only=True, raise_errors=False)["topics"]
        return bool(outcome["error_code"] != errors.TopicAuthorizationFailedError.errno)

    def _is_allowed(self, request: Any, refusal: type[errors.BrokerResponseError]) -> bool:
        manager = self._admin._manager
        return bool(manager.run(manager.send, request).error_code != refusal.errno)

    def _asked(self, doing: str, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except errors.KafkaError as error:
            raise translate(error, self._servers, doing) from error
