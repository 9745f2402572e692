"""Sensors and event streams with anomalies whose every value is an ordinary one: wrong for the hour, the regime, the other channels or the order.

Two unlike worlds. A `plant` reports every ten minutes: one daily wave, weaker at weekends, three regimes of some hours told by a set point, a
heat that lags. A `hall` reports every quarter of an hour: two rush hours, other weekends, two regimes of days told only by a valve, a channel that
follows another by an hour, heavy-tailed noise. Their event streams are in `contextual_events`. The first TRAINING_SHARE of each stream is clean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

TRAINING_SHARE = 5 / 7
DAYS = 49
START_S = 1_767_571_200  # Monday, 2026-01-05
DAY_S = 86_400
SENSORS_PER_WORLD = 5
PLANTED_PER_KIND_AND_SENSOR = 3
# Every planted value lies between these quantiles of its channel's normal values.
MARGIN = 0.01
_ATTEMPTS = 4000
_DISTANCE_HOURS = 6


@dataclass(frozen=True, slots=True)
class Planted:
    """Rows `start` ≤ row < `stop` are wrong."""

    start: int
    stop: int
    kind: str


@dataclass(frozen=True, slots=True)
class Stream:
    """What one entity sent. times_s [T], values [T, C]; events: [T] names beside the values, or none; the first `training` rows are clean."""

    entity: str
    channels: tuple[str, ...]
    times_s: Floats
    values: Floats
    training: int
    planted: tuple[Planted, ...] = ()
    events: tuple[str, ...] | None = None

    def is_planted(self) -> NDArray[np.bool_]:
        """[T], which rows are wrong."""
        wrong = np.zeros(len(self.values), bool)
        for one in self.planted:
            wrong[one.start : one.stop] = True
        return wrong


@dataclass(frozen=True, slots=True)
class Latents:
    """What moves a sensor unseen, [T] each: the hour's usual load, the load's own wandering, the regime, slow drift."""

    season: Floats
    wander: Floats
    regime: Integers
    drift: Floats

    @property
    def load(self) -> Floats:
        return np.maximum(self.season + self.wander, 0.01)


@dataclass(frozen=True, slots=True)
class World:
    """How one kind of sensor behaves.

    season: hours of the week [T] → [T], about 0 to 1. law: latents and rows an hour → [T, C] without noise.
    followers: the channels that another regime moves. shifts_h: what a wrong hour is off by. fade: rows over which a wrong hour begins.
    """

    name: str
    channels: tuple[str, ...]
    interval_s: int
    season: Callable[[Floats], Floats]
    law: Callable[[Latents, float], Floats]
    noise: Floats
    is_heavy_tailed: bool
    regimes: int
    regime_hours: tuple[float, float]
    followers: tuple[int, ...]
    shifts_h: tuple[float, ...]
    fade: int

    @property
    def rows_per_hour(self) -> float:
        return 3600 / self.interval_s


def moving_average(values: Floats, rate: float) -> Floats:
    """[T, …] → the same shape: exponentially weighted along the first axis, begun at the first value."""
    averaged = np.empty_like(values)
    state = values[0]
    for row, value in enumerate(values):
        state = state + rate * (value - state)
        averaged[row] = state
    return averaged


def lagged(values: Floats, rows: float) -> Floats:
    """First-order lag with a time constant of so many rows."""
    return moving_average(values, 1 - float(np.exp(-1 / rows)))


def _plant_season(hours: Floats) -> Floats:
    day = 2 * np.pi * hours / 24
    wave = 0.5 - 0.38 * np.cos(day - 0.6) - 0.12 * np.cos(2 * day + 0.4)
    return np.asarray(wave * np.where(hours % 168 >= 120, 0.55, 1.0))


def _plant_law(latents: Latents, per_hour: float) -> Floats:
    load, regime = latents.load, latents.regime
    set_point = np.array([1.0, 1.6, 2.3])[regime]
    flow = np.choose(regime, [0.8 + 1.2 * load, 1.7 + 0.5 * load, 0.6 + 1.9 * load])
    pressure = np.choose(regime, [3.0 - 1.3 * load, 1.5 + 1.1 * load, 2.2 + 0.5 * load**2])
    power = 0.6 * set_point * flow
    temperature = 20 + 4 * lagged(power, per_hour) + 2 * lagged(latents.season, 2 * per_hour) + latents.drift
    return np.stack([set_point, flow, pressure, power, temperature], 1)


def _hall_season(hours: Floats) -> Floats:
    hour = hours % 24
    rush = np.exp(-(((hour - 8) / 1.6) ** 2)) + 0.9 * np.exp(-(((hour - 17.5) / 2.2) ** 2)) + 0.35 * ((hour > 7) & (hour < 20))
    idle = 0.7 * np.exp(-(((hour - 14) / 4.0) ** 2))
    return np.asarray(np.where(hours % 168 >= 120, idle, rush / 1.3))


def _hall_law(latents: Latents, per_hour: float) -> Floats:
    load, cooling = latents.load, latents.regime == 1
    people = 40 * load**1.3
    valve = np.where(cooling, 35 + 45 * load, 60 - 30 * load)
    fan = np.where(cooling, 12 + 8 * np.sqrt(load), 8 + 14 * load)
    carbon = 420 + 9 * np.concatenate([np.full(4, people[0]), people[:-4]])
    supply = np.where(cooling, 16 - 2.5 * load, 24 + 4 * load) + latents.drift
    room = 21 + 0.25 * lagged(supply - 20, 1.5 * per_hour) + 1.2 * lagged(load, per_hour)
    return np.stack([people, valve, fan, carbon, supply, room], 1)


PLANT = World(
    name="plant",
    channels=("set_point", "flow", "pressure", "power", "temperature"),
    interval_s=600,
    season=_plant_season,
    law=_plant_law,
    noise=np.array([0.01, 0.03, 0.04, 0.05, 0.25]),
    is_heavy_tailed=False,
    regimes=3,
    regime_hours=(4, 20),
    followers=(1, 2),
    shifts_h=(9, 12, 15),
    fade=2,
)
HALL = World(
    name="hall",
    channels=("people", "valve", "fan", "carbon", "supply", "room"),
    interval_s=900,
    season=_hall_season,
    law=_hall_law,
    noise=np.array([1.0, 1.2, 0.4, 8.0, 0.25, 0.06]),
    is_heavy_tailed=True,
    regimes=2,
    regime_hours=(20, 70),
    followers=(2, 4),
    shifts_h=(5, 8, 16, 60),
    fade=3,
)


def sensors(world: World, seed: int) -> list[Stream]:
    """The sensors of a world, each with its own phase, wandering and planted anomalies; equal seeds give equal streams."""
    return [_sensor(world, number, np.random.default_rng([seed, number])) for number in range(SENSORS_PER_WORLD)]


def _sensor(world: World, number: int, random: np.random.Generator) -> Stream:
    rows = DAYS * DAY_S // world.interval_s
    times_s = START_S + np.arange(rows, dtype=np.float64) * world.interval_s
    hours = (times_s - START_S) / 3600 + random.uniform(-1, 1)
    wander = lagged(random.normal(size=rows), 2 * world.rows_per_hour)
    drift = np.cumsum(random.normal(size=rows)) / np.sqrt(rows)
    latents = Latents(np.maximum(world.season(hours), 0.02), 0.05 * wander / wander.std(), _regimes(world, rows, random), 0.5 * drift)
    draws = (
        random.laplace(scale=0.5**0.5, size=(rows, len(world.channels))) if world.is_heavy_tailed else random.normal(size=(rows, len(world.channels)))
    )
    scale, noise = random.uniform(0.8, 1.25, len(world.channels)), draws * world.noise
    clean = world.law(latents, world.rows_per_hour)
    training = int(rows * TRAINING_SHARE)
    values, planted = _planted(world, clean, noise, _wrong(world, latents, hours), training, random)
    return Stream(f"{world.name}-{number + 1}", world.channels, times_s, values * scale, training, planted)


def _regimes(world: World, rows: int, random: np.random.Generator) -> Integers:
    """Dwell times drawn evenly from the world's range, always to another regime."""
    regime, current = np.empty(0, np.int64), int(random.integers(world.regimes))
    while len(regime) < rows:
        dwell = int(random.uniform(*world.regime_hours) * world.rows_per_hour)
        regime = np.append(regime, np.full(dwell, current))
        current = int((current + random.integers(1, world.regimes)) % world.regimes)
    return regime[:rows]


def _wrong(world: World, latents: Latents, hours: Floats) -> dict[str, list[tuple[Floats, tuple[int, ...]]]]:
    """Per kind the alternatives: what the law gives for wrong latents, [T, C], and which channels take it."""
    everything = tuple(range(len(world.channels)))
    turned = [replace(latents, season=np.maximum(world.season(hours + shift), 0.02)) for shift in world.shifts_h]
    others = [replace(latents, regime=(latents.regime + step) % world.regimes) for step in range(1, world.regimes)]
    mirrored = world.law(replace(latents, season=1 - latents.season), world.rows_per_hour)
    return {
        "hour": [(world.law(one, world.rows_per_hour), everything) for one in turned],
        "regime": [(world.law(one, world.rows_per_hour), (channel,)) for one in others for channel in world.followers],
        "relation": [(mirrored, (channel,)) for channel in everything[1:]],
    }


def _planted(
    world: World,
    clean: Floats,
    noise: Floats,
    wrong: dict[str, list[tuple[Floats, tuple[int, ...]]]],
    training: int,
    random: np.random.Generator,
) -> tuple[Floats, tuple[Planted, ...]]:
    """The values with what was planted. A place is taken where the wrong values differ much from the right ones and yet are ordinary."""
    values = clean + noise
    low, high = np.quantile(values, (MARGIN, 1 - MARGIN), axis=0)
    distance = int(_DISTANCE_HOURS * world.rows_per_hour)
    planted: list[Planted] = []
    for kind in [kind for kind in wrong for _ in range(PLANTED_PER_KIND_AND_SENSOR)]:
        for _ in range(_ATTEMPTS):
            alternative, channels = wrong[kind][random.integers(len(wrong[kind]))]
            rows = int(random.integers(6, 13))
            start = int(random.integers(training + distance, len(values) - distance - rows))
            here, which = slice(start, start + rows), list(channels)
            fade = np.minimum(1, np.arange(1, rows + 1) / (world.fade + 1))[:, None] if kind == "hour" else 1.0
            found = values[here].copy()
            found[:, which] += fade * (alternative[here][:, which] - clean[here][:, which])
            moved = np.abs(alternative[here] - clean[here])[world.fade :, which].min(0) / (high - low)[which]
            is_apart = all(start >= one.stop + distance or start + rows + distance <= one.start for one in planted)
            if is_apart and moved.max() >= 0.35 and (found > low).all() and (found < high).all():
                values[here] = found
                planted.append(Planted(start, start + rows, kind))
                break
        else:
            raise RuntimeError(
                f"{world.name}: found no place for an anomaly of kind {kind} in {_ATTEMPTS} attempts; lower the distance or the strength"
            )
    return values, tuple(sorted(planted, key=lambda one: one.start))
