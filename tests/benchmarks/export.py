"""What exporting scores costs: the same batches with and without an export, in turn, to the closed and durable file."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from anomaly_daemon.adapters.score_export import ParquetExport
from anomaly_daemon.domain.records import Record
from tests.benchmarks.measure import Measure
from tests.benchmarks.pipeline import artifact, batches, processor, records

COST_GOAL = 0.10


def seconds(found: list[Record], warm: list[Record], path: Path | None) -> float:
    """From bytes to alerts, and to exported rows where a path says so."""
    built = processor()
    for batch in batches(warm):
        built.process(batch, {})
    with ExitStack() as opened:
        opened.callback(built.close)
        started = time.perf_counter()
        export = opened.enter_context(closing(ParquetExport(path, built.channels))) if path is not None else None
        for batch in batches(found):
            output = built.process(batch, {})
            if export is not None:
                export.write(output)
        if export is not None:
            export.close()
        return time.perf_counter() - started


def measure(rounds: int = 5) -> list[Measure]:
    """The share of a replay's time that the export adds, median over rounds."""
    torch.set_num_threads(1)
    artifact()
    made = records(1_000, 340_000)
    warm, found = made[:20_000], made[20_000:]
    shares = []
    with TemporaryDirectory() as folder:
        for number in range(rounds):
            plain = seconds(found, warm, None)
            exporting = seconds(found, warm, Path(folder) / f"{number}.parquet")
            shares.append(exporting / plain - 1)
            print(f"  without {len(found) / plain:,.0f}/s, with export {len(found) / exporting:,.0f}/s")
    return [Measure("export_cost", float(np.median(shares)), COST_GOAL, "share of replay time", "lower")]
