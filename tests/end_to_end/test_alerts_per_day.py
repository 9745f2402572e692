"""Three simulated weeks of twelve pumps on two partitions, a record every twenty minutes: what was asked for is what opens."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest

from anomaly_daemon import wiring
from anomaly_daemon.domain.records import Batch, Partition, Record, Transition
from tests.small import NAMES, artifact, settings, signal

PUMPS, DAYS, A_DAY, BATCH = 12, 21, 72, 4096
PARTITIONS = (Partition("readings", 0), Partition("readings", 1))
SETTLED_DAY = 2
SETTINGS = ("threshold.half_life=72", "incidents.trigger={count: 3, of: 5}", "incidents.recovery={count: 10, of: 10}")


@cache
def weeks() -> tuple[Record, ...]:
    """Sines with noise; now and then a fault of some hours, small or large, and one night in which a third of the pumps have one."""
    generator = np.random.default_rng(11)
    steps = DAYS * A_DAY
    values = np.stack([signal(generator, steps, pump) for pump in range(PUMPS)], 1)
    for _ in range(generator.poisson(0.3 * PUMPS * DAYS)):
        begin, length = generator.integers(0, steps), generator.integers(5, 20)
        values[begin : begin + length, generator.integers(PUMPS), generator.integers(len(NAMES))] += 0.2 + generator.exponential(1.0)
    values[10 * A_DAY : 10 * A_DAY + 20, ::3, 1] += 2
    return tuple(_records(values))


def _records(values: np.ndarray) -> Iterator[Record]:
    offsets = [0, 0]
    for step, pump in itertools.product(range(len(values)), range(PUMPS)):
        body = {name: round(float(value), 5) for name, value in zip(NAMES, values[step, pump], strict=True)} | {"time": 1_700_000_000 + 1200 * step}
        number = pump % 2
        yield Record(PARTITIONS[number], offsets[number], 0, b"pump-%d" % pump, json.dumps(body).encode())
        offsets[number] += 1


@pytest.mark.parametrize("per_day", [2, 12])
def test_incidents_open_at_the_rate_asked_for_within_a_factor_of_one_and_a_half(per_day: int) -> None:
    asked = settings(*SETTINGS, f"threshold.alerts_per_day={per_day}")
    built, _, _ = wiring.build_processor(asked, artifact())
    wiring.share_budget(built, asked, artifact(), "live", len(PARTITIONS))
    for partition in PARTITIONS:
        built.begin(partition)
    records, opened = weeks(), [0] * DAYS
    for first in range(0, len(records), BATCH):
        for alert in built.process(Batch(records[first : first + BATCH]), {}).alerts:
            if alert.transition is Transition.OPENED:
                opened[alert.offset // (PUMPS // 2 * A_DAY)] += 1
    built.close()

    for span in (slice(0, DAYS), slice(SETTLED_DAY, DAYS), slice(7, DAYS)):
        rate = sum(opened[span]) / len(opened[span])
        assert per_day / 1.5 <= rate <= per_day * 1.5, opened
