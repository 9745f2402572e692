"""The producer: readings of some pumps, a share of them faulty and some records broken, written by plain kafka-python at a steady rate."""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from kafka import KafkaProducer
from kafka.errors import KafkaError

from tests.chaos.reader import Groups
from tests.small import NAMES

ENTITIES = 24
RECORDS_PER_S = 400
_PERIOD_S = 0.05
_FAULTY_EVERY, _FAULTY_FOR = 90, 25
_BROKEN_SHARE, _MISSING_SHARE = 0.02, 0.03
# Longer than any broker is away: what was given up would be counted as written and never be committed.
_DELIVERY_TIMEOUT_S, _RECONNECT_S_MAX = 3600, 1


def readings(seed: int) -> Iterator[tuple[int, bytes]]:
    """Entity number and value, without end; one minute of event time from each to the next."""
    dice = random.Random(seed)
    seen = [0] * ENTITIES
    time_s = 1_700_000_000
    while True:
        entity = dice.randrange(ENTITIES)
        step = seen[entity]
        seen[entity] += 1
        time_s += 60
        values = [math.sin(step / period + entity) + dice.gauss(0, 0.05) for period in (3.0, 5.0, 7.0)]
        if entity % 2 == 0 and (step + 11 * entity) % _FAULTY_EVERY >= _FAULTY_EVERY - _FAULTY_FOR:
            values[1] += 6
        body: dict[str, float | None] = {name: round(value, 5) for name, value in zip(NAMES, values, strict=True)}
        if dice.random() < _MISSING_SHARE:
            body["flow"] = None
        body["time"] = time_s
        yield entity, b"{broken" if dice.random() < _BROKEN_SHARE else json.dumps(body).encode()


class Feed:
    """Writes in a thread of its own while the block goes on, never more than `ahead_max` records ahead of the group's commits.

    A broker that is away is waited for: what the topic holds in the end is the input, whatever was meant to be written.
    partitions: an entity's records go to the partition of its number; with more partitions, to that of the next ones.
    """

    def __init__(
        self, bootstrap: str, topic: str, group: str, partitions: int, seed: int, *, rate: int = RECORDS_PER_S, ahead_max: int = 1500
    ) -> None:
        self._bootstrap, self._topic, self._group, self.partitions = bootstrap, topic, group, partitions
        self._rate, self._ahead_max = rate, ahead_max
        self._readings = readings(seed)
        self._is_done = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self.written = 0

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_done.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def at(self, rate: int, ahead_max: int) -> Iterator[None]:
        """Another load meanwhile: records a second, and how far ahead of the commits."""
        usual = self._rate, self._ahead_max
        self._rate, self._ahead_max = rate, ahead_max
        try:
            yield
        finally:
            self._rate, self._ahead_max = usual

    def write(self, count: int) -> None:
        """So many at once, from the caller's thread; not while the block goes on."""
        producer = self._producer()
        self._send(producer, count)
        producer.flush(timeout=60)
        producer.close()

    def _run(self) -> None:
        try:
            self._write_on()
        except BaseException as error:  # raised where the block ends
            self._failure = error

    def _write_on(self) -> None:
        producer, groups = self._producer(), Groups(self._bootstrap)
        started_s = time.monotonic()
        due = 0.0
        while not self._is_done.wait(_PERIOD_S):
            elapsed_s, started_s = time.monotonic() - started_s, time.monotonic()
            due = min(due + elapsed_s * self._rate, self._rate)
            try:
                behind = self.written - sum(groups.committed(self._group, self._topic).values())
                count = min(int(due), self._ahead_max - behind)
                if count > 0:
                    self._send(producer, count)
                    due -= count
                    producer.flush(timeout=60)
            except KafkaError:
                continue
        producer.close(timeout=60)
        groups.close()

    def _producer(self) -> KafkaProducer:
        return KafkaProducer(
            bootstrap_servers=self._bootstrap,
            metrics_enabled=False,
            linger_ms=5,
            metadata_max_age_ms=1000,
            reconnect_backoff_max_ms=1000 * _RECONNECT_S_MAX,
            delivery_timeout_ms=1000 * _DELIVERY_TIMEOUT_S,
        )

    def _send(self, producer: KafkaProducer, count: int) -> None:
        # The client learns of new partitions within a second.
        partitions = min(self.partitions, len(producer.partitions_for(self._topic)))
        for _ in range(count):
            entity, value = next(self._readings)
            producer.send(self._topic, value, b"pump-%d" % entity, partition=entity % partitions)
            self.written += 1
