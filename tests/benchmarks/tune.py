"""How long `tune` takes over ten million scored records, reading included, and how much memory it grows by.

`python -m tests.benchmarks.tune` prints it. The export is synthetic: a thousand entities, deviations with heavy tails, a fault now and then.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anomaly_daemon.adapters.score_rows import schema
from tests import small
from tests.benchmarks.measure import Measure, peak_mib

ROWS, ENTITIES, GROUP_ROWS = 10_000_000, 1000, 65_536
_CHANNELS = ("prediction", "reconstruction")


def measure(rows: int = ROWS) -> list[Measure]:
    """Each solve in a process of its own: seconds from the first byte read, and growth of its resident memory since its imports."""
    with tempfile.TemporaryDirectory() as folder:
        scores = Path(folder) / "scores.parquet"
        write_scores(scores, rows)
        print(f"  {rows:,} rows, {scores.stat().st_size / 2**20:,.0f} MiB")
        command = [sys.executable, "-m", "tests.benchmarks.tune", str(scores)]
        told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"  {told['incidents']} incidents at z {told['z']}, {told['kept']:,} rows kept from z {told['floor']:.2f} on")
    return [
        Measure("tune_seconds_10m_rows", told["seconds"], 10.0, "s", "lower"),
        Measure("tune_memory_growth", told["grown_mib"], 1024, "MiB", "lower"),
    ]


def write_scores(path: Path, rows: int) -> None:
    """One record a minute of each entity in turn; deviations are Student's t, and in two stretches in a hundred thousand rows a fault."""
    generator = np.random.default_rng(0)
    told = {"format": 1, "settings": small.settings("threshold.z=4").model_dump(mode="json"), "started_from": "nothing", "partitions": {}}
    columns = schema(_CHANNELS, {"anomaly_daemon": json.dumps(told)})
    names = pa.array([f"pump-{number}" for number in range(ENTITIES)], pa.string())
    with pq.ParquetWriter(path, columns, compression="zstd", compression_level=1, use_dictionary=["topic", "entity", "phase"]) as writer:
        for first in range(0, rows, GROUP_ROWS):
            offsets = np.arange(first, min(first + GROUP_ROWS, rows))
            writer.write_table(_group(generator, offsets, names, columns))


def _group(generator: np.random.Generator, offsets: np.ndarray, names: object, columns: object) -> object:
    count, entity, turn = len(offsets), offsets % ENTITIES, offsets // ENTITIES
    deviations = generator.standard_t(5, count)
    deviations[((entity * 7919 + turn) % 9973) < 12] += 6
    numbers = {name: pa.array(generator.random(count)) for name in ("anomaly_score", "tail_probability", "threshold", "grade", *_CHANNELS)}
    return pa.table(
        {
            "topic": pa.array(["readings"] * count),
            "partition": pa.array(np.zeros(count, np.int32)),
            "offset": pa.array(offsets),
            "entity": names.take(pa.array(entity)),  # type: ignore[attr-defined]
            "timestamp": pa.array(1_700_000_000_000_000 + 60_000_000 * turn).cast(pa.timestamp("us", "UTC")),
            "is_anomaly": pa.array(deviations > 4),
            "phase": pa.array(["live"] * count),
            "incident_id": pa.array([None] * count, pa.string()),
            "deviations": pa.array(deviations),
            **numbers,
        },
        columns,
    )


def solve_once(scores: Path) -> None:
    """One solve, told as JSON; for a process of its own."""
    from anomaly_daemon import wiring
    from anomaly_daemon.evaluation.tuning.request import parse_budget
    from anomaly_daemon.evaluation.tuning.tuned import Wish, tune

    settings = small.settings("threshold.z=4")
    wiring.build_rules(settings)
    before_mib = peak_mib()
    began_s = time.perf_counter()
    tuned = tune(scores, settings, Wish("budget 20/day", 0.6, budget=parse_budget("20/day")), wiring.build_rules)
    told = {
        "seconds": time.perf_counter() - began_s,
        "grown_mib": peak_mib() - before_mib,
        "incidents": len(tuned.incidents),
        "z": tuned.settings.threshold.z,
        "kept": len(tuned.rows.value),
        "floor": tuned.rows.floor,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        solve_once(Path(sys.argv[1]))
    else:
        for one in measure():
            print(one.line())
