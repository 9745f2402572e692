"""Novelty of single features: how far a value lies from every one remembered, measured by the range the stream had of late.

Four signals of a feature have a memory each: its value, its level (a moving average), the size of its jumps, and its activity (an average of
how much it moves on its own scale). What is far from all that was remembered is new once: it is remembered at once, and age forgets nothing.
The work is done on the host, with numpy: a step of few entities is many small operations, each two to ten times faster than in torch.
Sources: Ramaswamy, Rastogi & Shim 2000, "Efficient Algorithms for Mining Outliers from Large Data Sets" (distance to the nearest neighbour).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_daemon.domain.columns import Column
from anomaly_daemon.statistics.running_scale import KEPT, VALUE_MAX, standardised

Floats = NDArray[np.float64]
# The series of a step: the first so many, or those that have a value.
Where = slice | NDArray[np.int64]

SIGNALS = ("value", "level", "jump", "activity")
_RESOLUTION = 1e-5  # of the range: what lies nearer to something remembered is as good as known
_GAP_WEIGHT = 0.5
_OTHERS_WEIGHT = 0.2
_RANGE_RATES = np.array([1 - 0.5 ** (1 / half_life) for half_life in (300, 3000)])[:, None, None]
_RANGE_MIN = 1e-100
_RANGES_MAX = 100.0  # by which one value widens its range at most: a wild one makes deaf for hours, not for good
_LEVEL_RATE = 2 / 31
_ACTIVITY_RATE = 2 / 11


class Novelty:
    """The memories of every feature of every entity, and what scales it."""

    def __init__(self, name: str, features: int, remembered: int = 256) -> None:
        """remembered: values per signal that a memory holds at most."""
        shape = (features, len(SIGNALS))
        self._memory, self._closest, self._reach, self._scale = (f"{name}.{part}" for part in ("memory", "closest", "reach", "scale"))
        # Rising, between an end below all and free places above all.
        empty = np.full(remembered + 2, np.inf)
        empty[0] = -np.inf
        self.columns = (
            Column(self._memory, "float64", (*shape, remembered + 2), empty),
            # Of what a memory holds, the distance of the closest pair, and the place of that which is dropped next: first, what is free.
            Column(self._closest, "float64", (*shape, 2), np.array([0.0, remembered])),
            Column(self._reach, "float64", (*shape, 2 * len(_RANGE_RATES))),
            Column(self._scale, "float64", (features, len(_Scale.KEPT))),
        )

    def scores(self, widths: Sequence[int], rows: Mapping[str, Tensor], values: Tensor) -> Tensor:
        """Novelty of each value from what was known before it: float64 [N, F], at most 8, NaN where missing; then it is learned.

        widths: [T] rows of each step, those of the same entities first. values: float64 [N, F] in the features' own units, step after step;
        a missing one (NaN) leaves its feature's columns as they were. A little below 0 where a neighbour is far from its own neighbours.
        """
        kept = {name: rows[name].cpu().contiguous().numpy() for name in (self._memory, self._closest, self._reach, self._scale)}
        memories, scale = _Memories(kept[self._memory], kept[self._closest], kept[self._reach]), _Scale(kept[self._scale])
        features = values.shape[1]
        flat = values.cpu().double().clamp(-VALUE_MAX, VALUE_MAX).numpy().ravel()
        is_there = ~np.isnan(flat)
        is_whole = bool(is_there.all())
        distance, gap = np.full((2, len(flat), len(SIGNALS)), np.nan)
        start = 0
        with np.errstate(over="ignore"):
            for width in widths:
                end = start + width * features
                at: Where = slice(0, end - start) if is_whole else np.flatnonzero(is_there[start:end])
                here = slice(start, end) if isinstance(at, slice) else start + at
                distance[here], gap[here] = memories.step(at, scale.step(at, flat[here]))
                start = end
        memories.close(kept[self._reach])
        scale.close(kept[self._scale])
        for name, column in kept.items():
            if rows[name].data_ptr() != column.ctypes.data:
                rows[name].copy_(torch.from_numpy(column))
        return torch.from_numpy(_fused(distance, gap).reshape(-1, features)).to(values.device)


def _fused(distance: Floats, gap: Floats) -> Floats:
    """Novelty of each value, [N]. distance: of each signal to its nearest neighbour, gap: of that to its own, [N, signals], in ranges.

    The base is the decades by which a distance exceeds the resolution; a value among wide-spaced ones is less of a surprise.
    """
    novelty = np.log10(np.clip(distance, _RESOLUTION, 1.0) / _RESOLUTION)
    value, level, jump, activity = novelty.T
    near, apart = distance[:, 0], gap[:, 0]
    spacing = np.log10((near + _RESOLUTION) / (near + apart + _RESOLUTION))
    found: Floats = value + _GAP_WEIGHT * spacing + _OTHERS_WEIGHT * (level + jump + activity)
    return found


class _Scale:
    """What is kept of each series, one feature of one entity; a batch's copy, [kept, series]."""

    KEPT = (*KEPT, "level", "activity", "last", "last_scaled")

    def __init__(self, column: Floats) -> None:
        """column: [B, F, kept]."""
        self._kept = np.ascontiguousarray(column.reshape(-1, len(self.KEPT)).T)

    def close(self, column: Floats) -> None:
        """Write the batch's copy back."""
        column.reshape(-1, len(self.KEPT))[:] = self._kept.T

    def step(self, at: Where, value: Floats) -> Floats:
        """The four signals of some series at their next values, [n] → [n, signals]."""
        kept = self._kept[:, at].copy()
        level, activity, last, last_scaled = kept[len(KEPT) :]
        is_first = kept[0] == 0
        if is_first.any():
            for start in (level, last):
                start[is_first] = value[is_first]
        scaled, counted = standardised(kept[: len(KEPT)], value)
        level += _LEVEL_RATE * (counted - level)
        activity += _ACTIVITY_RATE * (np.abs(scaled - last_scaled) - activity)
        signals = np.stack((value, level, np.abs(value - last), activity), axis=1)
        last[:], last_scaled[:] = value, scaled
        self._kept[:, at] = kept
        return signals


class _Memories:
    """The memory of every signal of every series and the ranges that measure it."""

    def __init__(self, memory: Floats, closest: Floats, reach: Floats) -> None:
        """memory: [B, F, signals, places], changed in place, as is closest: [B, F, signals, 2].

        reach: [B, F, signals, 2 · ranges], how far up, and how far down, negated.
        """
        self._places = memory.shape[-1]
        self._held, self._closest = memory.reshape(-1, self._places), closest.reshape(-1, 2)
        self._flat = memory.reshape(-1)
        self._numbers = np.arange(len(self._held)).reshape(-1, len(SIGNALS))
        self._reach = np.ascontiguousarray(reach.reshape(-1, len(SIGNALS), 2, len(_RANGE_RATES)).transpose(2, 3, 0, 1))

    def close(self, reach: Floats) -> None:
        """Write the batch's ranges back; the memories were changed in place."""
        reach.reshape(-1, len(SIGNALS), 2, len(_RANGE_RATES))[:] = self._reach.transpose(2, 3, 0, 1)

    def step(self, at: Where, signals: Floats) -> tuple[Floats, Floats]:
        """How far each signal is from the nearest value remembered, and that from its own nearest, in ranges: [n, signals] each; then learn."""
        flat, numbers = self._flat, self._numbers[at]
        place = numbers * self._places + self._searched(at, signals)
        below, above = signals - flat[place - 1], flat[place] - signals
        distance = np.minimum(below, above)
        nearest = place - (below <= above)
        gap = np.minimum(flat[nearest] - flat[nearest - 1], flat[nearest + 1] - flat[nearest])
        gap[np.isinf(gap)] = 0.0  # alone
        ranges = self._ranges(at, signals, np.isinf(distance))
        self._learn(numbers, place, distance, signals)
        return np.where(np.isinf(distance), 0.0, distance) / ranges, gap / ranges

    def _searched(self, at: Where, signals: Floats) -> NDArray[np.int64]:
        """In each signal's memory the place of the first value that is not below it, [n, signals]."""
        asked = signals
        if not isinstance(at, slice):  # memories are not copied to leave some out; those are asked in vain
            asked = np.zeros((at.max(initial=-1) + 1, len(SIGNALS)))
            asked[at] = signals
        found = torch.searchsorted(torch.from_numpy(self._held[: asked.size]), torch.from_numpy(asked).reshape(-1, 1))
        places: NDArray[np.int64] = found.numpy().reshape(asked.shape)
        return places if isinstance(at, slice) else places[at]

    def _ranges(self, at: Where, signals: Floats, is_first: NDArray[np.bool_]) -> Floats:
        """The geometric mean of the decaying ranges before these signals, [n, signals]."""
        reach = self._reach[:, :, at].copy()
        if is_first.any():
            reach = np.where(is_first, np.array((signals, -signals))[:, None], reach)
        short, long = reach[0] + reach[1]
        ranges: Floats = np.maximum(np.sqrt(short * long), _RANGE_MIN)
        far = np.where(ranges > _RANGE_MIN, _RANGES_MAX * ranges, np.inf)
        bounded = np.clip(signals, -reach[1, 1] - far, reach[0, 1] + far)
        signed = np.array((bounded, -bounded))[:, None]
        reach -= _RANGE_RATES * (reach - signed)
        self._reach[:, :, at] = np.maximum(reach, signed)
        return ranges

    def _learn(self, numbers: NDArray[np.int64], place: NDArray[np.int64], distance: Floats, signals: Floats) -> None:
        """Take signals in at their places; a full memory drops what says least: one of its closest pair, or the signal itself."""
        closest, dropped = self._closest[numbers].transpose(2, 0, 1)
        learned = distance > closest
        number, there = numbers[learned], place[learned]
        gone = number * self._places + dropped[learned].astype(np.int64)
        flat = self._flat.data  # a memoryview moves a stretch in half of numpy's time
        for to, free, signal in zip(there.tolist(), gone.tolist(), signals[learned].tolist(), strict=True):
            if free >= to:
                flat[to + 1 : free + 1] = flat[to:free]
                flat[to] = signal
            else:
                flat[free : to - 1] = flat[free + 1 : to]
                flat[to - 1] = signal
        full = number[self._held[number, -2] < np.inf]
        if len(full):
            self._closest[full] = self._redundant(self._held[full])

    @staticmethod
    def _redundant(held: Floats) -> Floats:
        """Of full memories, [n, places]: the distance of the closest pair, and the place of the one of it that is nearer to what lies outside."""
        gaps = np.diff(held)
        pair = gaps[:, 1:-1].argmin(1) + 1
        row = np.arange(len(pair))
        is_lower = gaps[row, pair - 1] < gaps[row, pair + 1]
        return np.stack((gaps[row, pair], pair + ~is_lower), axis=1)
