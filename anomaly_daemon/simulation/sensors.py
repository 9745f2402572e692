"""`simulate sensors`: pumps with a daily season, regimes, correlated channels and labelled faults, as JSON records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.domain.times import DAY_US
from anomaly_daemon.simulation import faults
from anomaly_daemon.simulation.pumps import CHANNELS, DECIMALS, Plant, build
from anomaly_daemon.simulation.stream import SECOND_US, Booleans, Chunk, Floats, Label, Scenario, hours_of_day, iso_times, names

Reading = msgspec.defstruct("Reading", [("timestamp", str), *((channel, float) for channel in CHANNELS)], gc=False)


@dataclass(frozen=True, slots=True)
class SensorScenario:
    """Every pump reports once per interval, all at the same instants."""

    base: Scenario
    interval_us: int

    def __post_init__(self) -> None:
        """Raises InputError for what cannot be simulated."""
        if not 0 < self.interval_us <= self.base.duration_us:
            raise InputError("--interval: give a time above zero and no longer than --duration")
        if self.base.anomaly_rate and self.slot_steps < faults.SLOT_STEPS_MIN:
            most = DAY_US / self.interval_us / faults.SLOT_STEPS_MIN
            raise InputError(f"--faults-per-entity-per-day {self.base.anomaly_rate:g}: at this --interval at most {most:g} fit into a day")

    @property
    def steps(self) -> int:
        """Records of each pump, silences not counted."""
        return -(-self.base.duration_us // self.interval_us)

    @property
    def clean_steps(self) -> int:
        """Records of each pump before the first fault can begin."""
        return -(-(self.base.clean_until_us - self.base.start_us) // self.interval_us)

    @property
    def slot_steps(self) -> int:
        """Steps in which each pump has one fault."""
        return max(1, round(DAY_US / self.base.anomaly_rate / self.interval_us))

    def time_us(self, step: int) -> int:
        """Event time of a step."""
        return self.base.start_us + step * self.interval_us


def sensor_chunks(scenario: SensorScenario) -> Iterator[Chunk]:
    """The whole simulation in event-time order; memory does not grow with its duration."""
    base = scenario.base
    fleet = build(base.entities, base.random(0))
    hour = float(hours_of_day(np.array([base.start_us]))[0])
    plant = Plant(fleet, scenario.interval_us / SECOND_US, hour, base.random(1), base.random(2))
    planning, planting = base.random(3), base.random(4)
    levels = faults.Levels(fleet)
    entities = names("pump", base.entities)
    keys = [entity.encode() for entity in entities]
    steps_max = max(1, base.chunk_records // base.entities)
    for slot, (slot_start, slot_end) in enumerate(_slots(scenario)):
        plan = None
        labels: list[Label] = []
        if slot_start >= scenario.clean_steps and base.anomaly_rate:
            plan = faults.plan_slot(slot, base.entities, slot_start, slot_end, scenario.slot_steps, planning)
            labels = _labels(plan, entities, scenario)
        for step in range(slot_start, slot_end, steps_max):
            times_us = scenario.time_us(0) + np.arange(step, min(step + steps_max, slot_end)) * scenario.interval_us
            regimes = fleet.regimes(hours_of_day(times_us))
            sends = np.ones(regimes.shape, np.bool_)
            if plan is not None:
                faults.misplace_regimes(plan, regimes, step)
                sends = ~faults.is_silent(plan, step, len(regimes))
            values = plant.advance(hours_of_day(times_us), regimes)
            if plan is not None:
                faults.plant_faults(plan, values, fleet.regimes(hours_of_day(times_us)), step, levels, planting)
            yield _encode(keys, times_us, values, sends, labels, scenario)
            labels = []


def _slots(scenario: SensorScenario) -> Iterator[tuple[int, int]]:
    """The clean part, then slot after slot: first step and the step past the last."""
    if scenario.clean_steps:
        yield 0, min(scenario.clean_steps, scenario.steps)
    slot_steps = scenario.slot_steps if scenario.base.anomaly_rate else max(1, scenario.steps)
    for first in range(scenario.clean_steps, scenario.steps, slot_steps):
        yield first, min(first + slot_steps, scenario.steps)


def _labels(plan: faults.Plan, entities: list[str], scenario: SensorScenario) -> list[Label]:
    return [
        Label(
            entities[number],
            scenario.time_us(int(plan.first[number])),
            scenario.time_us(int(plan.last[number]) - 1),
            faults.KINDS[plan.kind[number]],
            tuple(np.array(CHANNELS)[plan.channels[number]].tolist()),
        )
        for number in np.flatnonzero(plan.kind >= 0)
    ]


def _encode(keys: list[bytes], times_us: np.ndarray, values: Floats, sends: Booleans, labels: list[Label], scenario: SensorScenario) -> Chunk:
    """[T, N, channels] readings → one JSON record per reading that is sent, all pumps of a step in turn."""
    scale = 10.0**DECIMALS
    rounded = (np.rint(values * scale) / scale).tolist()
    encode = msgspec.json.Encoder().encode
    sent_keys: list[bytes] = []
    sent_values: list[bytes] = []
    for timestamp, rows, sending in zip(iso_times(times_us), rounded, sends.tolist(), strict=True):
        sent_values += [encode(Reading(timestamp, *row)) for row, is_sent in zip(rows, sending, strict=True) if is_sent]
        sent_keys += [key for key, is_sent in zip(keys, sending, strict=True) if is_sent]
    sent_times = np.repeat(times_us, sends.sum(1)).tolist()
    return Chunk(sent_keys, sent_values, sent_times, labels, int(times_us[-1]) + scenario.interval_us)
