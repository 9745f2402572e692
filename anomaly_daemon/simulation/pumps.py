"""Pumps as they run when nothing is wrong: schedule → speed → flow and pressure by the pump laws → current → heat.

Affinity laws: flow ∝ speed, head ∝ speed², power ∝ speed³ (Gülich, Centrifugal Pumps, section 3.6); the system they feed
has a static head and a friction that grows with the square of the flow. Temperatures lag behind their losses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anomaly_daemon.simulation.stream import Floats, Integers

CHANNELS = ("speed", "flow", "pressure", "suction_pressure", "current", "vibration", "temperature", "bearing_temperature")
DECIMALS = np.array([1, 2, 3, 3, 2, 3, 2, 2])
SPEED, FLOW, PRESSURE, SUCTION_PRESSURE, CURRENT, VIBRATION, TEMPERATURE, BEARING_TEMPERATURE = range(len(CHANNELS))
IDLE, NORMAL, HIGH = range(3)
REGIME_SPEED = np.array([0.38, 0.78, 1.0])
_DAY = np.array([IDLE, NORMAL, HIGH, NORMAL, HIGH, NORMAL, IDLE])

# Time constants in seconds: of the drive's two lags (a slow ramp spares the pipes a water hammer), of demand, of the valve,
# of the winding, of the bearing.
_DRIVE_S, _DEMAND_S, _VALVE_S, _WINDING_S, _BEARING_S = 420.0, 900.0, 3600.0, 2400.0, 1500.0
_DEMAND_DEVIATION, _VALVE_DEVIATION = 0.012, 0.04
# Sensor noise: a share of the rated value; of the temperatures, kelvin; of vibration, a share of the value.
_NOISE = np.array([0.0015, 0.008, 0.006, 0.006, 0.008, 0.05, 0.15, 0.15])


@dataclass(frozen=True, slots=True)
class Pumps:
    """The fixed nature of N pumps.

    switch_hours: [N, 6] hours of the day at which the regime changes, rising; offset_hours [N] turns the day.
    rated:        [N, channels] the scale of each channel; of the temperatures, the rise above ambient at full load, kelvin.
    ambient:      [N] °C. static_head: [N] share of the rated head. noise: [N] factor on the sensors' noise.
    """

    switch_hours: Floats
    offset_hours: Floats
    rated: Floats
    ambient: Floats
    static_head: Floats
    noise: Floats

    def regimes(self, hours: Floats) -> Integers:
        """[T] hours of the day → [T, N] regime by schedule."""
        local = (hours[:, None] + self.offset_hours) % 24
        passed = (local[:, :, None] >= self.switch_hours).sum(-1)
        return np.asarray(_DAY[passed], np.int64)

    def level(self, regime: int) -> Floats:
        """[N, channels] where each channel settles in a regime, without season, disturbance or noise."""
        speed = np.full((1, len(self.ambient)), REGIME_SPEED[regime])
        flow = _flow(speed, self.static_head, np.zeros_like(speed))
        heat = np.stack([_losses(speed, flow), _friction(speed)], 1)
        return np.asarray(self.readings(speed, flow, np.zeros_like(speed), heat, np.zeros(1))[0])

    def noise_scale(self) -> Floats:
        """[N, channels] deviation of the sensors' noise, in units; of vibration at its rated value."""
        scale = self.rated * _NOISE
        scale[:, TEMPERATURE:] = _NOISE[TEMPERATURE:]
        return np.asarray(scale * self.noise[:, None])

    def readings(self, speed: Floats, flow: Floats, valve: Floats, heat: Floats, season: Floats) -> Floats:
        """[T, N] shares of the rated values, heat [T, 2, N], season [T] in ±1 → [T, N, channels] in units, free of noise."""
        values = np.empty((*speed.shape, len(CHANNELS)))
        ambient = self.ambient + 1.5 * season[:, None]
        values[..., SPEED] = speed
        values[..., FLOW] = flow
        values[..., PRESSURE] = self.static_head + (1 - self.static_head) * flow**2 * (1 + valve)
        values[..., SUCTION_PRESSURE] = 1 + 0.03 * season[:, None] - 0.2 * flow**2
        values[..., CURRENT] = _current(speed, flow)
        values[..., VIBRATION] = 0.25 + 0.75 * speed**2 + 0.6 * np.abs(speed - flow)
        values[..., TEMPERATURE] = heat[:, 0]
        values[..., BEARING_TEMPERATURE] = heat[:, 1]
        values *= self.rated
        values[..., TEMPERATURE] += ambient
        values[..., BEARING_TEMPERATURE] += ambient
        return values


class Plant:
    """N pumps through time: advances in steps of one interval, keeping what has inertia."""

    def __init__(self, pumps: Pumps, interval_s: float, hour: float, disturbance: np.random.Generator, noise: np.random.Generator) -> None:
        """At rest in the regime that the schedule gives for `hour`. Two generators, so that readings do not depend on where chunks are cut."""
        self._pumps = pumps
        self._disturbance = disturbance
        self._noise = noise
        self._drive_keep = float(np.exp(-interval_s / _DRIVE_S))
        self._slow_keep = np.exp(-interval_s / np.array([[_DEMAND_S], [_VALVE_S]]))
        self._heat_keep = np.exp(-interval_s / np.array([[_WINDING_S], [_BEARING_S]]))
        self._slow_deviation = np.array([[_DEMAND_DEVIATION], [_VALVE_DEVIATION]])
        self._drive: Floats = REGIME_SPEED[pumps.regimes(np.array([hour]))[0]]
        self._ramp = self._drive
        self._slow = disturbance.standard_normal((2, len(pumps.ambient))) * self._slow_deviation
        flow = _flow(self._drive, pumps.static_head, np.zeros_like(self._drive))
        self._heat = np.stack([_losses(self._drive, flow), _friction(self._drive)])

    def advance(self, hours: Floats, regimes: Integers) -> Floats:
        """The next T readings: hours of the day [T] and regimes [T, N] → [T, N, channels] with noise."""
        season = np.sin(2 * np.pi * (hours - 9) / 24)
        setpoint = REGIME_SPEED[regimes] * (1 + 0.04 * season[:, None])
        ramp, self._ramp = _lag(setpoint, self._ramp, self._drive_keep)
        drive, self._drive = _lag(ramp, self._drive, self._drive_keep)
        shocks = self._disturbance.standard_normal((len(hours), *self._slow.shape))
        shocks *= self._slow_deviation * np.sqrt(1 - self._slow_keep**2) / (1 - self._slow_keep)
        slow, self._slow = _lag(shocks, self._slow, self._slow_keep)
        speed = drive * (1 + slow[:, 0])
        flow = _flow(speed, self._pumps.static_head, slow[:, 1])
        heat, self._heat = _lag(np.stack([_losses(speed, flow), _friction(speed)], 1), self._heat, self._heat_keep)
        values = self._pumps.readings(speed, flow, slow[:, 1], heat, season)
        return values + self._sensor_noise(values)

    def _sensor_noise(self, values: Floats) -> Floats:
        """[T, N, channels], in units."""
        noise = self._noise.standard_normal(values.shape)
        noise *= self._pumps.noise_scale()
        noise[..., VIBRATION] *= values[..., VIBRATION] / self._pumps.rated[:, VIBRATION]
        return noise


def build(count: int, random: np.random.Generator) -> Pumps:
    """N pumps of different size, each with its own day."""
    first = random.uniform(5, 7, count)
    morning = first + random.uniform(1, 2.5, count)
    noon = morning + random.uniform(1.5, 3.5, count)
    afternoon = random.uniform(15, 17, count)
    evening = afternoon + random.uniform(1.5, 3.5, count)
    night = random.uniform(21, 23, count)
    offset = random.uniform(-2, 2, count) + np.where(random.random(count) < 0.25, 12, 0)
    speed = np.where(random.random(count) < 0.5, 1450.0, 2950.0) * random.uniform(0.98, 1.02, count)
    flow = 60 * np.exp(0.6 * random.standard_normal(count))
    pressure = random.uniform(2, 9, count)
    power_kw = flow * pressure / 36 / random.uniform(0.55, 0.75, count)
    rated = np.empty((count, len(CHANNELS)))
    rated[:, SPEED], rated[:, FLOW], rated[:, PRESSURE] = speed, flow, pressure
    rated[:, SUCTION_PRESSURE] = random.uniform(0.8, 2, count)
    rated[:, CURRENT] = power_kw / (np.sqrt(3) * 0.4 * 0.86)
    rated[:, VIBRATION] = random.uniform(1.2, 3, count)
    rated[:, TEMPERATURE] = random.uniform(30, 50, count)
    rated[:, BEARING_TEMPERATURE] = random.uniform(15, 28, count)
    switch_hours = np.stack([first, morning, noon, afternoon, evening, night], 1)
    return Pumps(switch_hours, offset, rated, random.uniform(14, 24, count), random.uniform(0.02, 0.1, count), random.uniform(0.7, 1.4, count))


def _flow(speed: Floats, static_head: Floats, valve: Floats) -> Floats:
    """Where the pump's head speed² meets static head + friction · flow²; no flow below the static head."""
    return np.sqrt(np.maximum(speed**2 - static_head, 0) / (1 - static_head) / (1 + valve))


def _current(speed: Floats, flow: Floats) -> Floats:
    """Share of the rated current: magnetisation and a shaft power between shut-off and rated flow."""
    return 0.2 + 0.8 * speed**2 * (0.5 * speed + 0.5 * flow)


def _losses(speed: Floats, flow: Floats) -> Floats:
    return _current(speed, flow) ** 2


def _friction(speed: Floats) -> Floats:
    return 0.2 * speed + 0.8 * speed**2


def _lag(target: Floats, state: Floats, keep: Floats | float) -> tuple[Floats, Floats]:
    """First-order lag along the first axis: y[t] = keep · y[t−1] + (1 − keep) · target[t]; returns y and its last."""
    lagged = np.multiply(target, 1 - keep)
    for step in range(len(lagged)):
        lagged[step] += keep * state
        state = lagged[step]
    return lagged, state.copy()
