"""A stream without end for a daemon on a real broker, and a process that writes it at once: pumps in turn, some of them at fault once in a round.

A round repeats: the readings of every pump are a whole number of periods. So a stream is as long as one likes for the memory of one round.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from kafka import KafkaProducer
from numpy.typing import NDArray

FEATURES, PARTITIONS = 8, 4
NAMES = tuple(f"channel_{number}" for number in range(FEATURES))
ROUND_RECORDS = 200_000
FAULT_STEPS = 6
_PERIODS = np.array([20, 25, 40, 50, 50, 100, 100, 200])
_NOISE, _FAULT = 0.1, 8.0
_STEP_MS = 60_000
_START_MS = 1_767_225_600_000
_DELIVERY_TIMEOUT_S = 120
SPAWN = multiprocessing.get_context("spawn")


def signal(entity: int, steps: NDArray[np.int64]) -> NDArray[np.float32]:
    """[steps, features], without faults; the same whenever it is asked for."""
    noise = np.random.default_rng(entity).normal(size=(len(steps), FEATURES))
    values: NDArray[np.float32] = (np.sin(2 * np.pi * steps[:, None] / _PERIODS + entity) + _NOISE * noise).astype(np.float32)
    return values


@dataclass(frozen=True, slots=True)
class Pumps:
    """How many there are, and that every how manieth of them is at fault once in a round; 0: none."""

    count: int = 1_000
    faulty_every: int = 0


def records(pumps: Pumps, first: int, count: int) -> Iterator[tuple[int, bytes, bytes]]:
    """Partition, key and value of 200 bytes of the records `first` and on: pump and partition in turn, a minute between two of a pump."""
    bodies, entities = _round(pumps), pumps.count
    for number in range(first, first + count):
        entity = number % entities
        time_ms = _START_MS + number * _STEP_MS // entities
        yield number % PARTITIONS, b"pump-%06d" % entity, b'{"timestamp": %d, %s' % (time_ms, bodies[number % len(bodies)])


def write(bootstrap: str, topic: str, first: int, count: int, pumps: Pumps) -> None:
    """All of them at once, from a process of its own; written when this returns."""
    process = SPAWN.Process(target=_write, args=(bootstrap, topic, first, count, pumps), name="writer", daemon=True)
    process.start()
    process.join()
    assert process.exitcode == 0, f"the writer ended with {process.exitcode}"


@cache
def _round(pumps: Pumps) -> list[bytes]:
    """A round of readings without their time; a pump at fault has one feature wrong for some records."""
    entities, steps = pumps.count, ROUND_RECORDS // pumps.count
    values = np.stack([signal(entity, np.arange(steps)) for entity in range(entities)], axis=1)
    for entity in range(0, entities, pumps.faulty_every) if pumps.faulty_every else ():
        begin = (entity * 37) % (steps - FAULT_STEPS)
        values[begin : begin + FAULT_STEPS, entity, entity % FEATURES] += _FAULT
    rows = np.round(values.astype(np.float64), 4).reshape(-1, FEATURES).tolist()
    return [json.dumps(dict(zip(NAMES, row, strict=True)))[1:].encode() for row in rows]


def _write(bootstrap: str, topic: str, first: int, count: int, pumps: Pumps) -> None:
    """In the child. What could not be written ends it."""
    producer = KafkaProducer(
        bootstrap_servers=bootstrap,
        compression_type="lz4",
        linger_ms=5,
        batch_size=64 << 10,
        metrics_enabled=False,
        delivery_timeout_ms=_DELIVERY_TIMEOUT_S * 1000,
    )
    for partition, key, value in records(pumps, first, count):
        last = producer.send(topic, value, key, partition=partition)
    producer.flush(timeout=_DELIVERY_TIMEOUT_S)
    last.get(timeout=_DELIVERY_TIMEOUT_S)
    producer.close()
