"""A replay flat out, from files and from the embedded log, against the same records judged in memory; and what the export adds.

`python -m tests.benchmarks.replay` prints it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pyarrow import csv

from anomaly_daemon.adapters.checkpoint_store import FsspecCheckpointStore
from anomaly_daemon.adapters.checkpointers import SavedCheckpoints
from anomaly_daemon.adapters.clock import SystemClock
from anomaly_daemon.adapters.file_source import FileSource
from anomaly_daemon.adapters.range_source import RangeSource, Wanted
from anomaly_daemon.adapters.replay_sink import ReplaySink
from anomaly_daemon.adapters.score_export import ParquetExport
from anomaly_daemon.adapters.sqlite_source import SqliteSource
from anomaly_daemon.adapters.sqlite_topics import SqliteTopics
from anomaly_daemon.domain.ports import Source
from anomaly_daemon.domain.records import Message, Record
from anomaly_daemon.pipeline.loop import Loop, LoopSettings
from anomaly_daemon.telemetry import logging
from anomaly_daemon.telemetry.metrics import Metrics
from tests.benchmarks import pipeline
from tests.benchmarks.measure import Measure

_RECORDS, _ENTITIES = 300_000, 1_000


def measure(rounds: int = 3) -> list[Measure]:
    """All ways in turn, medians of ratios over the rounds."""
    torch.set_num_threads(1)
    found = _named(pipeline.records(_ENTITIES, _RECORDS))
    ratios: dict[str, list[float]] = {"files": [], "parquet": [], "csv": [], "embedded_log": [], "export": []}
    with TemporaryDirectory() as name:
        folder = Path(name)
        sources = {"files": _file(found, folder), **_tables(found, folder), "embedded_log": _embedded(found, folder)}
        for _ in range(rounds):
            memory = _RECORDS / _in_memory(found)
            rates = {kind: _RECORDS / _replayed(make(), folder, None) for kind, make in sources.items()}
            exporting = _RECORDS / _replayed(sources["files"](), folder, folder / "scores.parquet")
            print(
                f"  in memory {memory:,.0f}/s, "
                + ", ".join(f"{kind} {rate:,.0f}/s" for kind, rate in rates.items())
                + f", exporting {exporting:,.0f}/s"
            )
            for kind, rate in rates.items():
                ratios[kind].append(rate / memory)
            ratios["export"].append(rates["files"] / exporting - 1)
    return [
        Measure("replay_from_files_over_memory", float(np.median(ratios["files"])), 0.9, "ratio", "higher"),
        Measure("replay_from_parquet_over_memory", float(np.median(ratios["parquet"])), 0.9, "ratio", "higher"),
        Measure("replay_from_csv_over_memory", float(np.median(ratios["csv"])), 0.9, "ratio", "higher"),
        Measure("replay_from_embedded_log_over_memory", float(np.median(ratios["embedded_log"])), 0.8, "ratio", "higher"),
        Measure("replay_export_cost", float(np.median(ratios["export"])), 0.1, "share", "lower"),
    ]


def _named(records: list[Record]) -> list[Record]:
    """The entity as a field, which is where a file has it."""
    return [
        Record(one.partition, one.offset, 0, one.key, json.dumps({"entity": (one.key or b"").decode(), **json.loads(one.value or b"")}).encode())
        for one in records
    ]


def _file(records: list[Record], folder: Path) -> Callable[[], Source]:
    path = folder / "readings.jsonl"
    path.write_bytes(b"".join((one.value or b"") + b"\n" for one in records))
    return lambda: FileSource(str(path), "readings", pipeline.BATCH)


def _tables(records: list[Record], folder: Path) -> dict[str, Callable[[], Source]]:
    """The same as Parquet and as CSV."""
    table = pa.Table.from_pylist([json.loads(one.value or b"") for one in records])
    pq.write_table(table, folder / "readings.parquet")
    csv.write_csv(table, folder / "readings.csv")
    paths = {kind: str(folder / f"readings.{kind}") for kind in ("parquet", "csv")}
    return {kind: partial(FileSource, path, "readings", pipeline.BATCH) for kind, path in paths.items()}


def _embedded(records: list[Record], folder: Path) -> Callable[[], Source]:
    path, clock = folder / "topics.db", SystemClock()
    topics = SqliteTopics(path, clock)
    topics.create("readings", 1)
    topics.append(Message("readings", one.key, one.value) for one in records)
    topics.close()
    return lambda: SqliteSource(path, ["readings"], None, "one", pipeline.BATCH, 30.0, clock)


def _in_memory(records: list[Record]) -> float:
    built = pipeline.processor(entity="entity")
    started = time.perf_counter()
    for batch in pipeline.batches(records):
        built.process(batch, {})
    seconds = time.perf_counter() - started
    built.close()
    return seconds


def _replayed(source: Source, folder: Path, export: Path | None) -> float:
    """Seconds of the loop over the whole source, opening and closing of files included."""
    built = pipeline.processor(entity="entity")
    started = time.perf_counter()
    span = RangeSource(source, Wanted(), SystemClock())
    scores = ParquetExport(export, built.channels, is_forced=True) if export is not None else None
    store = FsspecCheckpointStore(str(folder / "checkpoints"), "replay", 1)
    with closing(ReplaySink(folder / "alerts.jsonl", "alerts", span.reported, is_forced=True)) as sink:
        settings = LoopSettings("f" * 64, 0.1, float("inf"), 10, None, False, until_end=True)
        Loop(span, sink, built, SavedCheckpoints(store), SystemClock(), Metrics(), settings, scores).run()
        if scores is not None:
            scores.close()
    seconds = time.perf_counter() - started
    span.close()
    built.close()
    return seconds


if __name__ == "__main__":
    logging.configure("error", "json")
    for one in measure():
        print(one.line())
