"""Applies a batch's effects to Kafka: alerts, dead letters and the group's offsets in one transaction; the last step of a record's way.

Transactions are of protocol version 1 (no KIP-890): a request that was delayed may still begin or end a later transaction of
the same epoch. So after anything but a clean, quick commit in which no connection was lost the producer is given up, and
`init_transactions` of a new one raises the epoch, which also aborts what the old one left open; until then read_committed
readers and `KafkaSource.committed` would wait for it. The new one is made in the background, at once.

Of two instances under one name the group says which is the later. It is asked before a new epoch, which would else end the
transaction of a namesake that has begun meanwhile: none is taken but by who is a member, or has yet to ask to be one. A static
member that is fenced at the first commit of its membership was so by one that took its epoch before it knew of that membership,
and goes on with a new one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing, suppress

import structlog
from kafka import TopicPartition
from kafka.errors import FencedInstanceIdError, KafkaError, KafkaTimeoutError
from kafka.producer.future import FutureRecordMetadata
from kafka.structs import OffsetAndMetadata

from anomaly_daemon.adapters.kafka_client import (
    ANSWER_TIMEOUT_S,
    DeadlineExceededError,
    Reaction,
    address,
    is_kind,
    open_client,
    reaction_to,
    translate,
    within,
)
from anomaly_daemon.adapters.kafka_group import Lease, Member, UnjoinedError
from anomaly_daemon.adapters.kafka_producer import Producer, discard, flush, producer_arguments, send
from anomaly_daemon.adapters.kafka_topics import KafkaTopics
from anomaly_daemon.domain.errors import CommitFailed, Fenced, Recoverable, SettingsError, TopicError
from anomaly_daemon.domain.records import BatchOutput
from anomaly_daemon.settings import Kafka

log = structlog.get_logger(__name__)

_SLOW_COMMIT_S = 1.0
_BACKOFF_FIRST_S, _BACKOFF_MAX_S = 0.25, 10.0
_DELIVERY_SLACK_S = 60.0
_CLOSE_TIMEOUT_S = 2.0
_LOOK_UP_S = 2.0
_LOOK_S = 0.25


class _Preparation:
    """Makes one transactional producer in a thread of its own, trying again until it succeeds, is refused, or is cancelled."""

    def __init__(self, make: Callable[[], Producer]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._is_cancelled = threading.Event()
        self._producer: Future[Producer] = Future()
        self.last_error: KafkaError | None = None
        threading.Thread(target=self._run, name="kafka-prepare", daemon=True).start()

    def wait(self, timeout_s: float) -> Producer:
        """The producer. Raises TimeoutError, or KafkaError where the broker refuses this instance."""
        return self._producer.result(timeout_s)

    def cancel(self) -> None:
        """Let go of the producer, made or yet to be made; may be called twice."""
        with self._lock:
            self._is_cancelled.set()
        if self._producer.done() and self._producer.exception() is None:
            self._producer.result().close(timeout=_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        try:
            producer = self._made()
        except BaseException as error:  # raised by whoever waits for the producer
            self._producer.set_exception(error)
            return
        with self._lock:
            if producer is not None and not self._is_cancelled.is_set():
                self._producer.set_result(producer)
                return
        if producer is not None:
            discard(producer)

    def _made(self) -> Producer | None:
        backoff_s = _BACKOFF_FIRST_S
        while not self._is_cancelled.is_set():
            if isinstance(self.last_error, UnjoinedError):
                self.last_error = None
            try:
                return self._make()
            except KafkaError as error:
                # A fenced epoch means here that another instance is starting at the same time: the later one wins at its commit.
                if reaction_to(error) in (Reaction.REFUSE_SETTINGS, Reaction.REFUSE_TOPIC) or is_kind(error, FencedInstanceIdError):
                    raise
                self.last_error = error
                if isinstance(error, UnjoinedError):
                    backoff_s = _BACKOFF_FIRST_S
            self._is_cancelled.wait(backoff_s)
            backoff_s = min(_BACKOFF_MAX_S, 2 * backoff_s)
        return None


class _Transaction:
    """One batch's effects: the calls in their order, run where a deadline can leave them behind."""

    def __init__(self, producer: Producer, output: BatchOutput, lease: Lease | None) -> None:
        self._producer, self._output, self._lease = producer, output, lease
        self._sent: list[FutureRecordMetadata] = []
        self._doing = "begin"

    def run(self) -> None:
        """Commit. The client ends a transaction well even where it gave a message up, so each has to be acknowledged before."""
        self._producer.begin_transaction()
        self._doing = "write messages"
        for message in self._output.messages:
            self._sent.append(send(self._producer, message))
        if self._sent:
            flush(self._producer, self._sent)
        if self._lease is not None:
            self._doing = "write offsets"
            offsets = {TopicPartition(one.topic, one.number): OffsetAndMetadata(at, "", -1) for one, at in self._output.next_offsets.items()}
            self._producer.send_offsets_to_transaction(offsets, self._lease.membership)
        self._doing = "end the transaction"
        self._producer.commit_transaction()

    def waiting_to(self) -> str:
        """What is being done, for a person."""
        open_topics = {message.topic for message, sent in zip(self._output.messages, self._sent, strict=False) if not sent.is_done}
        return " ".join([self._doing, *(["to", ", ".join(sorted(open_topics))] if open_topics else [])])

    def cause(self, error: KafkaError) -> KafkaError:
        """The error that says most: once fenced, the client answers every call with a general error around the first one."""
        said = [*self._failures(), error, *(one for one in error.args if isinstance(one, KafkaError))]
        return next((one for one in said if reaction_to(one) is not Reaction.RECOVER), said[0])

    def _failures(self) -> list[KafkaError]:
        """Why messages were refused, in their order. The broker's answer alone says nothing more than its code: then the topic is named."""
        refused = [(message.topic, sent.exception) for message, sent in zip(self._output.messages, self._sent, strict=False) if sent.failed()]
        is_told = [any(error.args) or reaction_to(error) is Reaction.FENCED for _, error in refused]
        return [error if told else type(error)(f"topic {topic}") for (topic, error), told in zip(refused, is_told, strict=True)]


class KafkaSink:
    """A `Sink` over Kafka transactions. One at a time per `transactional_id`: the instance that starts later fences the earlier one."""

    def __init__(
        self,
        servers: str,
        kafka: Kafka,
        transactional_id: str,
        member: Member | None = None,
        *,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """transactional_id: stable for this instance, so that a restart ends at once what its predecessor left open.

        member: who is asked before an epoch is taken; None: whoever's lease comes with the first commit, and nobody before.
        """
        self._servers, self._kafka, self._answer_timeout_s, self._monotonic_s = servers, kafka, answer_timeout_s, monotonic_s
        self._commit_timeout_s, self._transaction_timeout_s = kafka.commit_timeout, kafka.transaction_timeout
        # The commit's own deadline comes before that of a message or of a request.
        self._arguments = producer_arguments(servers, kafka, 2 * kafka.commit_timeout + _DELIVERY_SLACK_S, transactional_id, answer_timeout_s)
        self._fenced_by: str | None = None
        self._member = member
        # Its id of the last commit, or whose epoch was renewed because it had been fenced.
        self._member_id = ""
        self._gone: frozenset[str] = frozenset()
        self._is_left_open, self._told = False, ""
        self._preparation = _Preparation(self._make)

    def commit(self, output: BatchOutput) -> None:
        """One transaction, or nothing for an output without messages and offsets.

        Offsets go with the lease that `KafkaSource.poll` took; without a lease (no group) there are none to commit.
        Raises CommitFailed, Fenced, or TopicError and SettingsError where the broker refuses.
        """
        offsets = output.next_offsets if output.lease is not None else {}
        if not output.messages and not offsets:
            return
        if self._fenced_by is not None:
            raise Fenced(self._fenced_by)
        lease = self._checked(output.lease) if offsets else None
        if lease is not None:
            self._member = lease.member
        deadline_s = self._monotonic_s() + self._commit_timeout_s
        producer = self._prepared()
        began_s, lost = self._monotonic_s(), producer.connections_lost
        transaction = _Transaction(producer, output, lease)
        try:
            within(deadline_s - began_s, "kafka-commit", transaction.run)
        except DeadlineExceededError as error:
            waiting, self._told = transaction.waiting_to(), _told(producer)
            self._give_up(producer, output)
            raise CommitFailed(f"{address(self._servers)}: commit: its outcome is unknown: {error}, waiting to {waiting}{self._told}") from error
        except KafkaError as error:
            cause, open_s, self._told = transaction.cause(error), self._monotonic_s() - began_s, _told(producer)
            failure = self._failure(cause, open_s, lease)
            if isinstance(failure, Fenced):
                discard(producer)
                self._fenced_by = str(failure)
            elif isinstance(failure, CommitFailed):
                self._give_up(producer, output)
            else:
                self._replace(producer)
            raise failure from error
        except BaseException:
            self._replace(producer)
            raise
        self._gone, self._is_left_open, self._told = frozenset(), False, ""
        if lease is not None:
            self._member_id = lease.membership.member_id
        took_s, lost = self._monotonic_s() - began_s, producer.connections_lost - lost
        if took_s > _SLOW_COMMIT_S or lost:
            log.info("producer_recycled", servers=self._servers, commit_s=round(took_s, 3), connections_lost=lost)
            self._replace(producer)

    def close(self) -> None:
        """Let go of the producer; of one that ends what a failed commit left open once it has, or after a moment. May be called twice."""
        if self._is_left_open:
            with suppress(Exception):
                self._preparation.wait(_CLOSE_TIMEOUT_S)
        self._is_left_open = False
        self._preparation.cancel()

    def _checked(self, lease: object) -> Lease:
        """The lease, where it proves a membership: without a generation the broker would not fence this commit."""
        if not isinstance(lease, Lease):
            raise TypeError(f"the lease of a commit to Kafka comes from KafkaSource.poll, not {type(lease).__name__}")
        if lease.membership.generation_id < 0:
            raise CommitFailed(f"{address(self._servers)}: commit: not a member of group {lease.membership.group_id} when the batch was read")
        return lease

    def _prepared(self) -> Producer:
        """Not waited for while this process has to join its group anew: that takes a poll."""
        deadline_s = self._monotonic_s() + self._commit_timeout_s
        while True:
            try:
                return self._preparation.wait(_LOOK_S)
            except TimeoutError:
                error = self._preparation.last_error
                is_to_join = isinstance(error, UnjoinedError) and self._member is not None and self._member.is_to_join
                if self._monotonic_s() < deadline_s and not is_to_join:
                    continue
                why = f": {error}" if error is not None else ""
                after = "" if is_to_join else f" after {self._commit_timeout_s:.1f} s"
                raise CommitFailed(f"{address(self._servers)}: commit: no producer{after}{why}{self._told}") from None
            except KafkaError as error:
                raise translate(error, self._servers, "preparing a transactional producer", is_commit=True) from error

    def _failure(self, error: KafkaError, open_s: float, lease: Lease | None) -> Exception:
        """What to raise after a failed transaction: Fenced where someone else holds our identity now.

        Our own next producer never fences one that is still used. But the broker also fences a transaction that was
        open for too long, and a membership from before we joined anew: these were ours, and recovery is enough. So it is,
        once, where an epoch is fenced though the membership is a new one: the group has us as the later.
        """
        if lease is not None and is_kind(error, FencedInstanceIdError) and lease.is_succeeded_by_itself():
            return CommitFailed(f"{address(self._servers)}: commit: this member has joined its group anew since the batch was read")
        if reaction_to(error) is Reaction.FENCED and open_s >= self._transaction_timeout_s:
            return CommitFailed(
                f"{address(self._servers)}: commit: the transaction was open for {open_s:.1f} s, longer than kafka.transaction_timeout: {error}"
            )
        if lease is not None and lease.is_static and lease.membership.member_id != self._member_id and _is_epoch_fenced(error):
            self._member_id = lease.membership.member_id
            return CommitFailed(f"{address(self._servers)}: commit: another instance of this name took a new epoch as this one joined: {error}")
        failure = translate(error, self._servers, "commit", is_commit=True)
        return CommitFailed(f"{failure}{self._told}") if isinstance(failure, CommitFailed) else failure

    def _give_up(self, producer: Producer, output: BatchOutput) -> None:
        """Raises TopicError, see `_refuse_gone`."""
        discard(producer)
        try:
            self._refuse_gone(output)
        finally:
            self._prepare()

    def _refuse_gone(self, output: BatchOutput) -> None:
        """The client waits for a topic that is deleted as for a broker that is away. Raises TopicError once two commits in turn found it gone."""
        try:
            with closing(KafkaTopics(self._servers, self._kafka, answer_timeout_s=_LOOK_UP_S)) as topics:
                gone = topics.gone(sorted({message.topic for message in output.messages}))
        except (Recoverable, SettingsError):
            return
        found, self._gone = sorted(gone & self._gone), gone
        if found:
            raise TopicError(f"{address(self._servers)}: commit: no topic {', '.join(found)}; make it anew, or start with topics.create_topics: true")

    def _replace(self, producer: Producer) -> None:
        discard(producer)
        self._prepare()

    def _prepare(self) -> None:
        self._is_left_open = True
        self._preparation = _Preparation(self._make)

    def _make(self) -> Producer:
        """Raises FencedInstanceIdError where another process has our name by now."""
        self._confirm()
        producer = open_client(Producer, self._arguments)
        try:
            self._confirm()  # a connection may take its time
            producer.init_transactions()
        except BaseException as error:
            discard(producer)
            if producer.refusal is not None:
                raise producer.refusal from error
            raise
        return producer

    def _confirm(self) -> None:
        if self._member is None:
            return
        try:
            within(self._answer_timeout_s, "kafka-confirm", self._member.confirm)
        except DeadlineExceededError as error:
            raise KafkaTimeoutError(f"asking the group whether this is still its member: {error}") from error


def _is_epoch_fenced(error: KafkaError) -> bool:
    return reaction_to(error) is Reaction.FENCED and not is_kind(error, FencedInstanceIdError)


def _told(producer: Producer) -> str:
    return f"; told last: {why}" if (why := producer.why_waiting) else ""
