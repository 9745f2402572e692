"""What a member sees to in its group that the client (3.0.12) does not: its lease, who took its name, its joins, what nobody owns.

A static member that comes back is given what its predecessor had at the last rebalance. Where that was the first of the two
by which partitions move, the predecessor would have asked for the second, and nobody else does: what it had to give up
stays with nobody, and what it had of a topic that was not there yet is nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, TopicPartition, errors
from kafka.consumer import group
from kafka.coordinator.base import UNKNOWN_MEMBER_ID
from kafka.coordinator.consumer import ConsumerCoordinator
from kafka.protocol.admin import DescribeGroupsRequest
from kafka.protocol.consumer import ConsumerProtocolAssignment, HeartbeatRequest
from kafka.structs import ConsumerGroupMetadata

_SETTLED = "Stable"
# How the client calls a broker by its connection for groups.
_OF_GROUPS = "coordinator-"
# What a heartbeat is answered while its member has its name to itself: joined, or about to join anew under the member id that it has.
_CONFIRMED = (errors.NoError, errors.RebalanceInProgressError, errors.IllegalGenerationError)
_COORDINATOR_MOVED = (errors.CoordinatorNotAvailableError, errors.NotCoordinatorError)


class UnjoinedError(errors.KafkaError):  # type: ignore[misc]
    """No member of its group at the moment; once it has joined anew it is the later of whoever bears its name."""


class Member:
    """What this process is in its group, whichever consumer it has by now."""

    def __init__(self) -> None:
        self.consumer: KafkaConsumer | None = None
        self._id, self._is_new = UNKNOWN_MEMBER_ID, True

    def take(self, consumer: KafkaConsumer) -> None:
        """One that has not joined yet. A static member joins as who it was: where another process has its name by now, the group refuses it."""
        consumer._coordinator.go_on_as(self._id)
        self.consumer = consumer

    def let_go(self) -> KafkaConsumer | None:
        """The consumer at hand, from now on that of the caller."""
        consumer = self.consumer
        if consumer is not None:
            self._id = consumer._coordinator._generation.member_id
            self._is_new = self._is_new and consumer._coordinator.is_new
            self.consumer = None
        return consumer

    @property
    def is_to_join(self) -> bool:
        """Whether that takes a poll."""
        coordinator = None if self.consumer is None else self.consumer._coordinator
        return coordinator is None or bool(coordinator.rejoining or coordinator._generation.is_lost())

    def confirm(self) -> None:
        """Ask the group. Raises FencedInstanceIdError where another process has taken this static member's name, else KafkaError.

        Whoever has not begun to join has nothing to ask: who has its name learns of it as it joins.
        """
        consumer = self.consumer
        if self._is_new and (consumer is None or consumer._coordinator.is_new):
            return
        if consumer is None:
            raise UnjoinedError("it has no consumer")
        try:
            consumer._coordinator._net.run(consumer._coordinator.confirm)
        except RuntimeError as error:
            raise UnjoinedError("its consumer was given up meanwhile") from error


@dataclass(frozen=True, slots=True, eq=False)
class Lease:
    """Proof of the membership under which records were read."""

    membership: ConsumerGroupMetadata
    member: Member

    @classmethod
    def of(cls, member: Member) -> Lease:
        """As of now, of one that has a consumer."""
        assert member.consumer is not None
        return cls(member.consumer.group_metadata(), member)

    @property
    def is_static(self) -> bool:
        """Whether the group tells who bears this name."""
        return self.membership.group_instance_id is not None

    def is_renewed(self) -> bool:
        """Whether there is a later generation."""
        return self.member.consumer is None or bool(self.member.consumer.group_metadata().generation_id != self.membership.generation_id)

    def is_succeeded_by_itself(self) -> bool:
        """Whether this very member has joined anew, as when the group's leader changes: the broker calls its own earlier id fenced."""
        return self.member.consumer is None or bool(self.member.consumer.group_metadata().member_id != self.membership.member_id)


def is_fenced(consumer: KafkaConsumer) -> bool:
    """A static member whose name another process has taken: the client stops its heartbeats, goes on reading and says nothing (3.0.12)."""
    coordinator = consumer._coordinator
    with coordinator._lock:
        is_joined = coordinator.stable() and not coordinator.rejoining
        return bool(is_joined and not coordinator.is_dynamic_member() and not coordinator._heartbeat_enabled)


class _Coordinator(ConsumerCoordinator):  # type: ignore[misc]
    """The client's own, but that a join once begun is finished, however short the polls and however long what lies between."""

    _join_task: Any
    _asked, _is_beside = 0, False
    is_new = True
    """Until it first asks to be let in."""

    def go_on_as(self, member_id: str) -> None:
        """Before the first join: a static member's id, which the group knows unless its session timed out."""
        if not self.is_dynamic_member():
            self.reset_generation(member_id)

    async def maybe_leave_group_async(self, reason: str | None = None, timeout_ms: float | None = None) -> None:
        """The client forgets the id of a static member too that has not polled for long, which does not leave: it could take its name back."""
        member_id = self._generation.member_id
        await super().maybe_leave_group_async(reason, timeout_ms)
        self.go_on_as(member_id)

    def need_rejoin(self) -> bool:
        """A leader that joins anew because the partitions changed would forget about it after one poll: no heartbeats, no way back."""
        return bool(super().need_rejoin() or self.rejoining)

    def group_protocols(self) -> Any:
        """As it asks to be let in. A member claims what it has; the client's would claim what it had before it was expelled, or made anew, too."""
        self.is_new = False
        for assignor in self._assignors.values():
            assignor.member_assignment = sorted(self._subscription.assigned_partitions())
        told = super().group_protocols()
        for _, metadata in told:
            metadata.user_data = b"%d" % self._asked
        return told

    def ask_for_rebalance(self) -> None:
        """Whoever does not lead the group and joins anew is given what it has, unless it tells something new of itself."""
        self._asked += 1
        self.request_rejoin()

    async def _on_join_complete_async(self, generation: int, member_id: str, protocol: str, assignment: bytes) -> None:
        """Where a static member is given what its predecessor had, of topics too that it does not read, the client takes none, and asks in vain."""
        await super()._on_join_complete_async(generation, member_id, protocol, assignment)
        given = {partition.topic for partition in ConsumerProtocolAssignment.decode(assignment).partitions()}
        if not given <= (self._subscription.subscription or set()):
            self.ask_for_rebalance()

    def coordinator(self) -> Any:
        """By its connection for the group, or, for committed offsets while a join waits there for others, by that for records."""
        found = super().coordinator()
        if found is None or not self._is_beside:
            return found
        self._is_beside = False
        return int(str(found).removeprefix(_OF_GROUPS))

    async def _send_offset_fetch_request(self, partitions: Sequence[TopicPartition]) -> Any:
        """The broker answers what comes by one connection one after the other."""
        self._is_beside = self.rejoining
        return await super()._send_offset_fetch_request(partitions)

    async def confirm(self) -> None:
        """Raises FencedInstanceIdError where another process has the name, UnjoinedError where this one has to join anew first, else KafkaError.

        On the client's I/O thread, where the membership changes; by the connection for records while a join waits on that for the group.
        """
        member_id = self._generation.member_id
        self._is_beside = self.rejoining
        node = self.coordinator()
        self._is_beside = False
        if node is None or not self._generation.has_member_id():
            raise UnjoinedError("it is about to join")
        request = HeartbeatRequest(
            group_id=self.group_id, generation_id=self._generation.generation_id, member_id=member_id, group_instance_id=self.group_instance_id
        )
        answer = await self._manager.send(request, node_id=node)
        told = errors.for_code(answer.error_code)
        if told in _CONFIRMED:
            return
        if told in _COORDINATOR_MOVED:
            self.coordinator_dead(told())
        if told is errors.UnknownMemberIdError or self._generation.member_id != member_id:
            raise UnjoinedError("it has to join anew")
        raise told(f"group {self.group_id}, member {self.group_instance_id}")

    def reset_generation(self, member_id: str = UNKNOWN_MEMBER_ID) -> None:
        """Whoever is expelled while it joins is told too that what it had is lost: it may be given it again when others have gone on with it."""
        super().reset_generation(member_id)
        self.rejoining = False

    async def join_group_async(self, timeout_ms: float | None = None) -> Any:
        """What ended since the last poll would be thrown away and begun anew: where a leader does, the whole group, over and over."""
        ended = self._join_task
        if ended is not None and ended.is_done:
            # The client takes every timeout for that of the poll, after which the task goes on.
            is_void = isinstance(ended.exception, errors.KafkaTimeoutError) or (ended.exception is None and self._generation.is_lost())
            self._join_task = None if is_void else self._manager.call_soon(_outcome, ended)
        return await super().join_group_async(timeout_ms)


async def _outcome(ended: Any) -> Any:
    return await ended


def finish_joins() -> None:
    """For every consumer that this process makes from now on; may be called twice."""
    group.ConsumerCoordinator = _Coordinator


class GroupWatch:
    """Looks once in each generation that lasts whether every partition has an owner; asks for a rebalance until it has."""

    def __init__(self) -> None:
        self._generation = -1
        self._is_whole = False

    def look(self, consumer: KafkaConsumer, topics: Sequence[str], timeout_ms: int) -> list[TopicPartition]:
        """The partitions that nobody owns, for which a rebalance was asked; at the first look of a generation none. Raises KafkaError."""
        generation = consumer.group_metadata().generation_id
        if generation != self._generation or generation < 0:
            self._generation, self._is_whole = generation, False
            return []
        if self._is_whole:
            return []
        owned = _owned(consumer, timeout_ms)
        if owned is None:
            return []
        every = {TopicPartition(topic, number) for topic in topics for number in consumer.partitions_for_topic(topic) or ()}
        self._is_whole = owned >= every
        if not self._is_whole:
            consumer._coordinator.ask_for_rebalance()
        return sorted(every - owned)


def _owned(consumer: KafkaConsumer, timeout_ms: int) -> set[TopicPartition] | None:
    """What the members of the group have, as the broker knows it; None while they join. Raises KafkaError."""
    coordinator = consumer._coordinator
    if coordinator.coordinator() is None:
        return None
    told = coordinator._net.run(_described, coordinator, timeout_ms)
    if told.error_code:
        raise errors.for_code(told.error_code)()
    if told.group_state != _SETTLED:
        return None
    assignments = [ConsumerProtocolAssignment.decode(member.member_assignment) for member in told.members if member.member_assignment]
    return {partition for assignment in assignments for partition in assignment.partitions()}


async def _described(coordinator: Any, timeout_ms: int) -> Any:
    request = DescribeGroupsRequest(groups=[coordinator.group_id], include_authorized_operations=False)
    answer = await coordinator._manager.wait_for(coordinator._manager.send(request, node_id=coordinator.coordinator()), timeout_ms)
    (told,) = answer.groups
    return told
