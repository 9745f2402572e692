"""An independent reader: plain kafka-python at read_committed, none of the product's code. It says what is in a topic, nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import MemberToRemove
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaError

READ_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 60.0
LOOK_S = 0.1
_SOON = {"request_timeout_ms": 3_000, "bootstrap_timeout_ms": 3_000}
T = TypeVar("T")


def read(bootstrap: str, topic: str, isolation: str = "read_committed") -> list[ConsumerRecord]:
    """Every record that such a reader sees, in order per partition. Raises AssertionError where a transaction is never ended."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, isolation_level=isolation, auto_offset_reset="earliest", metrics_enabled=False)
    try:
        partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
        ends = end_offsets(bootstrap, topic)
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        deadline_s = time.monotonic() + READ_TIMEOUT_S
        found: list[ConsumerRecord] = []
        # By position, not by the last record: control records and aborted transactions occupy offsets too.
        while any(consumer.position(partition) < ends[partition.partition] for partition in partitions):
            assert time.monotonic() < deadline_s, f"{topic}: a transaction stays open: {isolation} does not reach {ends}"
            for records in consumer.poll(timeout_ms=200).values():
                found += records
        return sorted(found, key=lambda record: (record.partition, record.offset))
    finally:
        consumer.close()


def end_offsets(bootstrap: str, topic: str) -> dict[int, int]:
    """Behind everything written, by open and aborted transactions too; asked again where a broker does not answer. Raises KafkaError."""

    def ask() -> dict[int, int]:
        with closing(KafkaConsumer(bootstrap_servers=bootstrap, metrics_enabled=False, **_SOON)) as consumer:
            partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
            return {partition.partition: int(end) for partition, end in consumer.end_offsets(partitions).items()}

    return answered(ask)


def answered(ask: Callable[[], T]) -> T:
    """What is told within a time, asked again where a broker does not answer or has just come back: another may know by then. Raises KafkaError."""
    deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
    while True:
        try:
            return ask()
        except KafkaError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(LOOK_S)


class Groups:
    """What groups have committed, by partition number; one client, made anew where a broker does not answer."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._admin: KafkaAdminClient | None = None

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """The next offset of each partition that the group ever committed. Raises KafkaError."""

        def ask() -> dict[int, int]:
            try:
                offsets = self._connected().list_group_offsets([group])[group]
            except KafkaError:
                self.close()
                raise
            return {partition.partition: int(at.offset) for partition, at in offsets.items() if partition.topic == topic and at.offset >= 0}

        return answered(ask)

    def remove(self, group: str, *members: str) -> None:
        """Take static members out of the group, as whoever scales down does."""
        self._connected().remove_group_members(group, [MemberToRemove(group_instance_id=member) for member in members])

    def close(self) -> None:
        if self._admin is not None:
            self._admin.close()
            self._admin = None

    def _connected(self) -> KafkaAdminClient:
        if self._admin is None:
            self._admin = KafkaAdminClient(bootstrap_servers=self._bootstrap, **_SOON)
        return self._admin
