"""When incidents were told to a reader that knows only Kafka, against when the records that opened them were written."""

from __future__ import annotations

import json
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from kafka import KafkaConsumer, TopicPartition

from tests.benchmarks.stream import PARTITIONS

_OPENED = b"anomaly_daemon.incident.opened.v1"
_POLL_RECORDS = 4096


@dataclass(frozen=True, slots=True)
class Arrival:
    """An opened incident at the reader: when, by the wall clock, and the record that opened it."""

    at_ms: float
    partition: int
    offset: int


class OpenedReader:
    """Plain kafka-python at read_committed, from the end of the alerts topic on."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._consumer = KafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed", metrics_enabled=False)
        partition = TopicPartition(topic, 0)
        self._consumer.assign([partition])
        self._consumer.seek_to_end(partition)
        self._consumer.position(partition)
        self.arrivals: list[Arrival] = []

    def poll(self, timeout_s: float) -> None:
        """Take what arrives within this time; returns as soon as something did."""
        for found in self._consumer.poll(timeout_ms=round(timeout_s * 1000)).values():
            at_ms = time.time() * 1000
            for record in found:
                if dict(record.headers)["ce_type"] == _OPENED:
                    source = json.loads(record.value)["source_records"]
                    self.arrivals.append(Arrival(at_ms, source["partition"], source["first_offset"]))

    def close(self) -> None:
        self._consumer.close()


def timestamps_ms(bootstrap: str, topic: str) -> list[Sequence[int]]:
    """Kafka's timestamp of every record, by partition number and offset; of a topic that nobody wrote to in transactions."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, max_poll_records=_POLL_RECORDS, metrics_enabled=False)
    partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    ends = consumer.end_offsets(partitions)
    found = [array("q") for _ in partitions]
    while any(len(found[partition.partition]) < ends[partition] for partition in partitions):
        for partition, records in consumer.poll(timeout_ms=1000).items():
            found[partition.partition].extend(record.timestamp for record in records)
    consumer.close()
    return list(found)


def latencies_ms(arrivals: Sequence[Arrival], written_ms: Sequence[Sequence[int]]) -> list[float]:
    """From the timestamp of the record to the arrival of what it opened, in the order of arrival."""
    return [arrival.at_ms - written_ms[arrival.partition][arrival.offset] for arrival in arrivals]
