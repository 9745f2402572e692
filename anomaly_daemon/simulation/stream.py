"""What a simulator yields: chunks of encoded records in event-time order, with the anomalies planted in them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.domain.times import DAY_US

SECOND_US = 1_000_000
ENTITIES_MAX = 1_000_000
CHUNK_RECORDS = 16_384

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, order=True)
class Label:
    """One planted anomaly: from its first to its last affected event time, both included.

    channels: the fields it shows in; empty where it shows in none, as a silence does.
    """

    entity: str
    start_us: int
    end_us: int
    kind: str
    channels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Records in event-time order: parallel lists of key, JSON value and event time.

    labels:   anomalies that begin in this chunk or later and were not named before.
    until_us: no later chunk holds a record before this time.
    """

    keys: list[bytes]
    values: list[bytes]
    times_us: list[int]
    labels: list[Label]
    until_us: int

    def pieces(self, records: int) -> Iterator[Chunk]:
        """The same records, at most so many at a time; the labels come with the first piece."""
        labels = self.labels
        for first in range(0, max(len(self.keys), 1), records):
            last = first + records
            until_us = self.times_us[last] if last < len(self.keys) else self.until_us
            yield Chunk(self.keys[first:last], self.values[first:last], self.times_us[first:last], labels, until_us)
            labels = []


@dataclass(frozen=True, slots=True)
class Scenario:
    """What both simulators need to know.

    clean_share:  of the duration, at its beginning, that stays free of anomalies.
    anomaly_rate: anomalies per entity and day in the rest.
    """

    entities: int
    start_us: int
    duration_us: int
    seed: int = 0
    clean_share: float = 0.5
    anomaly_rate: float = 1.0
    chunk_records: int = field(default=CHUNK_RECORDS, kw_only=True)

    def __post_init__(self) -> None:
        """Raises InputError for what cannot be simulated."""
        if not 1 <= self.entities <= ENTITIES_MAX:
            raise InputError(f"--entities {self.entities}: give a number from 1 to {ENTITIES_MAX:,}")
        if self.duration_us <= 0:
            raise InputError("--duration: give a length of time above zero, such as 2d")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: give a whole number from 0 on")
        if not 0 <= self.clean_share <= 1:
            raise InputError(f"--clean-share {self.clean_share:g}: give a share from 0 to 1")
        if not 0 <= self.anomaly_rate <= 1000:
            raise InputError(f"--faults-per-entity-per-day {self.anomaly_rate:g}: give a rate from 0 to 1000")

    @property
    def end_us(self) -> int:
        """Just past the last record."""
        return self.start_us + self.duration_us

    @property
    def clean_until_us(self) -> int:
        """Where anomalies may begin."""
        return self.start_us + round(self.duration_us * self.clean_share)

    def random(self, purpose: int) -> np.random.Generator:
        """An independent generator per purpose, so that planting anomalies does not disturb what is normal."""
        return np.random.default_rng([self.seed, purpose])


def names(prefix: str, count: int) -> list[str]:
    """`pump-01`, `pump-02`, …: as wide as the last one, so that they sort."""
    width = max(2, len(str(count)))
    return [f"{prefix}-{number:0{width}d}" for number in range(1, count + 1)]


def iso_times(times_us: Integers) -> list[str]:
    """RFC 3339 in UTC, to the second, millisecond or microsecond: the coarsest that is exact for all."""
    step = math.gcd(int(np.gcd.reduce(times_us)), SECOND_US)
    unit: Literal["s", "ms", "us"] = "s" if step == SECOND_US else "ms" if step % 1000 == 0 else "us"
    written: list[str] = np.datetime_as_string(times_us.astype("datetime64[us]"), unit=unit).tolist()
    return [text + "Z" for text in written]


def iso_time(time_us: int) -> str:
    """RFC 3339 in UTC of one time."""
    return iso_times(np.array([time_us]))[0]


def parse_iso_us(text: str) -> int:
    """Microseconds since 1970 of an ISO 8601 time, UTC unless it says otherwise. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    elapsed = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (elapsed.days * 86_400 + elapsed.seconds) * SECOND_US + elapsed.microseconds


def hours_of_day(times_us: Integers) -> Floats:
    """[steps] event times → hours since midnight, UTC."""
    return np.asarray((times_us % DAY_US) / (3600 * SECOND_US), np.float64)
