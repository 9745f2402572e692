"""What brokers tell of offsets, where some of them do not answer and some partitions have no leader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaTimeoutError, LeaderNotAvailableError

from anomaly_daemon.domain.records import Offset, Partition

T = TypeVar("T")

SOON_MS = 1_000


class NoLeaderError(LeaderNotAvailableError):  # type: ignore[misc]
    """Of a partition, by the client's name."""

    def __init__(self, name: TopicPartition) -> None:
        super().__init__(f"{Partition(*name)} has no leader")
        self.name = name


def led(ask: Callable[..., T], *arguments: object, **options: object) -> T:
    """What the client answers: of several partitions it leaves out the one that has no leader, and stumbles over that (3.0.12). Raises KafkaError."""
    try:
        return ask(*arguments, **options)
    except KeyError as error:
        if not (error.args and isinstance(error.args[0], TopicPartition)):
            raise
        raise NoLeaderError(error.args[0]) from error


def ends_told(consumer: KafkaConsumer, names: Sequence[TopicPartition], timeout_ms: int, *, is_reading: bool) -> dict[Partition, Offset]:
    """The last stable offsets of these, as far as any broker tells some. Raises KafkaError where none does, or not soon to one that is reading."""
    soon_ms = min(SOON_MS, timeout_ms)
    try:
        return _ends_led(consumer, names, soon_ms)
    except KafkaTimeoutError:
        if is_reading:
            raise
    by_leader: dict[object, list[TopicPartition]] = {}
    for name in names:
        by_leader.setdefault(consumer._cluster.leader_for_partition(name), []).append(name)
    for of_one in by_leader.values() if len(by_leader) > 1 else ():
        with suppress(KafkaTimeoutError):
            return _ends_led(consumer, of_one, soon_ms)
    return _ends_led(consumer, names, max(soon_ms, timeout_ms - soon_ms))


def _ends_led(consumer: KafkaConsumer, names: Sequence[TopicPartition], timeout_ms: int) -> dict[Partition, Offset]:
    """Of those that have a leader."""
    left = list(names)
    while left:
        try:
            return {Partition(*name): int(end) for name, end in led(consumer.end_offsets, left, timeout_ms=timeout_ms).items()}
        except NoLeaderError as error:
            left.remove(error.name)
    return {}
