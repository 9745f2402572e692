"""What source, sink and topics share of the Kafka client: settings → arguments, foreign errors → ours, deadlines.

kafka-python 3.0.12 waits without a timeout in some calls, and leaks an I/O thread where a constructor fails; each is contained here, once.
"""

from __future__ import annotations

import enum
import re
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from kafka import errors
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

from anomaly_daemon.adapters.kafka_net import Net, TlsRefusedError
from anomaly_daemon.adapters.kafka_security import security_arguments
from anomaly_daemon.domain.errors import AnomalyDaemonError, CommitFailed, Fenced, LogUnavailable, SettingsError, TopicError
from anomaly_daemon.settings import Kafka

T = TypeVar("T")

ANSWER_TIMEOUT_S = 10.0
_RECONNECT_MAX_MS = 1_000
# What drops an idle connection in silence, such as a NAT, is kept from it or noticed within a minute, before a commit needs the connection.
_KEEP_ALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
# A member learns of a rebalance by its heartbeat, and a cooperative one takes two rounds.
_HEARTBEAT_MAX_MS = 1_000
# By default 50 MB: with as much behind, a way that carries 1 MB/s never brings an answer within the time of a request.
_FETCH_BYTES_MAX = 4 << 20
_NAMED = re.compile(r"\[Error \d+\] (\w+Error)\b")


class Reaction(enum.Enum):
    """What an error of the client means to the loop."""

    RECOVER = "the log does not answer, or the outcome is unknown"
    REFUSE_SETTINGS = "the connection's settings must be changed"
    REFUSE_TOPIC = "a topic, or the right to use it, must be changed"
    FENCED = "another instance took this one's identity"


# By class, subclasses included; the nearest base decides. Whatever is not listed is RECOVER; a test holds the whole list.
_REACTIONS: dict[type[Exception], Reaction] = {
    errors.ProducerFencedError: Reaction.FENCED,
    errors.InvalidProducerEpochError: Reaction.FENCED,
    errors.FencedInstanceIdError: Reaction.FENCED,
    errors.AuthorizationError: Reaction.REFUSE_SETTINGS,
    errors.GroupMaxSizeReachedError: Reaction.REFUSE_SETTINGS,
    errors.IllegalSaslStateError: Reaction.REFUSE_SETTINGS,
    errors.InconsistentGroupProtocolError: Reaction.REFUSE_SETTINGS,
    errors.InvalidConfigurationError: Reaction.REFUSE_SETTINGS,
    errors.InvalidGroupIdError: Reaction.REFUSE_SETTINGS,
    errors.InvalidSessionTimeoutError: Reaction.REFUSE_SETTINGS,
    errors.InvalidTransactionTimeoutError: Reaction.REFUSE_SETTINGS,
    errors.KafkaConfigurationError: Reaction.REFUSE_SETTINGS,
    errors.SaslAuthenticationFailedError: Reaction.REFUSE_SETTINGS,
    errors.SecurityDisabledError: Reaction.REFUSE_SETTINGS,
    errors.UnrecognizedBrokerVersion: Reaction.REFUSE_SETTINGS,
    errors.UnsupportedCodecError: Reaction.REFUSE_SETTINGS,
    errors.UnsupportedCompressionTypeError: Reaction.REFUSE_SETTINGS,
    errors.UnsupportedSaslMechanismError: Reaction.REFUSE_SETTINGS,
    errors.UnsupportedVersionError: Reaction.REFUSE_SETTINGS,
    TlsRefusedError: Reaction.REFUSE_SETTINGS,
    errors.InvalidPartitionsError: Reaction.REFUSE_TOPIC,
    errors.InvalidRecordError: Reaction.REFUSE_TOPIC,
    errors.InvalidReplicationFactorError: Reaction.REFUSE_TOPIC,
    errors.InvalidTimestampError: Reaction.REFUSE_TOPIC,
    errors.InvalidTopicError: Reaction.REFUSE_TOPIC,
    errors.MessageSizeTooLargeError: Reaction.REFUSE_TOPIC,
    errors.PolicyViolationError: Reaction.REFUSE_TOPIC,
    errors.RecordListTooLargeError: Reaction.REFUSE_TOPIC,
    errors.TopicAuthorizationFailedError: Reaction.REFUSE_TOPIC,
    errors.UnsupportedForMessageFormatError: Reaction.REFUSE_TOPIC,
}
_LISTED = "; `check --acls` prints the commands"
_NAME_TAKEN = "another process has taken this one's name; give every instance its own input.member"
_REMEDIES: dict[type[Exception], str] = {
    errors.MessageSizeTooLargeError: (
        "raise max.message.bytes of the topic, or, where it is the one of dead letters, set output.dead_letter_bytes_max below that"
    ),
    errors.RecordListTooLargeError: "raise segment.bytes of the topic",
    errors.TopicAuthorizationFailedError: f"grant this user READ on the topics read, WRITE on those written{_LISTED}",
    errors.GroupAuthorizationFailedError: f"grant this user READ on the consumer group{_LISTED}",
    errors.TransactionalIdAuthorizationFailedError: f"grant this user WRITE on the transactional id (group-member){_LISTED}",
    errors.ClusterAuthorizationFailedError: "grant this user WRITE on the topics written",
    errors.SaslAuthenticationFailedError: "check kafka.sasl_mechanism, kafka.sasl_username and the password in the secrets directory",
    errors.UnsupportedSaslMechanismError: "set kafka.sasl_mechanism to one that the broker offers",
    errors.InvalidSessionTimeoutError: "set kafka.session_timeout between the broker's group.min. and group.max.session.timeout.ms",
    errors.InvalidTransactionTimeoutError: "set kafka.transaction_timeout no longer than the broker's transaction.max.timeout.ms",
    errors.ProducerFencedError: _NAME_TAKEN,
    errors.InvalidProducerEpochError: _NAME_TAKEN,
    errors.FencedInstanceIdError: _NAME_TAKEN,
    errors.KafkaTimeoutError: "is the broker up, is `log` its address, and does kafka.security_protocol fit its listener?",
}


def reaction_to(error: Exception) -> Reaction:
    """What an error of the client asks for."""
    return next((_REACTIONS[base] for base in _kinds(error) if base in _REACTIONS), Reaction.RECOVER)


def is_kind(error: Exception, kind: type[Exception]) -> bool:
    """Whether it is such an error, or a general one that only names it."""
    return kind in _kinds(error)


def _kinds(error: Exception) -> tuple[type, ...]:
    """Its class and bases; of a general error those of the one that it only names: "Unexpected error in …: [Error 31] …Error"."""
    named = _NAMED.search(str(error)) if type(error) is errors.KafkaError and error.args else None
    told = getattr(errors, named[1], type(error)) if named is not None else type(error)
    return told.__mro__


def translate(error: Exception, servers: str, doing: str, *, is_commit: bool = False) -> AnomalyDaemonError:
    """Our error for one of the client's; the text names the servers, what was being done and, where there is one, the remedy."""
    remedy = next((f"; {_REMEDIES[base]}" for base in _kinds(error) if base in _REMEDIES), "")
    message = f"{address(servers)}: {doing}: {error}{remedy}"
    match reaction_to(error):
        case Reaction.FENCED:
            return Fenced(message)
        case Reaction.REFUSE_SETTINGS:
            return SettingsError(message)
        case Reaction.REFUSE_TOPIC:
            return TopicError(message)
        case Reaction.RECOVER:
            return CommitFailed(message) if is_commit else LogUnavailable(message)


def address(servers: str) -> str:
    """How a message names the cluster."""
    return f"kafka://{servers}"


def connection_arguments(servers: str, kafka: Kafka, answer_timeout_s: float = ANSWER_TIMEOUT_S) -> dict[str, Any]:
    """What consumer, producer and admin client have in common; to connect, or one request, takes `answer_timeout_s` at most.

    Raises SettingsError.
    """
    return {
        "bootstrap_servers": servers.split(","),
        "client_id": "anomaly-daemon",
        "bootstrap_timeout_ms": round(answer_timeout_s * 1000),
        "request_timeout_ms": round(answer_timeout_s * 1000),
        "reconnect_backoff_max_ms": _RECONNECT_MAX_MS,
        "socket_options": _socket_options(),
        **security_arguments(kafka),
    }


def _socket_options() -> list[tuple[int, int, int]]:
    named = [(getattr(socket, name, None), seconds) for name, seconds in _KEEP_ALIVE.items()]  # not every system has them all
    tcp = [(socket.IPPROTO_TCP, option, value) for option, value in ((socket.TCP_NODELAY, 1), *named) if option is not None]
    return [*tcp, (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]


def consumer_arguments(
    servers: str, kafka: Kafka, group: str | None, member: str, batch_records_max: int, answer_timeout_s: float = ANSWER_TIMEOUT_S
) -> dict[str, Any]:
    """A consumer that reads what is committed, commits nothing by itself and never moves its position by itself."""
    session_timeout_ms = round(kafka.session_timeout * 1000)
    return connection_arguments(servers, kafka, answer_timeout_s) | {
        "group_id": group,
        "group_instance_id": member if group is not None and kafka.static_membership else None,
        "isolation_level": "read_committed",
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "allow_auto_create_topics": False,
        "partition_assignment_strategy": (CooperativeStickyAssignor(),),
        "session_timeout_ms": session_timeout_ms,
        "heartbeat_interval_ms": min(_HEARTBEAT_MAX_MS, session_timeout_ms // 4),
        "max_poll_interval_ms": round(kafka.max_poll_interval * 1000),
        "max_poll_records": batch_records_max,
        "fetch_max_bytes": _FETCH_BYTES_MAX,
        "metrics_enabled": False,
    }


def open_client(make: Callable[..., T], arguments: Mapping[str, Any]) -> T:
    """A consumer, producer or admin client; where its constructor fails, the sockets and the I/O thread it had started are closed."""
    opened: list[Net] = []

    def keep(**configuration: object) -> Net:
        opened.append(Net(**configuration))
        return opened[-1]

    try:
        return make(kafka_client=keep, **arguments)
    except BaseException as error:
        refusal = opened[-1].connections.last_refusal if opened else ""
        if isinstance(error, errors.KafkaTimeoutError) and refusal:
            error.args = (f"{error.args[0]}, at last: {refusal}",)
        for client in opened:
            client.close()
        raise


class DeadlineExceededError(Exception):
    """The work did not end in time; it goes on in a thread of its own."""


def within(deadline_s: float, name: str, work: Callable[[], T]) -> T:
    """The result of `work`, done in a daemon thread, or its exception.

    Raises DeadlineExceededError after `deadline_s`; the caller then sees to it that the work can end.
    """
    outcome: Future[T] = Future()

    def settle() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # the caller's thread raises it
            outcome.set_exception(error)

    threading.Thread(target=settle, name=name, daemon=True).start()
    try:
        return outcome.result(max(0.0, deadline_s))
    except TimeoutError:
        if outcome.done():
            return outcome.result()
        raise DeadlineExceededError(f"no answer after {deadline_s:.1f} s") from None
