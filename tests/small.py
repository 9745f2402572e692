"""A small detector for tests: three features, eight units, trained in a second; and streams for it to judge."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import get_args

import numpy as np

from anomaly_daemon import settings as settings_of
from anomaly_daemon import wiring
from anomaly_daemon.domain.records import Alert, Batch, BatchOutput, Checkpoint, Offset, Partition, Record
from anomaly_daemon.model.artifact import Artifact
from anomaly_daemon.model.corpus import EntitySequence
from anomaly_daemon.model.fitting import fit
from anomaly_daemon.pipeline.process import Processor
from anomaly_daemon.settings.evidence import ChannelName
from anomaly_daemon.state.checkpoint import digest

EVERY_CHANNEL = f"evidence.channels=[{', '.join(get_args(ChannelName))}]"
NAMES = ("flow", "pressure", "current")
P = Partition("readings", 0)
ASSIGNMENTS = (
    "record.features=[{name: flow}, {name: pressure}, {name: current}]",
    "record.time={path: time, format: s}",
    "model.hidden=8",
    "model.code=4",
    "model.scale_observations=20",
    "training.epochs=2",
    "engine.ring=16",
    "engine.resident_max=64",
    "threshold.warmup_observations=12",
    "threshold.z=2",
    "threshold.suspect_z=2",
    "incidents.trigger={count: 2, of: 3}",
    "incidents.recovery={count: 3, of: 3}",
    "incidents.window_points=4",
    "regime.after=1d",
)

# What the small artifact is trained anew for.
TRAINED = ("model.layers", "model.scale", "model.tails", "model.per", "model.network", "evidence.level", "evidence.residual")


def settings(*assignments: str) -> settings_of.Settings:
    return settings_of.load((), (*ASSIGNMENTS, *assignments), {})


@cache
def artifact(*assignments: str) -> Artifact:
    """Trained with these settings over the small ones, on pump-0 to pump-3."""
    generator = np.random.default_rng(0)
    sequences = [EntitySequence(f"pump-{number}", signal(generator, 240, number), np.full(240, 60.0)) for number in range(4)]
    return fit(sequences, settings(EVERY_CHANNEL, *assignments), NAMES)


def signal(generator: np.random.Generator, steps: int, entity: int) -> np.ndarray:
    """float32 [steps, 3]: sines of their own phase with a little noise."""
    phase = np.arange(steps)[:, None] / np.array([3.0, 5.0, 7.0]) + entity
    return (np.sin(phase) + 0.05 * generator.normal(size=(steps, 3))).astype(np.float32)


def stream(seed: int, entities: int, length: int, *, faulty: bool = True, partition: Partition = P, with_bad: bool = False) -> list[Record]:
    """Records of several pumps in random order; some values missing, some entities faulty towards the end, some records bad."""
    generator = np.random.default_rng(seed)
    signals = [signal(generator, length, entity) for entity in range(entities)]
    chosen = generator.integers(0, entities, length)
    seen = [0] * entities
    records = []
    for offset, entity in enumerate(chosen.tolist()):
        values = signals[entity][seen[entity]].copy()
        if faulty and entity % 2 == 0 and seen[entity] > 0.7 * length / entities:
            values[1] += 6
        seen[entity] += 1
        body: dict[str, float | None] = {name: round(float(value), 5) for name, value in zip(NAMES, values, strict=True)}
        if generator.random() < 0.03:
            body["flow"] = None
        body["time"] = 1_700_000_000 + 60 * offset
        value = b"{broken" if with_bad and generator.random() < 0.05 else json.dumps(body).encode()
        records.append(Record(partition, offset, 0, b"pump-%d" % entity, value))
    return records


@dataclass(frozen=True)
class Outcome:
    """All that a detector made of a stream."""

    alerts: tuple[Alert, ...]
    scores: Mapping[str, bytes]
    rejected: tuple[Offset, ...]
    state: Mapping[Partition, str]


def processor(*assignments: str) -> tuple[Processor, str]:
    """A fresh one with the small artifact, and the fingerprint of its state."""
    trained = [assignment for assignment in assignments if assignment.split("=")[0] in TRAINED]
    built, fingerprint, _ = wiring.build_processor(settings(*assignments), artifact(*trained))
    return built, fingerprint


def judge(records: Sequence[Record], cuts: Sequence[int] = (), *assignments: str, restart_at: int | None = None) -> Outcome:
    """Judge a stream cut into batches at these places; with `restart_at`, through a checkpoint into a fresh process state."""
    built, fingerprint = processor(*assignments)
    partitions = sorted({record.partition for record in records})
    for partition in partitions:
        built.begin(partition)
    edges = sorted({0, *(cut for cut in cuts if 0 < cut < len(records)), *([restart_at] if restart_at else []), len(records)})
    outputs: list[BatchOutput] = []
    for first, last in itertools.pairwise(edges):
        if restart_at == first and first > 0:
            saved = [snapshot(built, partition, first, fingerprint) for partition in partitions]
            built.close()
            built, fingerprint = processor(*assignments)
            for checkpoint in saved:
                built.restore(checkpoint)
        outputs.append(built.process(Batch(records[first:last]), {}))
    state = {partition: digest(snapshot(built, partition, 0, fingerprint)) for partition in partitions}
    built.close()
    return Outcome(
        tuple(alert for output in outputs for alert in output.alerts),
        _joined(outputs),
        tuple(rejection.record.offset for output in outputs if output.scored for rejection in output.scored.rejections),
        state,
    )


def snapshot(built: Processor, partition: Partition, offset: Offset, fingerprint: str) -> Checkpoint:
    return built.snapshot(partition, offset, fingerprint)


def is_sound(name: str, column: np.ndarray) -> bool:
    """Whether a column of the state holds finite numbers, and beside them only what stands for nothing: NaN, or infinity at an empty place."""
    values = column.astype(np.float64)
    if name in ("ring", "reconstruction", "feature_last_values"):
        return not bool(np.isinf(values).any())
    if name in ("novelty.memory", "adaptive.memory"):
        return not bool(np.isnan(values).any())
    return bool(np.isfinite(values).all())


def _joined(outputs: Sequence[BatchOutput]) -> dict[str, bytes]:
    """Bytes of every score column over all batches, so that NaN equals NaN and a differing bit shows."""
    parts = [output.scored.scores for output in outputs if output.scored is not None]
    names = ("anomaly_score", "tail_probability", "threshold", "is_anomaly", "grade", "phase", "deviations")
    columns = {name: np.concatenate([getattr(part, name) for part in parts]).tobytes() for name in names}
    return columns | {name: np.concatenate([part.evidence[name] for part in parts]).tobytes() for name in parts[0].evidence}
