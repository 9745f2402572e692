"""How long a checkpoint of many entities holds the loop up, against a batch: the real loop on the embedded log.

`python -m tests.benchmarks.checkpoint` prints it.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from anomaly_daemon.adapters.checkpoint_store import FsspecCheckpointStore
from anomaly_daemon.adapters.checkpointers import BackgroundCheckpoints
from anomaly_daemon.adapters.clock import SystemClock
from anomaly_daemon.adapters.sqlite_sink import SqliteSink
from anomaly_daemon.adapters.sqlite_source import SqliteSource
from anomaly_daemon.adapters.sqlite_topics import SqliteTopics
from anomaly_daemon.domain.records import Batch, Checkpoint, Message
from anomaly_daemon.pipeline.loop import Loop, LoopSettings
from anomaly_daemon.telemetry import logging
from anomaly_daemon.telemetry.metrics import Metrics
from tests.benchmarks import pipeline
from tests.benchmarks.measure import Measure

_ENTITIES, _RECORDS, _WARM = 86_000, 600_000, 200_000
_EVERY_S = 0.7


class _Timed(SqliteSource):
    """Notes when each poll began and ended."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, ["readings"], "benchmark", "one", pipeline.BATCH, 30.0, SystemClock())
        self.times: list[tuple[float, float, int]] = []

    def poll(self, timeout_s: float) -> Batch:
        began_s = time.perf_counter()
        batch = super().poll(timeout_s)
        self.times.append((began_s, time.perf_counter(), len(batch.records)))
        return batch


class _Noted(BackgroundCheckpoints):
    """Notes the entities of each checkpoint handed over."""

    def __init__(self, folder: Path) -> None:
        super().__init__(FsspecCheckpointStore(str(folder), "benchmark", 2))
        self.taken: list[tuple[float, int]] = []

    def save(self, checkpoint: Checkpoint) -> bool:
        is_taken = super().save(checkpoint)
        if is_taken:
            self.taken.append((time.perf_counter(), len(checkpoint.entities)))
        return is_taken


def measure() -> list[Measure]:
    """In a process of its own, as the daemon is: what other measures left in this one would be gone through again and again."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        return alone.submit(measure_here).result()


def measure_here() -> list[Measure]:
    """The longest step of the loop while checkpoints go on, less a usual step, over a usual step."""
    logging.configure("error", "json")
    with tempfile.TemporaryDirectory() as folder:
        usual_s, _, none = _steps(Path(folder) / "without", every_s=1e9)
        with_s, longest, taken = _steps(Path(folder) / "with", every_s=_EVERY_S)
    told = ", ".join(f"{seconds * 1e3:.0f}" for seconds in longest)
    print(f"  usual step {usual_s * 1e3:.0f} ms without, {with_s * 1e3:.0f} ms with; longest {told} ms; {taken} entities")
    assert not none
    return [Measure("checkpoint_pause_over_batch", max(0.0, statistics.median(longest) - usual_s) / usual_s, 1.0, "ratio", "lower")]


def _steps(folder: Path, every_s: float) -> tuple[float, list[float], list[int]]:
    """Median step with all entities known, the longest step before each checkpoint was whole, and the checkpoints' entities."""
    folder.mkdir()
    clock, path = SystemClock(), folder / "topics.db"
    topics = SqliteTopics(path, clock)
    topics.create("readings", 1)
    topics.create("alerts", 1)
    topics.append(Message("readings", record.key, record.value) for record in pipeline.records(_ENTITIES, _RECORDS))
    topics.close()
    source, checkpoints = _Timed(path), _Noted(folder / "checkpoints")
    processor = pipeline.processor(resident_max=_ENTITIES)
    settings = LoopSettings("f" * 64, 0.1, every_s, 60.0, None, True, until_end=True)
    Loop(source, SqliteSink(path, "benchmark", clock), processor, checkpoints, clock, Metrics(), settings).run()
    processor.close()
    source.close()
    checkpoints.close()
    steps, seen = [], 0
    for (_, ended_s, records), (began_s, _, _) in zip(source.times, source.times[1:], strict=False):
        seen += records
        if seen > _WARM:
            steps.append((began_s, began_s - ended_s))
    usual_s = statistics.median(seconds for _, seconds in steps)
    whole = [at_s for at_s, entities in checkpoints.taken[:-1] if entities > 0.9 * _ENTITIES and at_s > steps[0][0] + _EVERY_S]
    longest = [max(seconds for began_s, seconds in steps if at_s - _EVERY_S < began_s <= at_s + 0.5) for at_s in whole]
    return usual_s, longest, [entities for _, entities in checkpoints.taken[:-1]]


if __name__ == "__main__":
    for one in measure_here():
        print(one.line())
