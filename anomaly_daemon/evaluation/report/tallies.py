"""What is counted of exported scores batch by batch, in arrays whose size does not depend on the records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]
Codes = NDArray[np.int32]

# Calibration resolves tails down to 1e-4 and claims nothing below; both ends are exact, for the tail probabilities stop there.
LEVELS: Final[Floats] = np.concatenate(([1e-4], 10.0 ** np.linspace(-4, 0, 33)[1:-1], [1.0]))
TABLED: Final = (1e-1, 1e-2, 1e-3, 1e-4)
ENTITIES_FOR_INTERVAL: Final = 10


class Grown:
    """One number per entity code; room is doubled as codes come."""

    def __init__(self, dtype: Any, fill: float = 0, width: int | None = None) -> None:
        self._fill, self._shape = fill, () if width is None else (width,)
        self.values = np.full((1024, *self._shape), fill, dtype)

    def reach(self, entities: int) -> None:
        """Make room for codes below `entities`."""
        if entities > len(self.values):
            more = np.full((max(entities, 2 * len(self.values)) - len(self.values), *self._shape), self._fill, self.values.dtype)
            self.values = np.concatenate([self.values, more])


class Histogram:
    """Counts in equal bins; what lies beyond either end is counted in the end's bin."""

    def __init__(self, low: float, high: float, bins: int) -> None:
        self.edges = np.linspace(low, high, bins + 1)
        self.counts = np.zeros(bins, np.int64)

    def add(self, values: Floats) -> None:
        """Finite values only."""
        bins = len(self.counts)
        places = np.clip((values - self.edges[0]) * (bins / (self.edges[-1] - self.edges[0])), 0, bins - 1).astype(np.int64)
        self.counts += np.bincount(places, minlength=bins)


class Crossings:
    """For each level of an ascending grid: records above it, and runs of an entity's consecutive records above it."""

    def __init__(self, grid: Floats) -> None:
        self.grid = grid
        self._above = np.zeros(len(grid) + 1, np.int64)
        self._begun = np.zeros(len(grid) + 1, np.int64)
        self._last = Grown(np.int32)

    def add(self, entity: Codes, values: Floats) -> None:
        """Records in log order; a value that is no number is above nothing."""
        if len(entity) == 0:
            return
        self._last.reach(int(entity.max()) + 1)
        reached = np.searchsorted(self.grid, np.where(np.isnan(values), -np.inf, values), side="left")
        self._above += np.bincount(reached, minlength=len(self._above))
        order = np.argsort(entity, kind="stable")
        entity, reached = entity[order], reached[order]
        is_first = np.append(True, entity[1:] != entity[:-1])
        before = np.append(0, reached[:-1])
        before[is_first] = self._last.values[entity[is_first]]
        is_last = np.append(is_first[1:], True)
        self._last.values[entity[is_last]] = reached[is_last]
        rises = reached > before
        self._begun += np.bincount(before[rises], minlength=len(self._begun)) - np.bincount(reached[rises], minlength=len(self._begun))

    def records(self) -> Integers:
        """[grid] records above each level."""
        return self._above[::-1].cumsum()[::-1][1:]

    def runs(self) -> Integers:
        """[grid] runs above each level."""
        return self._begun.cumsum()[:-1]


class Calibration:
    """How often the tail probability was at most so much, against how often it should have been."""

    def __init__(self) -> None:
        self._counts = np.zeros(len(LEVELS) + 1, np.int64)
        self._by_entity = Grown(np.int64, width=len(TABLED) + 1)

    def add(self, entity: Codes, probability: Floats) -> None:
        """Records with a tail probability, in any order."""
        if len(entity) == 0:
            return
        self._counts += np.bincount(np.searchsorted(LEVELS, probability, side="left"), minlength=len(self._counts))
        entities = int(entity.max()) + 1
        self._by_entity.reach(entities)
        for place, level in enumerate(TABLED):
            self._by_entity.values[:entities, place] += np.bincount(entity[probability <= level], minlength=entities)
        self._by_entity.values[:entities, -1] += np.bincount(entity, minlength=entities)

    @property
    def records(self) -> int:
        """All that were added."""
        return int(self._counts.sum())

    def observed(self) -> Integers:
        """[LEVELS] records at most as probable as each."""
        return self._counts[:-1].cumsum()

    def tabled(self) -> list[tuple[float, int, float, tuple[float, float] | None]]:
        """Per nominal level: records observed, their share, and its 95 % interval between entities.

        The interval is that of a ratio whose units are the entities, for records of one entity depend on one another;
        None below ENTITIES_FOR_INTERVAL of them. Cochran, Sampling Techniques, 3rd edition, 6.3.
        """
        rows = self._by_entity.values[self._by_entity.values[:, -1] > 0].astype(np.float64)
        total = rows[:, -1].sum()
        tabled: list[tuple[float, int, float, tuple[float, float] | None]] = []
        for place, level in enumerate(TABLED):
            count = rows[:, place].sum()
            share = count / total if total else 0.0
            interval = None
            if len(rows) >= ENTITIES_FOR_INTERVAL:
                spread = ((rows[:, place] - share * rows[:, -1]) ** 2).sum() * len(rows) / (len(rows) - 1)
                half = 1.96 * np.sqrt(spread) / total
                interval = (float(max(0.0, share - half)), float(min(1.0, share + half)))
            tabled.append((level, int(count), float(share), interval))
        return tabled


class Envelope:
    """The extremes of score and threshold in equal stretches of event time, of all records and of chosen entities apart.

    Series 0 is of all records. Every array is [series, stretches] float64, NaN or infinite where a stretch is empty.
    """

    def __init__(self, first_us: int, last_us: int, chosen: Mapping[int, int], stretches: int) -> None:
        """Take records between two event times, both included. chosen: entity code → series, from 1."""
        self.first_us, self.width_us = first_us, max(1.0, (last_us - first_us + 1) / stretches)
        self._series = np.zeros(1 + max(chosen, default=0), np.int64)
        for code, series in chosen.items():
            self._series[code] = series
        shape = (1 + len(chosen), stretches)
        self.lowest, self.highest = np.full(shape, np.inf), np.full(shape, -np.inf)
        self.threshold_lowest, self.threshold_highest = np.full(shape, np.inf), np.full(shape, -np.inf)
        self.highest_anomalous = np.full(shape, -np.inf)

    def add(self, entity: Codes, times_us: Integers, score: Floats, threshold: Floats, is_anomalous: Booleans) -> None:
        """Records in any order; what is no number changes nothing."""
        stretch = np.clip(((times_us - self.first_us) / self.width_us).astype(np.int64), 0, self.lowest.shape[1] - 1)
        series = np.where(entity < len(self._series), self._series[np.minimum(entity, len(self._series) - 1)], 0)
        self._take(stretch, score, threshold, is_anomalous)
        is_chosen = series > 0
        places = series[is_chosen] * self.lowest.shape[1] + stretch[is_chosen]
        self._take(places, score[is_chosen], threshold[is_chosen], is_anomalous[is_chosen])

    def _take(self, places: Integers, score: Floats, threshold: Floats, is_anomalous: Booleans) -> None:
        for extremes, values, best in (
            (self.lowest, score, np.fmin),
            (self.highest, score, np.fmax),
            (self.threshold_lowest, threshold, np.fmin),
            (self.threshold_highest, threshold, np.fmax),
        ):
            best.at(extremes.reshape(-1), places, values)
        np.fmax.at(self.highest_anomalous.reshape(-1), places[is_anomalous], score[is_anomalous])
