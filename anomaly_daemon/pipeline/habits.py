"""What an entity usually does, and how far a record is from it: its values of a field, its hours, its amounts, its pace.

Each feature here remembers a bounded table per entity, as host columns. A record is judged by what was known before it,
then counted. Rows of an entity come one step after the other; the rows of one step belong to different entities.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from anomaly_daemon.domain.columns import Column
from anomaly_daemon.domain.times import DAY_US
from anomaly_daemon.state.segments import Layout

Reals = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]
HostRows = dict[str, NDArray[Any]]

PERIODS_US: Final = {"hour_of_day": DAY_US, "day_of_week": 7 * DAY_US}
_BINS: Final = {"hour_of_day": 24, "day_of_week": 28}
# Until an entity was seen this often, it is taken as seen at all times alike, and its amounts as spread by a factor of e.
_PRIOR_OBSERVATIONS: Final = 4
# A value of a category starts from the entity's mean over all of them, which counts as one record of it.
_PRIOR_WITHIN: Final = 1


def _steps(layout: Layout) -> Iterator[tuple[slice, int]]:
    """The rows of each step and how many there are: those of the first entities."""
    for start, width in zip(layout.starts.tolist(), layout.widths.tolist(), strict=True):
        yield slice(start, start + width), width


class Habit(Protocol):
    """What keeps columns per entity."""

    def columns(self) -> tuple[Column, ...]:
        """Those columns, on the host."""
        ...


@dataclass(frozen=True, slots=True)
class Category:
    """A category field: its column in the categories, and rarity's in the values; new's is the next, then those of `bits` bits."""

    name: str
    column: int
    value: int
    values_max: int
    bits: int

    def columns(self) -> tuple[Column, ...]:
        """The hashes that the entity is known by, free where the count is 0, and how often each was seen since it entered the table."""
        shape = (self.values_max,)
        return Column(self._hashes, "int64", shape, is_host=True), Column(self._counts, "int64", shape, is_host=True)

    @property
    def _hashes(self) -> str:
        return f"category_{self.column}_values"

    @property
    def _counts(self) -> str:
        return f"category_{self.column}_counts"

    def judge(self, layout: Layout, hashes: Integers, rows: HostRows) -> tuple[Reals, Integers]:
        """Rarity and whether the value is new, [N, 2], and the place of each value in the table, [N].

        Rarity is minus the log of how probable the value was. New ones together are as probable as those seen once are frequent, so that
        an entity that often shows new values surprises nobody with one (Good 1953, "The population frequencies of species"); the others
        share the rest by how often they were seen.
        hashes: [N] in the order of the layout, 0 = missing: then both are NaN and the place is −1.
        A new value takes the place with the smallest count, the first of those.
        """
        table, counts = rows[self._hashes], rows[self._counts]
        judged, places = np.full((len(hashes), 2), np.nan), np.full(len(hashes), -1)
        for here, _ in _steps(layout):
            seen = hashes[here]
            active = np.flatnonzero(seen)
            if not len(active):
                continue
            seen, known, known_counts = seen[active], table[active], counts[active]
            is_match = (known == seen[:, None]) & (known_counts > 0)
            is_new = ~is_match.any(1)
            place = np.where(is_new, known_counts.argmin(1), is_match.argmax(1))
            count = np.where(is_new, 0, known_counts[np.arange(len(active)), place])
            total = known_counts.sum(1)
            of_new = ((known_counts == 1).sum(1) + 1) / (total + 2)
            judged[here.start + active, 0] = -np.log(np.where(is_new, of_new, (1 - of_new) * count / np.maximum(total, 1)))
            judged[here.start + active, 1] = is_new
            places[here.start + active] = place
            table[active, place] = seen
            counts[active, place] = count + 1
        return judged, places

    def told(self, hashes: Integers) -> Reals:
        """The lowest bits of each hash as 1 and -1, [N, bits], NaN = missing: so many random signs that a line through them tells some values apart.

        Source: Weinberger et al. 2009, arXiv:0902.2206, "Feature hashing for large scale multitask learning".
        """
        signs = np.where(hashes[:, None] >> np.arange(self.bits) & 1, 1.0, -1.0)
        signs[hashes == 0] = np.nan
        return signs


@dataclass(frozen=True, slots=True)
class UnusualTime:
    """How seldom the entity is seen at this time of the period: its column in the values."""

    period: str
    value: int

    def columns(self) -> tuple[Column, ...]:
        """How often the entity was seen in each part of the period."""
        return (Column(self._counts, "int32", (_BINS[self.period],), is_host=True),)

    @property
    def _counts(self) -> str:
        return f"times_{self.value}_counts"

    def judge(self, layout: Layout, times_us: Integers, rows: HostRows) -> Reals:
        """Minus the log of the entity's frequency at these times over that of an entity that is seen at all times alike, [N].

        The frequency is that of the part of the period, smoothed with its two neighbours by 1:2:1.
        """
        counts = rows[self._counts]
        bins = counts.shape[1]
        part = times_us % PERIODS_US[self.period] * bins // PERIODS_US[self.period]
        near, total = np.empty(len(part), np.int64), np.empty(len(part), np.int64)
        for here, width in _steps(layout):
            entity, now = np.arange(width), part[here]
            near[here] = counts[entity, now - 1] + 2 * counts[entity, now] + counts[entity, (now + 1) % bins]
            total[here] = counts[:width].sum(1)
            counts[entity, now] += 1
        return np.asarray(-np.log((near * bins / 4 + _PRIOR_OBSERVATIONS) / (total + _PRIOR_OBSERVATIONS)))


@dataclass(frozen=True, slots=True)
class RecentCount:
    """How many records of the entity there were lately: its column in the values, and the time after which one counts half."""

    half_life_s: float
    value: int

    def columns(self) -> tuple[Column, ...]:
        """The count after the entity's last record."""
        return (Column(self._count, "float64", is_host=True),)

    @property
    def _count(self) -> str:
        return f"recent_{self.value}_count"

    def judge(self, layout: Layout, gaps_s: Reals, rows: HostRows) -> Reals:
        """The log of the count, each record and the one at hand among them, [N]; 0 for an entity's first.

        gaps_s: [N] seconds since the entity's previous record, NaN for its first.
        """
        count = rows[self._count]
        kept = np.exp2(np.nan_to_num(gaps_s) / -self.half_life_s)
        counted = np.empty(len(gaps_s))
        for here, width in _steps(layout):
            count[:width] = count[:width] * kept[here] + 1
            counted[here] = count[:width]
        return np.log(counted)


@dataclass(frozen=True, slots=True)
class Relative:
    """A number held against the entity's own: its column in the readings and in the values, and the category it is compared within."""

    reading: int
    value: int
    within: Category | None

    def columns(self) -> tuple[Column, ...]:
        """Count, mean and sum of squares of the log, over all records and, where it is compared within a category, of each value of that."""
        own = Column(self._own, "float64", (3,), is_host=True)
        if self.within is None:
            return (own,)
        pooled = Column(self._pooled, "float64", (2,), is_host=True)
        return own, pooled, Column(self._by_place, "float64", (self.within.values_max, 3), is_host=True)

    @property
    def _own(self) -> str:
        return f"relative_{self.value}_own"

    @property
    def _pooled(self) -> str:
        return f"relative_{self.value}_pooled"

    @property
    def _by_place(self) -> str:
        return f"relative_{self.value}_within"

    def judge(self, layout: Layout, logs: Reals, places: tuple[Integers, Booleans] | None, rows: HostRows) -> Reals:
        """Deviations of each log from what the entity showed before, [N]; NaN where it is missing or the entity's first.

        places: [N] where the category's value stands in its table, and whether it is new there; −1 = missing: compared with all records.
        The mean of a value starts from the entity's own; its variance is drawn to that of the entity's records around their values' means.
        """
        found = np.full(len(logs), np.nan)
        own = rows[self._own]
        for here, _ in _steps(layout):
            if places is not None:  # even where the number itself is missing: the place was another value's
                fresh = np.flatnonzero(places[1][here])
                rows[self._by_place][fresh, places[0][here][fresh]] = 0.0
            active = np.flatnonzero(~np.isnan(logs[here]))
            log, all_records = logs[here][active], own[active]
            center, variance = _center_and_variance(all_records)
            if places is not None:
                place = places[0][here][active]
                is_told = place >= 0
                told, place = active[is_told], place[is_told]
                value = rows[self._by_place][told, place]
                pooled = rows[self._pooled][told]
                center[is_told], variance[is_told] = _within(value, pooled, center[is_told], variance[is_told])
                rows[self._by_place][told, place] = learned = _learn(value, log[is_told])
                rows[self._pooled][told] = pooled + np.stack([value[:, 0] > 0, learned[:, 2] - value[:, 2]], 1)
            known = all_records[:, 0] > 0
            found[here.start + active[known]] = (log[known] - center[known]) / np.sqrt(variance[known])
            own[active] = _learn(all_records, log)
        return found


def _center_and_variance(records: Reals) -> tuple[Reals, Reals]:
    """Mean and variance of the next log, given count, mean and sum of squares, [n, 3]: the spread of records and the doubt of their mean."""
    count = np.maximum(records[:, 0], 1)
    variance = (records[:, 2] + _PRIOR_OBSERVATIONS) / (count - 1 + _PRIOR_OBSERVATIONS)
    return records[:, 1].copy(), variance * (1 + 1 / count)


def _within(value: Reals, pooled: Reals, center: Reals, variance: Reals) -> tuple[Reals, Reals]:
    """The same for one value of the category: [n, 3] of it, [n, 2] of all values' deviations from their means, and the entity's own."""
    count = value[:, 0] + _PRIOR_WITHIN
    usual = (pooled[:, 1] + _PRIOR_OBSERVATIONS) / (pooled[:, 0] + _PRIOR_OBSERVATIONS)
    spread = (value[:, 2] + _PRIOR_OBSERVATIONS * usual) / (np.maximum(value[:, 0], 1) - 1 + _PRIOR_OBSERVATIONS)
    return (value[:, 0] * value[:, 1] + _PRIOR_WITHIN * center) / count, spread + variance / count


def _learn(records: Reals, logs: Reals) -> Reals:
    """Count, mean and sum of squares, [n, 3], with one more each (Welford)."""
    count = records[:, 0] + 1
    deviation = logs - records[:, 1]
    mean = records[:, 1] + deviation / count
    return np.stack([count, mean, records[:, 2] + deviation * (logs - mean)], 1)
