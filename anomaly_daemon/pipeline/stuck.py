"""Readings that stand still though they used to move: how long each has repeated its value, and whether that is its habit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anomaly_daemon.domain.columns import Column
from anomaly_daemon.pipeline.features import EntityMajor
from anomaly_daemon.state.segments import Layout
from anomaly_daemon.state.table import HostRows

REPEATS_MIN: Final = 10
_VALUE, _SINCE, _REPEATS, _HABIT = "stuck_values", "stuck_since_us", "stuck_repeats", "stuck_habits"
# Bits of the habit: the reading has changed before; it stood for long while that was no fault; it stands for long now; that is a fault.
_MOVES, _STANDS, _LONG, _FAULT = 1, 2, 4, 8


class Stuck:
    """The watched columns of the readings, and how long each may repeat its value."""

    def __init__(self, limit_us: int, watched: Sequence[int], warmup_observations: int) -> None:
        self._limit_us, self._watched, self._warmup = limit_us, list(watched), warmup_observations

    def columns(self) -> tuple[Column, ...]:
        """Of each watched reading: its last value, since when and in how many records it repeats it, and its habit."""
        shape = (len(self._watched),)
        return (
            Column(_VALUE, "float64", shape, np.nan, is_host=True),
            Column(_SINCE, "int64", shape, is_host=True),
            Column(_REPEATS, "int32", shape, is_host=True),
            Column(_HABIT, "uint8", shape, is_host=True),
        )

    def find(
        self, layout: Layout, times_us: NDArray[np.int64], readings: NDArray[np.float64], seen: NDArray[np.int64], host: HostRows
    ) -> list[tuple[int, int, int]]:
        """Row of the layout, column of the readings and since when, of each reading at fault; the columns are advanced in place.

        All [N] in the order of the layout; seen: observations of the entity before each.
        """
        runs = EntityMajor.of(layout)
        values, times, is_warm = np.empty((len(times_us), len(self._watched))), np.empty_like(times_us), np.empty(len(times_us), np.bool_)
        values[runs.place], times[runs.place], is_warm[runs.place] = readings[:, self._watched], times_us, seen >= self._warmup
        rank, place = runs.rank[:, None], np.arange(len(times))[:, None]
        start = runs.starts[rank]
        is_first = place == start
        before = np.where(is_first, host[_VALUE][runs.rank], np.roll(values, 1, axis=0))
        is_same = values == before
        turned = np.maximum.accumulate(np.where(is_same, -1, place), axis=0)
        is_here = turned >= start
        since_us = np.where(is_here, times[np.maximum(turned, 0)], host[_SINCE][runs.rank])
        repeats = np.where(is_here, place - turned, host[_REPEATS][runs.rank] + place - start + 1)
        is_long = is_same & (times[:, None] - since_us >= self._limit_us) & (repeats >= REPEATS_MIN)
        is_change = ~is_same & ~np.isnan(before) & ~np.isnan(values)
        habit = host[_HABIT][runs.rank]
        moves = _so_far(is_change, start) | (habit & _MOVES > 0)
        may_fault = is_long & moves & is_warm[:, None]
        was_long = np.where(is_first, habit & _LONG > 0, np.roll(is_long, 1, axis=0))
        was_fault = np.where(is_first, habit & _FAULT > 0, np.roll(may_fault, 1, axis=0))
        stands = _so_far(is_change & was_long & ~was_fault, start) | (habit & _STANDS > 0)
        ends = runs.ends - 1
        host[_VALUE][:], host[_SINCE][:], host[_REPEATS][:] = values[ends], since_us[ends], np.minimum(repeats[ends], np.iinfo(np.int32).max // 2)
        host[_HABIT][:] = (moves * _MOVES | stands * _STANDS | is_long * _LONG | may_fault * _FAULT)[ends]
        is_fault = (may_fault & ~stands)[runs.place]
        since_us = since_us[runs.place]
        return [(row, self._watched[column], int(since_us[row, column])) for row, column in np.argwhere(is_fault).tolist()]


def _so_far(flags: NDArray[np.bool_], start: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a flag was up at or before each row of its entity; start: [N, 1] the entity's first row."""
    count = np.cumsum(flags, axis=0)
    return np.asarray(count - np.take_along_axis(count - flags, np.broadcast_to(start, flags.shape), 0) > 0)
