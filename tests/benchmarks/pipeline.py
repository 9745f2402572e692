"""Bytes to alerts in memory, on one thread, against the loop one would write first.

The naive loop: `json.loads`, a deque of 32 rows per entity, and for every record the whole window encoded and rebuilt
by the same network, one record at a time.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import chain

import numpy as np
import psutil
import torch

from anomaly_daemon import settings as settings_of
from anomaly_daemon import wiring
from anomaly_daemon.domain.records import Batch, Partition, Record
from anomaly_daemon.model.artifact import Artifact
from anomaly_daemon.model.corpus import EntitySequence
from anomaly_daemon.model.fitting import fit
from anomaly_daemon.pipeline.process import Processor
from tests.benchmarks.measure import Measure

FEATURES, HIDDEN, WINDOW, BATCH = 8, 64, 32, 4096
PARTITION = Partition("readings", 0)
START_S = 1_767_225_600  # 2026-01-01
ALL = settings_of.Evidence().channels
NETWORK = ("prediction", "reconstruction")
MEMORIES = ("novelty", "adaptive")
SMALL = tuple(f"evidence.{name}.remembered=32" for name in MEMORIES)
TRAINED = (*ALL, "conditional", "surprise")
NAMES = tuple(f"channel_{number}" for number in range(FEATURES))
NO_RULES = ("quality.clock_ahead=null",)
RULES = {
    "silence": ("incidents.silence_after=1h",),
    "clock_skew": ("quality.clock_ahead=5m",),
    "late": ("quality.late=1h",),
    "stuck": ("quality.stuck_after=1h",),
    "out_of_range": (f"record.features=[{', '.join(f'{{name: {name}, possible: [-9, 9]}}' for name in NAMES)}]",),
}


def settings(entity: str = "key", channels: Sequence[str] = ALL, rules: Sequence[str] = (), **engine: int) -> settings_of.Settings:
    """F=8, H=64, S8K8, a ring of 32; rules: assignments as on the command line."""
    features = ", ".join(f"{{name: {name}}}" for name in NAMES)
    assignments = [
        f"record.features=[{features}]",
        "record.time.path=timestamp",
        f"record.entity={entity}",
        f"model.hidden={HIDDEN}",
        "model.code=16",
        "training.epochs=3",
        f"evidence.channels=[{', '.join(channels)}]",
        *rules,
    ]
    return settings_of.load((), assignments + [f"engine.{key}={value}" for key, value in engine.items()], {})


@cache
def artifact() -> Artifact:
    """A network trained a little on the very signal that the benchmark sends."""
    generator = np.random.default_rng(0)
    steps = np.arange(600)
    sequences = [EntitySequence(f"e{number}", _signal(generator, steps, number).astype(np.float32), np.full(600, 60.0)) for number in range(16)]
    return fit(sequences, settings(channels=TRAINED), NAMES)


def _signal(generator: np.random.Generator, steps: np.ndarray, entity: int) -> np.ndarray:
    phase = steps[:, None] / (8.0 + np.arange(FEATURES)) + entity
    return np.round(np.sin(phase) + 0.1 * generator.normal(size=(len(steps), FEATURES)), 4)


def records(entities: int, count: int) -> list[Record]:
    """JSON records of about 200 bytes, entities in random order, each written when it says; a thousand a second."""
    generator = np.random.default_rng(1)
    chosen = generator.integers(0, entities, count)
    seen: dict[int, int] = defaultdict(int)
    noise = 0.1 * generator.normal(size=(count, FEATURES))
    made = []
    for offset, entity in enumerate(chosen.tolist()):
        step = seen[entity]
        seen[entity] += 1
        values = np.round(np.sin(step / (8.0 + np.arange(FEATURES)) + entity) + noise[offset], 4).tolist()
        time_s = START_S + offset // 1000
        body = dict(zip(NAMES, values, strict=True)) | {"timestamp": datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
        made.append(Record(PARTITION, offset, time_s * 1000, b"pump-%06d" % entity, json.dumps(body).encode()))
    return made


def batches(found: list[Record]) -> Iterator[Batch]:
    """Micro-batches as a poll would bring them."""
    for first in range(0, len(found), BATCH):
        yield Batch(found[first : first + BATCH])


def processor(entity: str = "key", channels: Sequence[str] = ALL, rules: Sequence[str] = (), **engine: int) -> Processor:
    """The product's own state machine, from the product's own wiring."""
    built, _, _ = wiring.build_processor(settings(entity, channels, rules, **engine), artifact())
    built.begin(PARTITION)
    return built


def rate(found: list[Record], warm: list[Record], channels: Sequence[str] = ALL, rules: Sequence[str] = (), **engine: int) -> float:
    """Records a second of CPU time, from bytes to alerts, the entities already known."""
    built = processor("key", channels, rules, **engine)
    for batch in batches(warm):
        built.process(batch, {})
    started = time.process_time()
    for batch in batches(found):
        built.process(batch, {})
    seconds = time.process_time() - started
    built.close()
    return len(found) / seconds


def state_bytes(channels: Sequence[str]) -> int:
    """What an entity takes in memory."""
    built = processor("key", channels)
    found = built.table.bytes_per_entity
    built.close()
    return found


@torch.inference_mode()
def naive_rate(found: list[Record]) -> float:
    """The same of the naive loop."""
    model, scale = artifact().model, artifact().scale
    windows: dict[str, deque[list[float]]] = defaultdict(lambda: deque(maxlen=WINDOW))
    levels: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 1.0))
    started = time.process_time()
    for record in found:
        body = json.loads(record.value)
        entity = record.key.decode()
        windows[entity].append([body[name] for name in NAMES])
        window = torch.from_numpy(scale.transform(np.array(windows[entity])))
        top, _ = model.step(model.inputs(window, torch.zeros(len(window)))[:, None], model.initial(1))
        rebuilt = model.reconstruct(model.encode(top[-1]), len(window))[0].flip(0)
        error = float(torch.log(((rebuilt - window) ** 2).mean() + 1e-6))
        mean, variance = levels[entity]
        is_anomaly = error > mean + 4 * variance**0.5
        rate_of_learning = 0.0001 if is_anomaly else 0.001
        levels[entity] = (mean + rate_of_learning * (error - mean), (1 - rate_of_learning) * (variance + rate_of_learning * (error - mean) ** 2))
    return len(found) / (time.process_time() - started)


def growth_mib(found: list[Record], passes: int) -> float:
    """How much resident memory grows over so many passes, after the first one."""
    built = processor()
    process = psutil.Process()
    for batch in batches(found):
        built.process(batch, {})
    before = process.memory_info().rss
    for _ in range(passes):
        for batch in batches(found):
            built.process(batch, {})
    grown = process.memory_info().rss - before
    built.close()
    return grown / 2**20


def _shares(found: list[Record], known: list[Record], rounds: int) -> float:
    """What is left of the throughput of reconstruction alone, beside what, printed: medians over rounds taken in turn. Returns that of all nine."""
    every = ("conditional", "surprise", *MEMORIES)
    beside = ((), ("conditional",), ("surprise",), *((name,) for name in MEMORIES), every)
    shares, small = [], []
    for _ in range(rounds):
        alone = rate(found, known, ("reconstruction",))
        shares.append([rate(found, known, (*ALL, *more)) / alone for more in beside])
        small.append(rate(found, known, (*ALL, *every), SMALL) / alone)
    entities = len({record.key for record in found})
    print(f"  {entities:,} entities, {len(known) // entities:,} records of each known, of reconstruction alone:")
    for more, share in zip(beside, np.median(shares, axis=0), strict=True):
        print(f"    {' and '.join(('the five', *more))} {share:.2f}")
    print(f"    all of them with memories of 32 values in place of 256: {np.median(small):.2f}")
    return float(np.median(shares, axis=0)[-1])


def _print_rules(found: list[Record], known: list[Record], rounds: int) -> None:
    """What watching for silence and for each fault of records leaves of the throughput without, the five channels at work."""
    shares = []
    for _ in range(rounds):
        without = rate(found, known, rules=NO_RULES)
        shares.append([rate(found, known, rules=(*NO_RULES, *rule)) / without for rule in (*RULES.values(), tuple(chain(*RULES.values())))])
    told = ", ".join(f"{name} {share:.2f}" for name, share in zip((*RULES, "all of them"), np.median(shares, axis=0), strict=True))
    print(f"  of the five channels alone with {told}")


def measure(rounds: int = 3) -> list[Measure]:
    """Both sides of a ratio in turn, medians over the rounds."""
    torch.set_num_threads(1)
    artifact()
    few, many = records(1_000, 120_000), records(100_000, 320_000)
    speedups, every, scalings, shares = [], [], [], []
    for _ in range(rounds):
        slow = naive_rate(few[:2_000])
        fast = rate(few[40_000:], few[:40_000])
        alone = rate(few[40_000:], few[:40_000], ("reconstruction",))
        network = rate(few[40_000:], few[:40_000], NETWORK)
        wide = rate(many[200_000:], many[:200_000], resident_max=200_000)
        speedups.append(network / slow)  # the loop knows no more than the network either
        every.append(fast / slow)
        scalings.append(wide / fast)
        shares.append(fast / alone)
        print(f"  naive {slow:,.0f}/s, 1 k entities {fast:,.0f}/s, with reconstruction alone {alone:,.0f}/s, 100 k entities {wide:,.0f}/s")
    for name in (*TRAINED, *MEMORIES):
        print(f"  {name} alone {rate(few[40_000:], few[:40_000], (name,)):,.0f}/s, {state_bytes((name,))} bytes an entity")
    _shares(few[40_000:], few[:40_000], rounds)
    old = records(100, 160_000)
    nine = _shares(old[120_000:], old[:120_000], rounds)
    _print_rules(few[40_000:], few[:40_000], rounds)
    return [
        Measure("memory_rate_over_naive", float(np.median(speedups)), 60, "ratio", "higher"),
        Measure("memory_rate_over_naive_all_channels", float(np.median(every)), 40, "ratio", "higher"),
        Measure("rate_100k_entities_over_1k", float(np.median(scalings)), 0.8, "ratio", "higher"),
        Measure("default_channels_rate_over_reconstruction", float(np.median(shares)), 0.5, "ratio", "higher"),
        Measure("nine_channels_rate_over_reconstruction", nine, 0.5, "ratio", "higher"),
        Measure("state_bytes_per_entity", float(state_bytes(NETWORK)), 1700, "bytes", "lower"),
        Measure("state_bytes_per_entity_all_channels", float(state_bytes(ALL)), 2400, "bytes", "lower"),
        Measure("resident_growth_over_1m_records_mib", growth_mib(few[:100_000], 10), 16, "MiB", "lower"),
    ]
