"""How fast the embedded log appends and polls records of 200 bytes; `python -m tests.benchmarks.embedded_log` prints it."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from anomaly_daemon.adapters.clock import SystemClock
from anomaly_daemon.adapters.sqlite_source import SqliteSource
from anomaly_daemon.adapters.sqlite_topics import SqliteTopics
from anomaly_daemon.domain.records import Message

GOAL_PER_S = 100_000
_RECORDS = 200_000
_ENTITIES = 1000
_PARTITIONS = 4
_ROUNDS = 3


def measure() -> dict[str, float]:
    """append_per_s and poll_per_s, each the median of three rounds on a new file."""
    rounds = [_round() for _ in range(_ROUNDS)]
    return {name: statistics.median(rates[name] for rates in rounds) for name in ("append_per_s", "poll_per_s")}


def _round() -> dict[str, float]:
    clock = SystemClock()
    value = b'{"value": 1.0, "text": "' + b"x" * 174 + b'"}'
    messages = [Message("readings", f"pump-{number % _ENTITIES}".encode(), value) for number in range(_RECORDS)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "topics.db"
        topics = SqliteTopics(path, clock)
        topics.create("readings", _PARTITIONS)
        started_s = time.perf_counter()
        topics.append(messages)
        append_s = time.perf_counter() - started_s
        topics.close()

        source = SqliteSource(path, ["readings"], "benchmark", "one", 4096, 30.0, clock)
        for partition in source.poll(1.0).changes[0].partitions:
            source.seek(partition, 0)
        polled = 0
        started_s = time.perf_counter()
        while polled < _RECORDS:
            polled += len(source.poll(1.0).records)
        poll_s = time.perf_counter() - started_s
        source.close()
    return {"append_per_s": _RECORDS / append_s, "poll_per_s": _RECORDS / poll_s}


if __name__ == "__main__":
    for name, rate in measure().items():
        print(f"{name} {rate:,.0f} (goal {GOAL_PER_S:,})")
