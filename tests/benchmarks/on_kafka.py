"""The daemon's loop on a real broker, against what the client and the engine allow: 1 / (1/X + 1/E).

X: raw consume rate of kafka-python, E: bytes to alerts in memory; all three in one run, in turn.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import uuid
from pathlib import Path

from anomaly_daemon import wiring
from anomaly_daemon.adapters.checkpoint_store import FsspecCheckpointStore
from anomaly_daemon.adapters.checkpointers import BackgroundCheckpoints
from anomaly_daemon.adapters.clock import SystemClock
from anomaly_daemon.domain.ports import Sink
from anomaly_daemon.domain.records import Message
from anomaly_daemon.model.artifact import Artifact
from anomaly_daemon.pipeline.loop import Loop, LoopSettings
from anomaly_daemon.settings import Settings
from anomaly_daemon.telemetry.metrics import Metrics
from tests.benchmarks import kafka_rates, pipeline
from tests.benchmarks.measure import Measure
from tests.kafka.broker import shared_broker

RECORDS, ENTITIES, PARTITIONS = 240_000, 1_000, 4
Marks = list[tuple[float, int]]  # after each batch: when, by the performance counter, and how many records were done


def measure(rounds: int = 3) -> list[Measure]:
    """Medians over the rounds. Raises ToolsMissingError without Java and Maven."""
    bootstrap = shared_broker().bootstrap
    found = pipeline.records(ENTITIES, RECORDS)
    topic = f"readings-{uuid.uuid4().hex[:8]}"
    settings = pipeline.settings().model_copy(update={"log": f"kafka://{bootstrap}"})
    topics = wiring.open_topics(settings)
    try:
        for name, count in ((topic, PARTITIONS), (f"{topic}.alerts", 1), (f"{topic}.dead", 1)):
            topics.create(name, count)
        topics.append(Message(topic, record.key, record.value) for record in found)
    finally:
        topics.close()
    shares = []
    for _ in range(rounds):
        raw = kafka_rates.raw_consume_per_s(bootstrap, topic, RECORDS)
        engine = pipeline.rate(found[60_000:180_000], found[:60_000])
        daemon = _daemon_rate(bootstrap, topic)
        bound = 1 / (1 / raw + 1 / engine)
        shares.append(daemon / bound)
        print(f"  raw consume {raw:,.0f}/s, in memory {engine:,.0f}/s, bound {bound:,.0f}/s, daemon {daemon:,.0f}/s")
    return [Measure("kafka_rate_over_bound", statistics.median(shares), 0.7, "ratio", "higher")]


def _daemon_rate(bootstrap: str, topic: str) -> float:
    """Records a second from the first commit to the last, transactions included."""
    base = pipeline.settings()
    settings = base.model_copy(
        update={
            "log": f"kafka://{bootstrap}",
            "input": base.input.model_copy(update={"topics": (topic,), "group": f"bench-{uuid.uuid4().hex[:8]}", "member": "bench"}),
            "output": base.output.model_copy(update={"alerts_topic": f"{topic}.alerts", "dead_letter_topic": f"{topic}.dead"}),
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        return rate(run_to_end(settings, pipeline.artifact(), Path(folder)))


def rate(marks: Marks) -> float:
    """Records a second from the first batch to the last."""
    (first_s, first), (last_s, last) = marks[0], marks[-1]
    return (last - first) / (last_s - first_s)


def run_to_end(settings: Settings, artifact: Artifact, checkpoints_at: Path, sink: Sink | None = None) -> Marks:
    """The daemon's loop in this process, from where its group stands to the end of the log. sink: in place of that of the settings."""
    marks: Marks = []
    processor, fingerprint, _ = wiring.build_processor(settings, artifact, clock=SystemClock())
    source = wiring.open_source(settings, group=settings.input.group)
    sink = wiring.open_sink(settings, source) if sink is None else sink
    checkpoints = BackgroundCheckpoints(FsspecCheckpointStore(str(checkpoints_at), settings.input.group, 2))
    loop = Loop(
        source,
        sink,
        processor,
        checkpoints,
        SystemClock(),
        Metrics(),
        LoopSettings(fingerprint, 0.2, 60.0, 20.0, None, True, until_end=True),
        progress=lambda done, _total: marks.append((time.perf_counter(), done)),
    )
    loop.run()
    for opened in (checkpoints, source, sink, processor):
        opened.close()
    return marks
