"""Ten million simulated records replayed, exported, reported and tuned, each by its own command: seconds and peak memory.

`python -m tests.benchmarks.history [RECORDS]` prints it; about six minutes for ten million on two cores.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks.measure import Measure

REPOSITORY = Path(__file__).parents[2]
RECORDS, _ENTITIES, _MEMORY_MIB = 10_000_000, 1_000, 3 * 1024
_CHILD = """
import sys
from anomaly_daemon.cli import main
from tests.benchmarks.measure import peak_mib
code = main(sys.argv[1:])
print("peak_mib", peak_mib())
sys.exit(code)
"""


def measure(records: int = RECORDS) -> list[Measure]:
    """The largest of the peaks."""
    days = max(2, math.ceil(records / (_ENTITIES * 1440)))
    configuration = [
        "-c",
        str(REPOSITORY / "configs" / "demo.yaml"),
        "--log-format",
        "json",
        "--set",
        "logging.level=error",
        "--set",
        "record.entity=entity",
    ]
    commands = [
        ["simulate", "sensors", "--output", "readings.jsonl", "--entities", str(_ENTITIES), "--duration", f"{days}d", "--labels", "labels.csv"],
        ["train", "--source", "readings.jsonl", "--to", "2026-01-02", "--entities", "pump-*[05]", "--set", "training.epochs=3"],
        ["replay", "--source", "readings.jsonl", "--export", "scores.parquet", "--report", "report.html"],
        ["tune", "--scores", "scores.parquet", "--budget", "20/day", "--output", "patch.yaml"],
    ]
    peaks = []
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with TemporaryDirectory() as folder:
        for command in commands:
            started = time.perf_counter()
            words = [*command, *configuration]
            found = subprocess.run([sys.executable, "-c", _CHILD, *words], cwd=folder, capture_output=True, text=True, check=False, env=environment)
            if found.returncode:
                raise RuntimeError(f"{' '.join(words)}: {found.stderr[-2000:]}")
            peak = float(found.stdout.rsplit("peak_mib", 1)[1])
            print(f"  {command[0]:9s} {time.perf_counter() - started:6.1f} s, peak {peak:,.0f} MiB", flush=True)
            if command[0] in ("replay", "tune"):
                peaks.append(peak)
        size_mib = (Path(folder) / "report.html").stat().st_size / 2**20
    return [
        Measure("history_10m_peak_memory", max(peaks), _MEMORY_MIB, "MiB", "lower"),
        Measure("history_10m_report_size", size_mib, 15, "MiB", "lower"),
    ]


if __name__ == "__main__":
    for one in measure(*map(int, sys.argv[1:])):
        print(one.line())
