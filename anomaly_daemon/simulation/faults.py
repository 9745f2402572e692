"""Faults of pumps: planned slot by slot, at most one per pump and slot, and planted into what the plant gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anomaly_daemon.simulation import pumps
from anomaly_daemon.simulation.stream import Booleans, Floats, Integers

KINDS = ("spike", "level_shift", "drift", "freeze", "noise_burst", "broken_correlation", "out_of_context", "silence")
SPIKE, LEVEL_SHIFT, DRIFT, FREEZE, NOISE_BURST, BROKEN_CORRELATION, OUT_OF_CONTEXT, SILENCE = range(len(KINDS))
SLOT_STEPS_MIN = 16

# Per kind: shortest and longest, in steps, so that a fault is as visible at 1 s as at 1 h between records.
_STEPS = np.array([[1, 3], [30, 120], [90, 240], [20, 60], [15, 45], [30, 120], [20, 60], [15, 60]])
# Per kind: size as a share of the channel's way from idle to high load, where the kind has a size.
_SIZE = np.array([[0.7, 1.3], [0.3, 0.6], [0.5, 0.9], [0, 0], [0.2, 0.4], [0, 0], [0, 0], [0, 0]])
# Per kind: channels that it may show in.
_FLOWING = (pumps.FLOW, pumps.PRESSURE, pumps.CURRENT)
_WORN = (pumps.PRESSURE, pumps.FLOW, pumps.VIBRATION, pumps.TEMPERATURE, pumps.BEARING_TEMPERATURE)
_ANY = tuple(range(len(pumps.CHANNELS)))
_CANDIDATES = (_ANY, _ANY[1:], _WORN, _ANY, _ANY, _FLOWING, _ANY[1:], _ANY)
_CHANNELS_MAX = np.array([2, 2, 1, 3, 3, 1, 1, 0])
# A channel that lost its correlation wanders through its normal range and back in so many steps.
_WANDERING_STEPS = 40
_OPPOSITE = np.array([pumps.HIGH, pumps.IDLE, pumps.IDLE])


@dataclass(frozen=True, slots=True)
class Plan:
    """The fault of each of N pumps in one slot; steps count from the first record.

    kind:     [N], −1 for none. first, last: [N] steps, `last` not included.
    channels: [N, channels] where it shows. size: [N], signed: upwards in idle-to-high spans, downwards in half values.
    held:     [N, channels] the values at which a freeze holds, written when it begins.
    """

    kind: Integers
    first: Integers
    last: Integers
    channels: Booleans
    size: Floats
    held: Floats

    def active(self, kind: int, step: int, steps: int) -> Integers:
        """The pumps with such a fault somewhere in steps step ≤ t < step + steps."""
        return np.flatnonzero((self.kind == kind) & (self.first < step + steps) & (self.last > step))

    def inside(self, affected: Integers, step: int, steps: int) -> Booleans:
        """[steps, affected] whether the fault is on."""
        at = np.arange(step, step + steps)[:, None]
        return np.asarray((at >= self.first[affected]) & (at < self.last[affected]))


def plan_slot(slot: int, count: int, first_step: int, last_step: int, full_steps: int, random: np.random.Generator) -> Plan:
    """One slot's faults: the kinds dealt evenly over the pumps; a slot cut short has them with the share left of it."""
    length = last_step - first_step
    kind = random.permutation((np.arange(count) + slot * count) % len(KINDS))
    if length < full_steps:
        kind[random.random(count) >= length / full_steps] = -1
    if length < SLOT_STEPS_MIN:
        kind[:] = -1
    # A slot keeps its last eighth free: two faults of a pump never touch.
    duration = np.minimum(random.integers(_STEPS[kind, 0], _STEPS[kind, 1], endpoint=True), max(1, length // 2))
    begin = first_step + random.integers(0, np.maximum(length - length // 8 - duration, 1))
    size = random.uniform(_SIZE[kind, 0], _SIZE[kind, 1]) * random.choice([-1.0, 1.0], count)
    channels = _choose_channels(kind, random)
    size[kind == SPIKE] = np.abs(size[kind == SPIKE])
    return Plan(kind, begin, begin + duration, channels, size, np.empty(channels.shape))


def _choose_channels(kind: Integers, random: np.random.Generator) -> Booleans:
    """[N] kinds → [N, channels]: from one channel up to the kind's most, of those it may show in."""
    lottery = random.random((len(kind), len(pumps.CHANNELS)))
    for number, candidates in enumerate(_CANDIDATES):
        barred = np.setdiff1d(_ANY, candidates)
        lottery[np.ix_(kind == number, barred)] = 2.0
    wanted = random.integers(1, np.maximum(_CHANNELS_MAX[kind], 1), endpoint=True)
    wanted[(kind == SILENCE) | (kind < 0)] = 0
    rank = lottery.argsort(1).argsort(1)
    chosen = (rank < wanted[:, None]) & (lottery < 2.0)
    # Every other pump out of context runs as a whole in the wrong regime.
    whole = (kind == OUT_OF_CONTEXT) & (random.random(len(kind)) < 0.5)
    chosen[whole] = True
    return np.asarray(chosen)


def misplace_regimes(plan: Plan, regimes: Integers, step: int) -> None:
    """In place: pumps that run as a whole out of context take another regime than their schedule's."""
    affected = plan.active(OUT_OF_CONTEXT, step, len(regimes))
    affected = affected[plan.channels[affected].all(1)]
    inside = plan.inside(affected, step, len(regimes))
    regimes[:, affected] = np.where(inside, _OPPOSITE[regimes[:, affected]], regimes[:, affected])


class Levels:
    """Where the channels of each pump lie.

    by_regime: [regimes, N, channels]. span, middle (between idle and high load), noise: [N, channels].
    """

    def __init__(self, fleet: pumps.Pumps) -> None:
        self.by_regime = np.stack([fleet.level(regime) for regime in (pumps.IDLE, pumps.NORMAL, pumps.HIGH)])
        self.span: Floats = np.abs(self.by_regime[pumps.HIGH] - self.by_regime[pumps.IDLE])
        self.middle: Floats = (self.by_regime[pumps.HIGH] + self.by_regime[pumps.IDLE]) / 2
        self.noise = fleet.noise_scale()


def plant_faults(plan: Plan, values: Floats, regimes: Integers, step: int, levels: Levels, random: np.random.Generator) -> None:
    """In place: change the readings [T, N, channels] of steps step ≤ t < step + T where a fault is on."""
    for kind in (SPIKE, LEVEL_SHIFT, DRIFT, FREEZE, NOISE_BURST, BROKEN_CORRELATION, OUT_OF_CONTEXT):
        affected = plan.active(kind, step, len(values))
        if kind == OUT_OF_CONTEXT:
            affected = affected[~plan.channels[affected].all(1)]
        if len(affected):
            before = values[:, affected]
            after = _faulty(kind, plan, affected, before, regimes[:, affected], step, levels, random)
            where = plan.inside(affected, step, len(values))[:, :, None] & plan.channels[affected]
            values[:, affected] = np.where(where, np.maximum(after, 0), before)


def _faulty(
    kind: int, plan: Plan, affected: Integers, before: Floats, regimes: Integers, step: int, levels: Levels, random: np.random.Generator
) -> Floats:
    """What all channels of the affected pumps would show: before, regimes of those pumps only."""
    # Upwards by a part of the span, downwards by half that part of the value: a sensor that loses gain does not end below zero.
    size = plan.size[affected, None]
    moved = np.where(size > 0, size * levels.span[affected], size / 2 * before)
    if kind in (SPIKE, LEVEL_SHIFT):
        return before + moved
    if kind == DRIFT:
        at = np.arange(step, step + len(before))[:, None]
        progress = (at + 1 - plan.first[affected]) / (plan.last - plan.first)[affected]
        return np.asarray(before + moved * progress[:, :, None])
    if kind == FREEZE:
        first = plan.first[affected] - step
        begins = np.flatnonzero((first >= 0) & (first < len(before)))
        plan.held[affected[begins]] = before[first[begins], begins]
        return np.broadcast_to(plan.held[affected], before.shape)
    if kind == NOISE_BURST:
        return np.asarray(before + random.standard_normal(before.shape) * np.abs(moved))
    noise = random.standard_normal(before.shape) * levels.noise[affected]
    if kind == BROKEN_CORRELATION:
        turn = 2 * np.pi * (np.arange(step, step + len(before))[:, None] - plan.first[affected]) / _WANDERING_STEPS
        return np.asarray(levels.middle[affected] + levels.span[affected] / 2 * np.sin(turn)[:, :, None] + noise)
    return np.asarray(levels.by_regime[_OPPOSITE[regimes], affected] + noise)


def is_silent(plan: Plan, step: int, steps: int) -> Booleans:
    """[steps, N] whether the pump sends nothing."""
    silent = np.zeros((steps, len(plan.kind)), np.bool_)
    affected = plan.active(SILENCE, step, steps)
    silent[:, affected] = plan.inside(affected, step, steps)
    return silent
