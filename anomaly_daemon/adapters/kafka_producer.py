"""Producers: their arguments, what they hand over and wait for, and how one is given up.

kafka-python 3.0.12 closes a producer only after a flush that a broker which is away never answers, and lets one that was fenced ask for a new
epoch by itself; it tells nobody why it tries again. Each is contained here.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from kafka import KafkaProducer, errors
from kafka.producer.future import FutureRecordMetadata
from kafka.serializer import Serializer

from anomaly_daemon.adapters.kafka_client import ANSWER_TIMEOUT_S, connection_arguments
from anomaly_daemon.adapters.kafka_net import Connections, Net
from anomaly_daemon.domain.records import Message
from anomaly_daemon.settings import Kafka

# The broker's max.message.bytes decides what is too large; the client's own limit (1 MB) would only come before it.
_REQUEST_BYTES_MAX = 64 << 20
_TRANSACTION_BACKOFF_MS = 10
_FORCED_END_TIMEOUT_S = 60.0


class _Values(Serializer):  # type: ignore[misc]
    """Lets a message have neither key nor value, which Kafka allows and the client refuses."""

    def serialize(self, _topic: str, _headers: object, value: object) -> object:
        return None if value is _NO_VALUE else value


_NO_VALUE = object()


class Producer(KafkaProducer):  # type: ignore[misc]
    """A producer that never asks for a new epoch by itself, and knows what it met."""

    def __init__(self, **arguments: Any) -> None:
        self._refusals: dict[str, Exception] = {}
        super().__init__(**arguments)
        if self._transaction_manager is not None and self._transaction_manager.is_transactional():
            # What was fenced while it stood still would end the transaction of its successor thereby: the broker aborts what it finds open.
            self._transaction_manager._supports_epoch_bump = lambda: False
        self._settle, self._sender._dispatch_error = self._sender._dispatch_error, self._note_refusal

    def begin_transaction(self) -> None:
        """See KafkaProducer; what was met before is forgotten."""
        self._refusals.clear()
        self._connections.last_refusal = ""
        super().begin_transaction()

    @property
    def connections_lost(self) -> int:
        """How many ended so far: what was on its way in one may still arrive."""
        return self._connections.lost

    @property
    def why_waiting(self) -> str:
        """What it was told last, by topic and of connections, since the transaction began, while it tried again and again; empty where nothing."""
        told = [f"topic {topic}: {error}".removesuffix(": None") for topic, error in sorted(dict(self._refusals).items())]  # the sender adds to it
        return "; ".join(one for one in (*told, self._connections.last_refusal) if one)

    @property
    def refusal(self) -> errors.KafkaError | None:
        """Why a broker refuses us for good, its certificate or our login; None where none does."""
        return self._connections.refusal

    @property
    def _connections(self) -> Connections:
        net: Net = self._sender._client
        return net.connections

    def _note_refusal(self, batch: Any, error: Exception, partition_response: object) -> None:
        self._refusals[batch.topic_partition.topic] = error
        self._settle(batch, error, partition_response)


def producer_arguments(
    servers: str, kafka: Kafka, delivery_timeout_s: float, transactional_id: str | None = None, answer_timeout_s: float = ANSWER_TIMEOUT_S
) -> dict[str, Any]:
    """An idempotent producer, transactional where an id is given.

    A message is given up after `delivery_timeout_s`, one request after half of it.
    """
    arguments = connection_arguments(servers, kafka, answer_timeout_s) | {
        "transactional_id": transactional_id,
        "compression_type": None if kafka.compression == "none" else kafka.compression,
        "value_serializer": _Values(),
        "linger_ms": 20,
        "batch_size": 64 << 10,
        "max_request_size": _REQUEST_BYTES_MAX,
        "request_timeout_ms": round(delivery_timeout_s * 500),
        "max_block_ms": round(answer_timeout_s * 1000),
        "delivery_timeout_ms": round(delivery_timeout_s * 1000),
        "allow_auto_create_topics": False,
        "metrics_enabled": False,
    }
    if transactional_id is not None:
        arguments["transaction_timeout_ms"] = round(kafka.transaction_timeout * 1000)
        # The broker finishes a transaction after it has answered: one that begins within milliseconds is told to come again.
        arguments["retry_backoff_ms"] = _TRANSACTION_BACKOFF_MS
    return arguments


def send(producer: KafkaProducer, message: Message) -> FutureRecordMetadata:
    """Hand a message to the producer; raises KafkaError, ValueError or TypeError where it cannot be taken."""
    try:
        return producer.send(
            message.topic,
            _NO_VALUE if message.value is None else message.value,
            message.key,
            list(message.headers),
            message.partition_number,
            message.timestamp_ms,
        )
    except errors.KafkaTimeoutError as error:
        raise errors.KafkaTimeoutError(f"topic {message.topic}: {error}; does it exist, and may this user write to it?") from error


def flush(producer: KafkaProducer, sent: Sequence[FutureRecordMetadata], timeout_s: float | None = None) -> None:
    """Until each message was taken or refused. Raises KafkaError where one was not acknowledged.

    The client's own flush gives up where a topic takes so little that a batch is split (3.0.12), and says nothing of what was refused.
    """
    try:
        producer.flush(timeout=timeout_s)
    except errors.UnknownError:
        for one in sent:
            with suppress(errors.KafkaError):
                one.get(timeout_s)
    for one in sent:
        if not one.succeeded():
            raise one.exception or errors.KafkaError("a message was not acknowledged")


def discard(producer: KafkaProducer) -> None:
    """End a producer whose transaction has an unknown outcome: at once it begins nothing new; its threads end by themselves.

    `close(timeout=0)` flushes first and raises before it has closed anything, and a call that waits for a transactional
    request which will never be sent waits for ever: hence the two private names.
    """
    producer._sender.force_close()

    def end() -> None:
        producer._sender.join(_FORCED_END_TIMEOUT_S)
        producer._transaction_manager.authentication_failed(errors.KafkaError("the producer was discarded"))
        producer.close(timeout=0)

    threading.Thread(target=end, name="kafka-discard", daemon=True).start()
