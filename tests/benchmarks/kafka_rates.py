"""How fast records of 200 bytes (JSON, lz4) go in and out of Kafka; `python -m tests.benchmarks.kafka_rates` starts a broker and prints it.

`raw_consume_per_s` is the client alone, with the arguments of the daemon's source: the bound that the daemon is compared with.
"""

from __future__ import annotations

import itertools
import json
import os
import time
import uuid
from collections.abc import Iterator

from kafka import KafkaConsumer, TopicPartition

from anomaly_daemon.adapters.kafka_client import consumer_arguments, open_client
from anomaly_daemon.adapters.kafka_sink import KafkaSink
from anomaly_daemon.adapters.kafka_source import KafkaSource
from anomaly_daemon.adapters.kafka_topics import KafkaTopics
from anomaly_daemon.domain.records import BatchOutput, Message
from anomaly_daemon.settings import Kafka

RECORDS = 300_000
PARTITIONS = 4
BATCH_RECORDS = 4096
ALERT_EVERY = 100
RECORD_BYTES = 200
_ENTITIES = 1000
_NOBODY_ANSWERS_S = 60.0


def messages(topic: str, count: int = RECORDS) -> Iterator[Message]:
    """Records of eight numbers, 200 bytes each, of a thousand entities in turn."""
    for number in range(count):
        readings = {f"feature_{index}": round((number * 7919 + index * 104_729) % 100_003 / 1000, 3) for index in range(8)}
        yield Message(topic, b"pump-%d" % (number % _ENTITIES), json.dumps(readings).ljust(RECORD_BYTES).encode())


def filled_topic(bootstrap: str, count: int = RECORDS) -> tuple[str, float]:
    """A new topic with so many records, and the rate per second at which they were appended."""
    topics, topic = KafkaTopics(bootstrap, Kafka()), f"rates-{uuid.uuid4().hex[:12]}"
    topics.create(topic, PARTITIONS)
    made = list(messages(topic, count))
    started_s = time.perf_counter()
    topics.append(made)
    appended_s = time.perf_counter() - started_s
    topics.close()
    return topic, count / appended_s


def raw_consume_per_s(bootstrap: str, topic: str | None = None, count: int = RECORDS) -> float:
    """kafka-python alone: polls of 4096 records, nothing done with them. Without a topic one is filled first."""
    topic = topic or filled_topic(bootstrap, count)[0]
    consumer = open_client(KafkaConsumer, consumer_arguments(bootstrap, Kafka(), None, "rates", BATCH_RECORDS))
    partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    consumer.assign(partitions)
    for partition in partitions:
        consumer.seek(partition, 0)
    consumed, started_s = 0, time.perf_counter()
    while consumed < count and time.perf_counter() - started_s < _NOBODY_ANSWERS_S:
        consumed += sum(map(len, consumer.poll(1000).values()))
    rate = consumed / (time.perf_counter() - started_s)
    consumer.close()
    return rate


def source_per_s(bootstrap: str, topic: str, count: int = RECORDS) -> float:
    """The daemon's source: the same, as records of the domain."""
    source = KafkaSource(bootstrap, Kafka(), [topic], None, "rates", BATCH_RECORDS)
    _seek_to_start(source)
    consumed, started_s = 0, time.perf_counter()
    while consumed < count:
        consumed += len(source.poll(1.0).records)
    rate = consumed / (time.perf_counter() - started_s)
    source.close()
    return rate


def transactions_per_s(bootstrap: str, topic: str, count: int = RECORDS) -> tuple[float, list[float]]:
    """Records per second through source and sink, one alert per hundred, one transaction per batch; and each commit's seconds."""
    topics, alerts, group = KafkaTopics(bootstrap, Kafka()), f"{topic}-alerts", f"group-{uuid.uuid4().hex[:12]}"
    topics.create(alerts, 1)
    topics.close()
    source = KafkaSource(bootstrap, Kafka(), [topic], group, "rates", BATCH_RECORDS)
    sink = KafkaSink(bootstrap, Kafka(), f"{group}-rates")
    _seek_to_start(source)
    consumed, commits_s, started_s = 0, [], time.perf_counter()
    while consumed < count:
        batch = source.poll(1.0)
        if batch.records:
            told = tuple(Message(alerts, record.key, record.value) for record in itertools.islice(batch.records, 0, None, ALERT_EVERY))
            began_s = time.perf_counter()
            sink.commit(BatchOutput(told, {record.partition: record.offset + 1 for record in batch.records}, batch.lease))
            commits_s.append(time.perf_counter() - began_s)
            consumed += len(batch.records)
    rate = consumed / (time.perf_counter() - started_s)
    sink.close()
    source.close()
    return rate, commits_s


def _seek_to_start(source: KafkaSource) -> None:
    owned = 0
    while owned < PARTITIONS:
        for change in source.poll(1.0).changes:
            owned += len(change.partitions)
            for partition in change.partitions:
                source.seek(partition, 0)


def main() -> None:
    """Print each rate."""
    from tests.kafka.broker import start_broker

    bootstrap = os.environ.get("KAFKA_BOOTSTRAP") or start_broker().bootstrap
    topic, appended = filled_topic(bootstrap)
    print(f"append_per_s {appended:,.0f}")
    print(f"raw_consume_per_s {raw_consume_per_s(bootstrap, topic):,.0f}")
    print(f"source_per_s {source_per_s(bootstrap, topic):,.0f}")
    rate, commits_s = transactions_per_s(bootstrap, topic)
    commits_s.sort()
    print(f"transactions_per_s {rate:,.0f}; commit p50 {commits_s[len(commits_s) // 2] * 1000:.0f} ms, longest {commits_s[-1] * 1000:.0f} ms")


if __name__ == "__main__":
    main()
