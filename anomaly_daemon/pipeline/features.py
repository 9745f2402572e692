"""Readings → features: the transform that each feature's kind asks for, and the little that it remembers per entity.

Everything is judged against what was known before the record, then learned. The arithmetic of a row never involves
another row's shape or place, so the features do not depend on where batches are cut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anomaly_daemon.domain.columns import LAST_SEEN_US, Column
from anomaly_daemon.pipeline.habits import PERIODS_US, Category, Habit, HostRows, Integers, Reals, RecentCount, Relative, UnusualTime
from anomaly_daemon.settings import NUMBER_KINDS, Feature
from anomaly_daemon.state.segments import Layout

FEATURE_MAX: Final = 3e38  # float32 ends at 3.4e38
_NEVER_US: Final = np.iinfo(np.int64).min
_LAST_VALUES: Final = "feature_last_values"
_LAST_VALUES_US: Final = "feature_last_values_us"


def _signed_log1p(readings: Reals) -> Reals:
    return np.copysign(np.log1p(np.abs(readings)), readings)


_POINTWISE: Final[dict[str, Callable[[Reals], Reals]]] = {"number": np.positive, "asinh": np.arcsinh, "log": _signed_log1p}


@dataclass(frozen=True, slots=True)
class _Numeric:
    """A feature over a number field: its column in the readings and in the values."""

    kind: str
    reading: int
    value: int


@dataclass(frozen=True, slots=True)
class EntityMajor:
    """The same N rows with every entity's in one run, oldest first.

    starts, ends: [B] the run of each entity. place: [N] where the layout's row stands. rank: [N] whose the row is.
    """

    starts: Integers
    ends: Integers
    place: Integers
    rank: Integers

    @classmethod
    def of(cls, layout: Layout) -> EntityMajor:
        """The rows of a layout."""
        lengths = np.bincount(layout.rank, minlength=len(layout.slots))
        ends = np.cumsum(lengths)
        starts = ends - lengths
        return cls(starts, ends, starts[layout.rank] + layout.step, np.repeat(np.arange(len(lengths)), lengths))


class FeatureTransforms:
    """The features of a schema, in its order."""

    def __init__(self, features: tuple[Feature, ...]) -> None:
        names: list[str] = []
        self.told: dict[str, list[int]] = {}
        """By the name that alerts tell: its columns of the values."""
        self._pointwise: list[_Numeric] = []
        self._changes: list[_Numeric] = []
        self._elapsed: list[int] = []
        self._cyclic: list[tuple[int, int]] = []
        self._unusual: list[UnusualTime] = []
        self._counts: list[RecentCount] = []
        self._categories: list[Category] = []
        compared: list[tuple[Feature, int, int]] = []
        readings = 0
        for feature in features:
            value = len(names)
            names += feature.columns
            for column, name in enumerate(feature.told, value):
                self.told.setdefault(name, []).append(column)
            if feature.kind in NUMBER_KINDS:
                if feature.kind == "relative":
                    compared.append((feature, readings, value))
                else:
                    (self._pointwise if feature.kind in _POINTWISE else self._changes).append(_Numeric(feature.kind, readings, value))
                readings += 1
            elif feature.kind == "elapsed":
                self._elapsed.append(value)
            elif feature.half_life is not None:
                self._counts.append(RecentCount(feature.half_life, value))
            elif feature.period is not None and feature.kind == "cyclic":
                self._cyclic.append((value, PERIODS_US[feature.period]))
            elif feature.period is not None:
                self._unusual.append(UnusualTime(feature.period, value))
            else:
                self._categories.append(Category(feature.name, len(self._categories), value, feature.values_max, feature.bits))
        named = {category.name: category for category in self._categories}
        self._relative = [Relative(reading, value, named.get(feature.within or "")) for feature, reading, value in compared]
        self.names: tuple[str, ...] = tuple(names)
        """Of the columns of the values; cyclic and category features have several."""
        self._rates = [position for position, change in enumerate(self._changes) if change.kind == "rate"]

    def columns(self) -> tuple[Column, ...]:
        """What is kept per entity: only what the kinds at hand need."""
        columns: list[Column] = []
        if self._changes:
            columns.append(Column(_LAST_VALUES, "float64", (len(self._changes),), np.nan, is_host=True))
        if self._rates:
            columns.append(Column(_LAST_VALUES_US, "int64", (len(self._rates),), is_host=True))
        habits: list[Habit] = [*self._categories, *self._unusual, *self._counts, *self._relative]
        for habit in habits:
            columns += habit.columns()
        return tuple(columns)

    def transform(
        self, layout: Layout, times_us: Integers, readings: Reals, categories: Integers, rows: HostRows
    ) -> tuple[NDArray[np.float32], Reals]:
        """The features of N observations, and the time since each one's predecessor.

        times_us [N], readings [N, numbers], categories [N, categories]: in the order of the layout.
        rows: the host columns of the B entities, by the layout's rank; changed in place, but for `last_seen_us` [B], the
        event time of each entity's previous record, which is only read.
        Returns values [N, features] float32, NaN = missing, and gaps_s [N] float64: seconds, never negative, NaN for an
        entity's first record.
        """
        gaps_s = _gaps_s(layout, times_us, rows[LAST_SEEN_US.name])
        values = np.full((len(times_us), len(self.names)), np.nan)
        for feature in self._pointwise:
            values[:, feature.value] = _POINTWISE[feature.kind](np.ascontiguousarray(readings[:, feature.reading]))
        for column in self._elapsed:
            values[:, column] = np.log1p(gaps_s)
        for column, period_us in self._cyclic:
            angle = (times_us % period_us) * (2 * np.pi / period_us)
            values[:, column], values[:, column + 1] = np.sin(angle), np.cos(angle)
        if self._changes:
            columns = [change.reading for change in self._changes]
            values[:, [change.value for change in self._changes]] = self._change(layout, times_us, readings[:, columns], rows)
        for unusual in self._unusual:
            values[:, unusual.value] = unusual.judge(layout, times_us, rows)
        for recent in self._counts:
            values[:, recent.value] = recent.judge(layout, gaps_s, rows)
        places: dict[Category, Integers] = {}
        for category in self._categories:
            judged, places[category] = category.judge(layout, categories[:, category.column], rows)
            values[:, category.value : category.value + 2] = judged
            values[:, category.value + 2 : category.value + 2 + category.bits] = category.told(categories[:, category.column])
        for relative in self._relative:
            logs = _signed_log1p(np.ascontiguousarray(readings[:, relative.reading]))
            within = relative.within
            known = None if within is None else (places[within], values[:, within.value + 1] == 1)
            values[:, relative.value] = relative.judge(layout, logs, known, rows)
        return np.clip(values, -FEATURE_MAX, FEATURE_MAX).astype(np.float32), gaps_s

    def _change(self, layout: Layout, times_us: Integers, readings: Reals, rows: HostRows) -> Reals:
        """Differences and rates against the last known value; readings [N, changes] in the order of the layout."""
        runs = EntityMajor.of(layout)
        ordered, ordered_us = np.empty_like(readings), np.empty_like(times_us)
        ordered[runs.place], ordered_us[runs.place] = readings, times_us
        newest = np.maximum.accumulate(np.where(np.isnan(ordered), -1, np.arange(len(ordered))[:, None]), axis=0)
        before = np.concatenate([np.full((1, newest.shape[1]), -1), newest])[:-1]
        is_here = before >= runs.starts[runs.rank][:, None]
        last = np.where(is_here, np.take_along_axis(ordered, np.maximum(before, 0), 0), rows[_LAST_VALUES][runs.rank])
        changes = ordered - last
        is_learned = newest[runs.ends - 1] >= runs.starts[:, None]
        if self._rates:
            rates = self._rates
            last_us = np.where(is_here[:, rates], ordered_us[before[:, rates]], rows[_LAST_VALUES_US][runs.rank])
            elapsed_s = (ordered_us[:, None] - last_us) / 1e6
            grown = np.where(ordered[:, rates] < last[:, rates], ordered[:, rates], changes[:, rates])
            is_known = (elapsed_s > 0) & ~np.isnan(changes[:, rates])
            changes[:, rates] = np.divide(grown, elapsed_s, out=np.full_like(grown, np.nan), where=is_known)
            newest_us = ordered_us[newest[runs.ends - 1][:, rates]]
            np.copyto(rows[_LAST_VALUES_US], newest_us, where=is_learned[:, rates])
        newest_values = np.take_along_axis(ordered, np.maximum(newest[runs.ends - 1], 0), 0)
        np.copyto(rows[_LAST_VALUES], newest_values, where=is_learned)
        return changes[runs.place]


def _gaps_s(layout: Layout, times_us: Integers, last_seen_us: Integers) -> Reals:
    """Seconds since the entity's previous record, in this batch or before it."""
    is_first = layout.previous < 0
    previous_us = np.where(is_first, last_seen_us[layout.rank], times_us[layout.previous])
    is_known = previous_us != _NEVER_US
    return np.where(is_known, np.maximum(times_us - np.where(is_known, previous_us, times_us), 0) / 1e6, np.nan)
