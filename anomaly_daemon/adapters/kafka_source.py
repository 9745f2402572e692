"""Reads Kafka topics: as a member of a consumer group, or all of them without a group; the first step of a record's way.

The loop alone decides where reading starts: a partition that comes is paused until `seek`, and a position that the log no
longer holds is an error, never a silent jump. After any error of the member's consumer it is given up and made anew at the
next poll: what it owned is LOST, what the new one gets is ASSIGNED, and the loop recovers.
"""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import structlog
from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.errors import FencedInstanceIdError, IllegalStateError, KafkaError, KafkaTimeoutError, OffsetOutOfRangeError

from anomaly_daemon.adapters.kafka_client import ANSWER_TIMEOUT_S, Reaction, address, consumer_arguments, open_client, reaction_to, translate
from anomaly_daemon.adapters.kafka_group import GroupWatch, Lease, Member, finish_joins, is_fenced
from anomaly_daemon.adapters.kafka_offsets import SOON_MS, ends_told, led
from anomaly_daemon.adapters.kafka_stall import StallWatch
from anomaly_daemon.adapters.kafka_unpacking import POLL_BYTES_MAX, bound_unpacking
from anomaly_daemon.adapters.topic_names import missing_topics
from anomaly_daemon.domain.errors import LogUnavailable, SettingsError, TopicError
from anomaly_daemon.domain.records import Batch, Bounds, ChangeKind, Offset, Partition, PartitionChange, Record
from anomaly_daemon.settings import KAFKA_NAME, Kafka

log = structlog.get_logger(__name__)
T = TypeVar("T")

_MEMBER = re.compile(KAFKA_NAME)
_STALL_TIMEOUT_S = 30.0
_CLOSE_TIMEOUT_MS = 2_000
# For what is there the broker's answer takes less; where nothing is, a record waits so long for others.
_TOP_UP_MS = 5
_TOPPED_UP_BYTES_MAX = 1 << 20
_OPEN_LOOKS_MAX, _OPEN_LOOK_S = 20, 0.1
_OBSERVERS_MAX = 3
# A broker that stood still may tell, in its first moment, what was committed when it still led the group.
_PROMPT_S, _LATE_LOOKS_MAX, _LATE_LOOK_S = 2.0, 3, 1.0


class _Ownership(ConsumerRebalanceListener):  # type: ignore[misc]
    """Runs on the client's I/O thread, which also sends the heartbeats: notes the fact, keeps new partitions quiet, returns."""

    def __init__(self, consumer: KafkaConsumer, changes: deque[PartitionChange]) -> None:
        self._consumer, self._changes = consumer, changes

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """A position, whichever, keeps the client from looking one up; the loop seeks."""
        for partition in assigned:
            self._consumer.pause(partition)
            self._consumer.seek(partition, 0)
        self._note(ChangeKind.ASSIGNED, assigned)

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._note(ChangeKind.REVOKED, revoked)

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        self._note(ChangeKind.LOST, lost)

    def _note(self, kind: ChangeKind, partitions: Iterable[TopicPartition]) -> None:
        named = tuple(sorted(Partition(partition.topic, partition.partition) for partition in partitions))
        if named:
            self._changes.append(PartitionChange(kind, named))


class KafkaSource:
    """A `Source` over Kafka."""

    def __init__(
        self,
        servers: str,
        kafka: Kafka,
        topics: Sequence[str],
        group: str | None,
        member: str,
        batch_records_max: int,
        *,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
        stall_timeout_s: float = _STALL_TIMEOUT_S,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connects where a broker answers within `answer_timeout_s`; where none does, `poll` says so and tries again.

        Raises TopicError for topics that are missing, SettingsError where the broker refuses this client.
        """
        if group is not None and (not _MEMBER.fullmatch(member) or member in (".", "..")):
            raise SettingsError(f"input.member: {member!r}: use letters, digits, '.', '_' and '-', at most 249 of them")
        bound_unpacking()
        finish_joins()
        self._servers, self._topics, self._group = servers, tuple(topics), group
        self._batch_records_max, self._stall_timeout_s, self._monotonic_s = batch_records_max, stall_timeout_s, monotonic_s
        self._answer_timeout_s, self._answer_timeout_ms = answer_timeout_s, round(answer_timeout_s * 1000)
        self._arguments = consumer_arguments(servers, kafka, group, member, batch_records_max, answer_timeout_s)
        self._observer_arguments = self._arguments | {"group_id": None, "group_instance_id": None, "isolation_level": "read_uncommitted"}
        self.member = Member()
        """Who this is in its group, for the sink."""
        self._observer: KafkaConsumer | None = None
        self._changes: deque[PartitionChange] = deque()
        # Partitions by the client's name: known to the loop; of these, those that it has sought.
        self._owned: dict[TopicPartition, Partition] = {}
        self._sought: set[TopicPartition] = set()
        # Where transactions were last seen to be open.
        self._open_from: dict[TopicPartition, Offset] = {}
        self._watch = StallWatch(stall_timeout_s)
        self._next_look_s = 0.0
        self._group_watch = GroupWatch()
        self._read_since_look, self._is_waiting_told = 0, False
        with suppress(LogUnavailable):
            self._connected()

    def poll(self, timeout_s: float) -> Batch:
        """Records, or partition changes, never both: what was read during a rebalance is read again after it, under the new lease."""
        consumer = self._connected()
        # Before the poll: proof of the membership under which these records were read.
        lease = Lease.of(self.member) if self._group is not None else None
        fetched = self._polled(consumer, timeout_s)
        if self._changes or (lease is not None and lease.is_renewed()):
            changes = self._take_changes()
            for partition, records in fetched.items():
                if partition in self._sought:
                    self._move(consumer, partition, records[0].offset)
            return Batch(changes=changes, lease=lease)
        records = self._converted(fetched)
        self._look_for_stalls(consumer, records)
        return Batch(records=records, lease=lease, is_last=self._left(consumer, fetched) < self._batch_records_max)

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, Offset]:
        """The group's offsets; waits until no transaction of them is pending, for a bounded time."""
        consumer = self._connected()
        return self._promptly_committed(consumer, partitions) if self._group is not None else {}

    def bounds(self, partitions: Sequence[Partition]) -> dict[Partition, Bounds]:
        """What each partition retains for readers; `end` is short of transactions that are still open after a short wait."""
        names = [_native(partition) for partition in partitions]
        earliest = self._observed("looking up the earliest offsets", KafkaConsumer.beginning_offsets, names)
        ends = self._observed("looking up the end offsets", KafkaConsumer.end_offsets, names)
        stable = self._stable(ends)
        return {
            partition: Bounds(int(earliest[name]), stable[name], int(ends[name]) if stable[name] < ends[name] else None)
            for partition, name in zip(partitions, names, strict=True)
        }

    def offsets_at(self, partitions: Sequence[Partition], time_ms: int) -> dict[Partition, Offset]:
        """By the records' timestamps, as the broker looks them up."""
        ends, asked = self.bounds(partitions), {_native(partition): time_ms for partition in partitions}
        found = self._observed("looking up offsets by time", KafkaConsumer.offsets_for_times, asked)
        return {partition: int(at.offset) if (at := found.get(_native(partition))) else ends[partition].end for partition in partitions}

    def positions(self) -> dict[Partition, Offset]:
        """Of the partitions that were sought; control records and aborted transactions are passed over."""
        consumer = self.member.consumer
        return {} if consumer is None else {self._owned[name]: offset for name, offset in self._positions(consumer).items()}

    def seek(self, partition: Partition, offset: Offset) -> None:
        """Ignored for a partition that was taken away meanwhile: the change that says so comes with the next poll."""
        name = _native(partition)
        if self.member.consumer is not None and name in self._owned:
            self._move(self.member.consumer, name, offset)
            self._sought.add(name)

    def close(self) -> None:
        """A static member does not leave: it keeps its partitions until the session times out, so that a restart is no rebalance. Another leaves."""
        consumers = [one for one in (self.member.let_go(), self._observer) if one is not None]
        self._observer = None
        for consumer in consumers:
            self._end(consumer)

    def _connected(self) -> KafkaConsumer:
        """The consumer, made and joined where there is none. Raises LogUnavailable, TopicError or SettingsError."""
        if self.member.consumer is None:
            consumer = self._opened(self._arguments)
            try:
                self._subscribe(consumer)
            except KafkaError as error:
                self._end(consumer)
                raise translate(error, self._servers, "subscribing") from error
            except TopicError:
                self._end(consumer)
                raise
            self.member.take(consumer)
            self._group_watch = GroupWatch()
            self._next_look_s = self._monotonic_s() + self._answer_timeout_s / 2
            log.info("consumer_connected", servers=self._servers, topics=self._topics, group=self._group)
        return self.member.consumer

    def _subscribe(self, consumer: KafkaConsumer) -> None:
        ownership = _Ownership(consumer, self._changes)
        if self._group is not None:
            consumer.subscribe(self._topics, listener=ownership)
        # After the subscription, and before the group is joined: a leader that learns of the partitions only later joins twice.
        there = consumer.topics()
        if missing := set(self._topics) - there:
            raise missing_topics(address(self._servers), missing, there)
        if self._group is None:
            everything = [TopicPartition(topic, number) for topic in self._topics for number in sorted(consumer.partitions_for_topic(topic))]
            consumer.assign(everything)
            ownership.on_partitions_assigned(everything)

    def _polled(self, consumer: KafkaConsumer, timeout_s: float) -> dict[TopicPartition, list[Any]]:
        """Also what came meanwhile, where the client had fetched ahead: what it gives then is as of the poll before."""
        has_fetched_ahead = consumer._fetcher.has_fetched_ahead
        fetched: dict[TopicPartition, list[Any]] = self._answered("reading", consumer.poll, round(timeout_s * 1000))
        room = self._batch_records_max - sum(map(len, fetched.values()))
        if has_fetched_ahead and fetched and room > 0 and _bytes_of(fetched) < _TOPPED_UP_BYTES_MAX:
            for name, rows in self._answered("reading", consumer.poll, _TOP_UP_MS, max_records=room).items():
                fetched.setdefault(name, []).extend(rows)
        if is_fenced(consumer):
            self._give_up()
            raise translate(FencedInstanceIdError(), self._servers, "reading")
        return fetched

    def _promptly_committed(self, consumer: KafkaConsumer, partitions: Sequence[Partition]) -> dict[Partition, Offset]:
        """The group's offsets, asked for again, a few times, where they were told late: who tells them may lead the group no more."""
        for look in range(_LATE_LOOKS_MAX):
            if look:
                time.sleep(_LATE_LOOK_S)
            asked_s = self._monotonic_s()
            found = self._told_committed(consumer, partitions)
            late_s = self._monotonic_s() - asked_s
            if late_s <= _PROMPT_S:
                break
            log.info("committed_offsets_told_late", servers=self._servers, group=self._group, seconds=round(late_s, 3))
        return found

    def _told_committed(self, consumer: KafkaConsumer, partitions: Sequence[Partition]) -> dict[Partition, Offset]:
        """Of those partitions that the group ever committed; all in one request, where `committed` makes one for each."""
        ask, names = consumer._coordinator.fetch_committed_offsets, [_native(partition) for partition in partitions]
        found = self._answered("reading committed offsets", ask, names, timeout_ms=self._answer_timeout_ms)
        return {Partition(*name): int(told.offset) for name, told in found.items()}

    def _left(self, consumer: KafkaConsumer, fetched: dict[TopicPartition, list[Any]]) -> float:
        """How many offsets of these partitions the broker holds beyond them, as of its last answer; infinite where that is not known."""
        try:
            ends = {name: consumer.highwater(name) for name in fetched}
        except IllegalStateError:  # taken away meanwhile
            return math.inf
        return sum(math.inf if ends[name] is None else ends[name] - 1 - rows[-1].offset for name, rows in fetched.items())

    def _stable(self, ends: dict[TopicPartition, Offset]) -> dict[TopicPartition, Offset]:
        """Where reading stops before these ends. One transaction is waited for once: what was committed may take a moment to be readable."""
        consumer, seen_open = self._connected(), self._open_from
        for look in range(_OPEN_LOOKS_MAX):
            if look:
                time.sleep(_OPEN_LOOK_S)
            found = self._answered("looking up the last stable offsets", consumer.end_offsets, list(ends), timeout_ms=self._answer_timeout_ms)
            stable = {name: min(int(found[name]), end) for name, end in ends.items()}
            still_open = {name: offset for name, offset in stable.items() if offset < ends[name]}
            if still_open.items() <= seen_open.items():
                break
        for name, offset in still_open.items():
            if seen_open.get(name) != offset:
                remedy = "records from this offset on are not read until the transaction ends; the broker ends it after its timeout"
                log.warning("transaction_found_open", partition=str(Partition(*name)), offset=offset, end=ends[name], remedy=remedy)
        self._open_from = {name: offset for name, offset in seen_open.items() if name not in ends} | still_open
        return stable

    def _observed(self, doing: str, ask: Callable[..., T], asked: object) -> T:
        """What a consumer without a group answers. Where it does not soon, a new one is asked: it may wait for a broker that leads no more."""
        for _ in range(_OBSERVERS_MAX):
            if self._observer is None:
                self._observer = self._opened(self._observer_arguments)
            try:
                return led(ask, self._observer, asked, timeout_ms=self._answer_timeout_ms // _OBSERVERS_MAX)
            except KafkaError as error:
                self._end(self._observer)
                self._observer, failure = None, error
                if reaction_to(error) is not Reaction.RECOVER:
                    break
        raise translate(failure, self._servers, doing) from failure

    def _opened(self, arguments: dict[str, Any]) -> KafkaConsumer:
        try:
            return open_client(KafkaConsumer, arguments)
        except KafkaError as error:
            raise translate(error, self._servers, f"no broker answers within {self._answer_timeout_s:.0f} s") from error

    def _answered(self, doing: str, ask: Callable[..., T], *arguments: object, **options: object) -> T:
        """What the client answers; on any error the consumer is given up, and what it owned is LOST."""
        try:
            return led(ask, *arguments, **options)
        except KafkaError as error:
            self._give_up()
            if isinstance(error, OffsetOutOfRangeError):
                doing += ": the log no longer holds the offset that was next, starting over from what it holds"
            raise translate(error, self._servers, doing) from error

    def _give_up(self) -> None:
        self.close()
        lost = tuple(sorted(self._owned.values()))
        self._owned, self._sought, self._watch = {}, set(), StallWatch(self._stall_timeout_s)
        self._changes = deque([PartitionChange(ChangeKind.LOST, lost)] if lost else [])

    def _end(self, consumer: KafkaConsumer) -> None:
        try:
            consumer.close(timeout_ms=_CLOSE_TIMEOUT_MS)
        except KafkaError as error:
            log.warning("consumer_close_failed", servers=self._servers, error=str(error))

    def _take_changes(self) -> tuple[PartitionChange, ...]:
        """The facts so far, in order; the partitions they touch are no longer sought."""
        changes = tuple(self._changes.popleft() for _ in range(len(self._changes)))
        for change in changes:
            for partition in change.partitions:
                name = _native(partition)
                self._sought.discard(name)
                if change.kind is ChangeKind.ASSIGNED:
                    self._owned[name] = partition
                else:
                    self._owned.pop(name, None)
        return changes

    def _move(self, consumer: KafkaConsumer, name: TopicPartition, offset: Offset) -> None:
        """Seek and let it be fetched; nothing where the client no longer owns it."""
        # The client's I/O thread may take it away at any moment.
        with suppress(ValueError, KeyError):
            consumer.seek(name, offset)
            consumer.resume(name)

    def _converted(self, fetched: dict[TopicPartition, list[Any]]) -> list[Record]:
        records: list[Record] = []
        for name, rows in fetched.items():
            if name not in self._sought:
                continue
            partition = self._owned[name]
            records += [
                Record(partition, row.offset, row.timestamp, row.key, row.value, tuple((k, v or b"") for k, v in row.headers) if row.headers else ())
                for row in rows
            ]
        return records

    def _positions(self, consumer: KafkaConsumer) -> dict[TopicPartition, Offset]:
        """As the client has noted them: its own `position` waits for the leader of each one that has lost it."""
        noted = {name: consumer._subscription.assignment.get(name) for name in self._sought}
        positions = {name: state.position for name, state in noted.items() if state is not None}
        return {name: int(position.offset) for name, position in positions.items() if position is not None}

    def _look_for_stalls(self, consumer: KafkaConsumer, records: Sequence[Record]) -> None:
        """Every few seconds one round trip: it shows that the broker answers, and whether a partition stands still below its end."""
        self._read_since_look += len(records)
        now_s = self._monotonic_s()
        if now_s < self._next_look_s:
            return
        is_reading, self._read_since_look = self._read_since_look > 0, 0
        self._next_look_s = now_s + self._answer_timeout_s / 2
        if self._group is not None:
            self._look_for_unowned(consumer)
        try:
            names = sorted(self._sought) or [TopicPartition(self._topics[0], 0)]
            ends = ends_told(consumer, names, self._answer_timeout_ms, is_reading=is_reading)
        except KafkaError as error:
            # One partition without a leader is no reason to leave the others.
            if is_reading and isinstance(error, KafkaTimeoutError):
                return
            self._give_up()
            raise translate(error, self._servers, "no broker answers") from error
        positions = {self._owned[name]: at for name, at in self._positions(consumer).items() if self._owned[name] in ends}
        # While the member joins it reads nothing, and the group may wait for another for a session.
        is_dry = not consumer._coordinator.rejoining and _is_short(records, self._batch_records_max)
        stalled = self._watch.stalled(now_s, positions, ends, is_dry)
        if stalled is not None:
            self._give_up()
            raise LogUnavailable(f"{address(self._servers)}: {stalled} brings nothing though it is behind its end: connecting anew")

    def _look_for_unowned(self, consumer: KafkaConsumer) -> None:
        if not self._owned and not self._is_waiting_told:
            reason = "other members have them all, or the group waits for one that is gone, kafka.session_timeout at most"
            log.info("partitions_awaited", group=self._group, reason=reason)
        self._is_waiting_told = not self._owned
        with suppress(KafkaError):  # whether the broker answers is asked for next
            if unowned := self._group_watch.look(consumer, self._topics, SOON_MS):
                named = [str(Partition(*name)) for name in unowned]
                log.warning("partitions_unowned", group=self._group, partitions=named, reason="a rebalance was not finished: joining anew")


def _is_short(records: Sequence[Record], records_max: int) -> bool:
    return len(records) < records_max and sum(len(record.value or b"") for record in records) < POLL_BYTES_MAX // 2


def _bytes_of(fetched: dict[TopicPartition, list[Any]]) -> int:
    return sum(row.serialized_key_size + row.serialized_value_size for rows in fetched.values() for row in rows)


def _native(partition: Partition) -> TopicPartition:
    return TopicPartition(partition.topic, partition.number)
