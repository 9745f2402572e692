"""More than there is room for: entities beyond the table, one key for nearly all records, a partition far behind, a device without memory."""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from anomaly_daemon import wiring
from anomaly_daemon.adapters.checkpoint_store import FsspecCheckpointStore
from anomaly_daemon.channels.engine import Engine
from anomaly_daemon.domain.records import Batch, Partition, Record
from anomaly_daemon.pipeline.process import Processor
from anomaly_daemon.state.checkpoint import digest
from tests.faults.verdict import Verdict
from tests.small import P, artifact, judge, settings, snapshot, stream

_BATCH = 4096
_WATCHED = 8
_GROWTH_MAX_MIB = 64
_Q = Partition("readings", 1)


def run(is_full: bool, seed: int) -> Iterator[Verdict]:
    """One after the other, in this process."""
    yield entity_flood(*((10_000_000, 100_000, 1_000_000) if is_full else (200_000, 2_000, 20_000)), seed)
    yield hot_key(40_000 if is_full else 4_000, seed)
    yield partition_behind(20_000 if is_full else 2_000, seed)
    yield device_without_memory(20_000 if is_full else 2_000, seed)


def entity_flood(keys: int, resident_max: int, entities_max: int, seed: int) -> Verdict:
    """Keys that come once, a few that go on: memory stays where the table is full, and those few are judged as if they were alone."""
    watched = _in_turn(stream(seed, _WATCHED, 60 * _WATCHED))
    every = keys // len(watched)
    assert resident_max < every * _WATCHED < entities_max, "whoever goes on must be evicted each time, and not forgotten"
    failures = []
    alone, _ = _flooded(_processor(resident_max, entities_max), iter(watched))
    with closing(_processor(resident_max, entities_max)) as built:
        among, memory = _flooded(built, _flood(watched, keys, every))
        recovery_s, checkpoint_mib = _recovered(built, resident_max, entities_max)
        table = built.table
        held = f"{table.entities - table.spilled} entities in memory, {table.spilled} on disk"
        if table.entities - table.spilled > resident_max or table.entities > entities_max:
            failures.append(f"beyond the bound: {held}")
    if not np.array_equal(among, alone, equal_nan=True):
        failures.append("entities that were evicted did not come back as they were")
    full = entities_max / keys
    grown_mib = (memory[-1] - memory[int(len(memory) * min(0.5, 2 * full))]) / 2**20
    if grown_mib > _GROWTH_MAX_MIB:
        failures.append(f"memory grew by {grown_mib:.0f} MiB once the table was full")
    told = f"{held}; {grown_mib:+.0f} MiB since it was full; recovery {recovery_s:.1f} s from a checkpoint of {checkpoint_mib:.0f} MiB"
    return Verdict(f"{keys} keys under a table of {resident_max}, {entities_max} remembered", keys, tuple(failures), told)


def hot_key(records: int, seed: int) -> Verdict:
    """Nine of ten records of one entity: the same bits however they are cut; what it costs is told."""
    hot = _hot(records, random.Random(seed))
    spread = [replace_key(one, b"pump-%d" % (one.offset % 64)) for one in hot]
    seconds = []
    for chosen in (spread, hot):
        began_s = time.perf_counter()
        whole = judge(chosen, range(_BATCH, len(chosen), _BATCH))
        seconds.append(time.perf_counter() - began_s)
    failures = [] if judge(hot, range(100, len(hot), 100)) == whole else ["another cut gave other bits"]
    return Verdict(
        "one key with nine tenths of the records", records, tuple(failures), f"{seconds[1] / seconds[0]:.1f} × the time of as many spread evenly"
    )


def partition_behind(records: int, seed: int) -> Verdict:
    """Two partitions ten hours of event time apart: each is judged, and told silent or late, as if the other were not there."""
    wishes = ("incidents.silence_after=5m", "quality.late=10m", "incidents.window_points=2")
    ahead = stream(seed, 12, records)
    behind = [_earlier(one) for one in stream(seed + 1, 12, records, partition=_Q)]
    both = judge(_interleaved(ahead, behind), range(256, 2 * records, 256), *wishes)
    failures, told = [], 0
    for alone in (ahead, behind):
        outcome = judge(alone, (), *wishes)
        partition = alone[0].partition
        alerts = [alert for alert in both.alerts if alert.partition == partition]
        told += len(alerts)
        if [alert.body for alert in alerts] != [alert.body for alert in outcome.alerts]:
            failures.append(f"{partition}: {len(alerts)} alerts, {len(outcome.alerts)} alone, or other ones")
        if both.state[partition] != outcome.state[partition]:
            failures.append(f"{partition}: another state than alone")
    return Verdict("a partition ten hours behind the other in event time", records, tuple(failures), f"{told} alerts as alone")


def device_without_memory(records: int, seed: int) -> Verdict:
    """The engine's own call runs out of memory beyond so many records: the batch is cut, nothing else changes."""
    all_of_them = stream(seed, 12, records)
    whole = judge(all_of_them)
    failures = []
    for rows_max in (1000, 100, 7):
        with out_of_memory_beyond(rows_max):
            if judge(all_of_them) != whole:
                failures.append(f"room for {rows_max}: other bits")
    return Verdict("a device without the memory for a batch of records", 3, tuple(failures), f"{len(whole.alerts)} alerts, scores and state equal")


@contextmanager
def out_of_memory_beyond(rows_max: int) -> Iterator[None]:
    """As a device with too little memory: the engine fails where it is asked for more records at once."""
    observe = Engine.observe

    def short(self: Engine, *arguments: object) -> object:
        values = arguments[3]
        assert isinstance(values, np.ndarray)
        if len(values) > rows_max:
            raise torch.OutOfMemoryError(f"Tried to allocate room for {len(values)} records")
        return observe(self, *arguments)  # type: ignore[arg-type]

    Engine.observe = short  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Engine.observe = observe  # type: ignore[method-assign]


def replace_key(one: Record, key: bytes) -> Record:
    """The same record of another entity."""
    return Record(one.partition, one.offset, one.timestamp_ms, key, one.value)


def _processor(resident_max: int, entities_max: int) -> Processor:
    built, _, _ = wiring.build_processor(settings(f"engine.resident_max={resident_max}", f"engine.entities_max={entities_max}"), artifact())
    built.begin(P)
    return built


def _flooded(built: Processor, records: Iterator[Record]) -> tuple[NDArray[np.float64], list[int]]:
    """Scores of the watched entities in order, and this process's own memory after each batch: the spill file's pages are the system's."""
    scores, memory = [], []
    while batch := list(islice(records, _BATCH)):
        scored = built.process(Batch(batch), {}).scored
        assert scored is not None
        is_watched = [entity.startswith("pump-") for entity in scored.observations.entities]
        scores.append(scored.scores.anomaly_score[is_watched])
        told = psutil.Process().memory_info()
        memory.append(told.rss - told.shared)
    return np.concatenate(scores), memory


def _in_turn(records: Sequence[Record]) -> list[Record]:
    """The first record of each entity, then the second of each, and so on while all have one."""
    by_entity: dict[bytes | None, list[Record]] = {}
    for one in records:
        by_entity.setdefault(one.key, []).append(one)
    return [one for turn in zip(*by_entity.values(), strict=False) for one in turn]


def _flood(watched: Sequence[Record], keys: int, every: int) -> Iterator[Record]:
    """A watched record after each so many new keys."""
    offset = 0
    for number in range(keys):
        if number % every == 0 and number // every < len(watched):
            one = watched[number // every]
            yield Record(P, offset, 0, one.key, one.value)
            offset += 1
        yield Record(P, offset, 0, b"once-%d" % number, b'{"flow": 0.5, "pressure": 0.1, "current": 0.2, "time": 1700000000}')
        offset += 1


def _recovered(built: Processor, resident_max: int, entities_max: int) -> tuple[float, float]:
    """Seconds from a checkpoint of the full table on disk to a processor that can go on from it, and the checkpoint's MiB."""
    with tempfile.TemporaryDirectory() as name, closing(_processor(resident_max, entities_max)) as again:
        store = FsspecCheckpointStore(name, "faults", 1)
        taken = snapshot(built, P, 1, "f" * 64)
        store.save(taken)
        (file,) = Path(name).rglob("*.safetensors")
        began_s = time.perf_counter()
        found = store.load(P, "f" * 64, 1)
        assert found is not None
        again.restore(found)
        took_s = time.perf_counter() - began_s
        assert digest(snapshot(again, P, 1, "f" * 64)) == digest(taken), "what was recovered is not what was saved"
        return took_s, file.stat().st_size / 2**20


def _hot(records: int, dice: random.Random) -> list[Record]:
    return [one if dice.random() < 0.1 else replace_key(one, b"pump-hot") for one in stream(11, 64, records)]


def _earlier(one: Record) -> Record:
    body = json.loads(one.value or b"")
    return Record(one.partition, one.offset, one.timestamp_ms, one.key, json.dumps(body | {"time": body["time"] - 36_000}).encode())


def _interleaved(first: Sequence[Record], second: Sequence[Record]) -> list[Record]:
    return [one for pair in zip(first, second, strict=True) for one in pair]
