"""`make bench`: every measure with its goal, one line each, and the same in build/benchmarks.json.

Ratios have both sides in one run. Without Java 17 and Maven the Kafka measures are left out, and that is said.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from anomaly_daemon.telemetry import logging
from tests.benchmarks import checkpoint, delivery, embedded_log, export, history, lstm_memory, on_kafka, pipeline, replay, skab, transactions, tune
from tests.benchmarks.measure import Measure
from tests.kafka.broker import ToolsMissingError

OUTPUT = Path("build/benchmarks.json")


def main() -> int:
    print(f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}, Python {platform.python_version()}")
    logging.configure("error", "json")
    measures: list[Measure] = []
    for title, collect in (
        ("command line", command_line),
        ("embedded log, 200-byte records", embedded),
        ("bytes to alerts in memory", pipeline.measure),
        ("scores exported on the way", export.measure),
        ("a checkpoint of 86 k entities in one partition", checkpoint.measure),
        ("replay", replay.measure),
        ("tune, 10 M scored records", tune.measure),
        ("10 M simulated records replayed, exported, reported, tuned", history.measure),
        ("through Kafka", lambda: where_kafka_is(on_kafka.measure)),
        ("exactly once through Kafka: what it costs, and how soon", lambda: where_kafka_is(delivery.measure)),
        ("what an LSTM and a vanilla RNN remember", remembered),
        ("SKAB through the embedded log", skab.measure),
        ("frauds on simulated cards", transactions.measure),
    ):
        print(f"{title}:", flush=True)
        for measure in collect():
            print(measure.line(), flush=True)
            measures.append(measure)
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps({measure.name: measure.entry() for measure in measures}, indent=1) + "\n")
    print(f"written to {OUTPUT}")
    return 0


def command_line(rounds: int = 7) -> list[Measure]:
    """How long a person waits for `--help`, and for the demo."""
    command = [sys.executable, "-m", "anomaly_daemon", "--help"]
    seconds = [_seconds(command) for _ in range(rounds)]
    with tempfile.TemporaryDirectory() as folder:
        demo = _seconds([sys.executable, "-m", "anomaly_daemon", "demo", "--directory", folder])
    return [Measure("help_seconds", statistics.median(seconds), 0.2, "s", "lower"), Measure("demo_seconds", demo, 60, "s", "lower")]


def embedded() -> list[Measure]:
    """Appending to and polling from the embedded log."""
    found = embedded_log.measure()
    return [Measure(f"embedded_log_{name}", value, 100_000, "records/s", "higher") for name, value in found.items()]


def remembered() -> list[Measure]:
    """Error of an LSTM, which must hold a number over that many steps, and of a vanilla RNN, which loses it."""
    return [
        Measure(
            f"{name}_error", error, *((lstm_memory.ERROR_HELD, "share", "lower") if "lstm" in name else (lstm_memory.ERROR_LOST, "share", "higher"))
        )
        for name, error in lstm_memory.measure().items()
    ]


def where_kafka_is(collect: Callable[[], list[Measure]]) -> list[Measure]:
    """Measures that need a real broker; none where there is none."""
    try:
        return collect()
    except ToolsMissingError as error:
        print(f"  left out: {error}")
        return []


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
