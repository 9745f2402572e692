"""How well scores rank anomalous records above normal ones, whatever the threshold: VUS, average precision, best F1.

One stream at a time, its records in stream order; nothing here knows entities, files or times.

VUS: Paparrizos et al., "Volume Under the Surface: A New Accuracy Evaluation Measure for Time-Series Anomaly Detection", PVLDB 15(11), 2022,
with 250 thresholds and every buffer width up to the window, as the `opt` version of TSB-AD counts it. Average precision: the sum of precision
times gain in recall over distinct thresholds, without interpolation: scikit-learn's figure, without its 5 ms a call, there being a call a stream.
Nothing is point-adjusted.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Booleans = NDArray[np.bool_]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

THRESHOLDS: Final = 250
WINDOW_ROWS: Final = 125
_PERIOD_ROWS_MAX, _PERIOD_SAMPLE_ROWS = 300, 20_000
_PERIOD_LAGS, _PERIOD_FIRST_LAG = 401, 3


@dataclass(frozen=True, slots=True)
class Ranking:
    """vus_pr, vus_roc, average_precision, best_f1: 0 to 1. best_threshold: an oracle's, scores from it on give best_f1; None of a mean."""

    vus_pr: float
    vus_roc: float
    average_precision: float
    best_f1: float
    best_threshold: float | None


def rank(is_event: Booleans, score: Floats, window_rows: int = WINDOW_ROWS) -> Ranking:
    """All ranking measures of one stream; [rows] each, both classes present, no NaN in the score.

    window_rows: the widest buffer around an event; usually the period of the stream (`period_rows`).
    """
    ordered = np.sort(score)
    average, best, threshold = precision_measures(score[is_event], ordered)
    vus_pr, vus_roc = _volumes(is_event, score, ordered, window_rows)
    return Ranking(vus_pr, vus_roc, average, best, threshold)


def without_nan(score: Floats) -> Floats:
    """NaN counts as the lowest score of the stream, 0 where there is no other; the same array where it has none."""
    is_missing = np.isnan(score)
    if not is_missing.any():
        return score
    return np.where(is_missing, 0.0 if is_missing.all() else np.nanmin(score), score)


def runs(is_set: Booleans) -> Integers:
    """[runs, 2]: first and last row of each unbroken run."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], is_set, [False])).astype(np.int8)))
    return np.stack([edges[::2], edges[1::2] - 1], axis=1)


def precision_measures(positive: Floats, ordered: Floats) -> tuple[float, float, float]:
    """Average precision, best F1 and its threshold.

    positive: scores of the anomalous records, at least one. ordered: scores of all records, ascending.
    Only thresholds at which recall grows can add to either measure.
    """
    levels, counts = np.unique(positive, return_counts=True)
    hits = np.cumsum(counts[::-1])[::-1]
    flagged = len(ordered) - np.searchsorted(ordered, levels, side="left")
    f1 = 2 * hits / (flagged + len(positive))
    # The highest of equally good thresholds.
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))
    return float(np.sum(counts / len(positive) * (hits / flagged))), float(f1[best]), float(levels[best])


def period_rows(readings: Floats) -> int:
    """The dominant period of a channel by its autocorrelation, as TSB-AD's find_length_rank finds it; WINDOW_ROWS where there is none.

    readings: [rows], of which the first 20 000 count.
    """
    sample = readings[:_PERIOD_SAMPLE_ROWS]
    if len(sample) == 0:
        return WINDOW_ROWS
    centred = sample - sample.mean()
    spectrum = np.fft.rfft(centred, 2 * len(centred))
    correlation = np.fft.irfft(spectrum * np.conj(spectrum))[:_PERIOD_LAGS]
    if not correlation[0] > 0:
        return WINDOW_ROWS
    correlation = correlation[_PERIOD_FIRST_LAG:] / correlation[0]
    inner = correlation[1:-1]
    peaks = 1 + np.flatnonzero((inner > correlation[:-2]) & (inner > correlation[2:]))
    if len(peaks) == 0:
        return WINDOW_ROWS
    highest = int(peaks[np.argmax(correlation[peaks])])
    return highest + _PERIOD_FIRST_LAG if _PERIOD_FIRST_LAG <= highest <= _PERIOD_ROWS_MAX else WINDOW_ROWS


def _volumes(is_event: Booleans, score: Floats, ordered: Floats, window_rows: int) -> tuple[float, float]:
    """VUS-PR and VUS-ROC: the areas under both curves, averaged over the buffer widths 0 … window_rows.

    Each curve has one point per level; a row's level is the first, from the highest down, that its score reaches.
    """
    rows, events = len(score), runs(is_event)
    levels = np.unique(ordered[rows - 1 - np.linspace(0, rows - 1, THRESHOLDS).astype(np.int64)])
    count = len(levels)
    level = (count - np.searchsorted(levels, score, side="right")).astype(np.int16)
    flagged = np.cumsum(np.bincount(level, minlength=count))
    hits = np.cumsum(np.bincount(level[is_event], minlength=count))
    halves = np.arange(window_rows + 1) // 2

    soft_hits = np.cumsum(_buffer_weights(events, level, count, window_rows), axis=1)
    found_share = _found_shares(events, level, count, window_rows // 2)[halves]
    true = hits + soft_hits
    positives = int(hits[-1]) + soft_hits / 2
    recall = _after_zero(np.minimum(true / positives, 1) * found_share)
    vus_pr = float(np.mean(np.sum(np.diff(recall) * (true / flagged), axis=1)))
    fall_out = _after_zero((flagged - true) / (rows - positives))
    area = np.sum(np.diff(fall_out) * (recall[:, 1:] + recall[:, :-1]) / 2, axis=1)
    # The curve ends at (1, 1).
    area += (1 - fall_out[:, -1]) * (1 + recall[:, -1]) / 2
    return vus_pr, float(np.mean(area))


def _after_zero(curves: Floats) -> Floats:
    return np.concatenate([np.zeros((len(curves), 1)), curves], axis=1)


def _buffer_weights(events: Integers, level: NDArray[np.int16], count: int, window_rows: int) -> Floats:
    """[window_rows + 1, count]: per buffer width and level the weight of the unlabelled rows within half a width of an event.

    A row at distance d of one event weighs √(1 − d / width); the weights of several events add up, to 1 at most. Within half a width each
    is at least √½, so two of them are always 1: the two nearest events of a row say all.
    """
    widest = window_rows // 2
    row, nearest, second = _buffer_rows(events, len(level), widest)
    cell = nearest * count + level[row]
    near_one = np.bincount(cell, minlength=(widest + 1) * count)
    near_two = np.zeros(count, np.int64)
    widths, distances = np.arange(window_rows + 1), np.arange(widest + 1)
    is_inside = (distances > 0) & (distances <= widths[:, None] // 2)
    weights = np.sqrt(1 - np.divide(distances, widths[:, None], out=np.ones(is_inside.shape), where=is_inside))
    total = np.empty((window_rows + 1, count))
    is_between = second <= widest
    cell, second = cell[is_between], second[is_between]
    for half, next_half in itertools.pairwise([0, *np.unique(second).tolist(), widest + 1]):
        moved = np.bincount(cell[second == half], minlength=len(near_one))
        near_one, near_two = near_one - moved, near_two + moved.reshape(-1, count).sum(axis=0)
        same = slice(2 * half, 2 * next_half)
        # Not `@`: for so little work BLAS starts threads, which cost ten times as much on a machine that is shared.
        total[same] = np.einsum("wd,dl->wl", weights[same], near_one.reshape(-1, count).astype(np.float64)) + near_two
    return total


def _buffer_rows(events: Integers, rows: int, widest: int) -> tuple[Integers, Integers, Integers]:
    """The unlabelled rows within `widest` of an event, and for each its distance to the nearest and the second nearest event."""
    starts, ends = events[:, 0], events[:, 1]
    gap_first, gap_last = np.append(0, ends + 1), np.append(starts - 1, rows - 1)
    gap_rows = gap_last - gap_first + 1
    after = np.minimum(gap_rows, widest)
    after[0] = 0
    before = np.minimum(gap_rows - after, widest)
    before[-1] = 0
    sizes = np.concatenate([after, before])
    gap = np.repeat(np.tile(np.arange(len(gap_rows)), 2), sizes)
    first = np.concatenate([gap_first, gap_last - before + 1])
    row = np.repeat(first - (np.cumsum(sizes) - sizes), sizes) + np.arange(int(sizes.sum()))
    far = np.array([rows + widest, rows + widest])
    past, coming = np.concatenate([-far, ends]), np.concatenate([starts, far + rows])
    since, until = row - past[gap + 1], coming[gap] - row
    second = np.minimum(np.maximum(since, until), np.minimum(row - past[gap], coming[gap + 1] - row))
    return row, np.minimum(since, until), second


def _found_shares(events: Integers, level: NDArray[np.int16], count: int, widest: int) -> Floats:
    """[widest + 1, count]: per half width and level the share of events found, each grown by half a width and merged with those it then touches.

    A pass per half width at which events merge: up to the next one the gaps are wide, so a pass holds no more than a cell per row of the stream.
    """
    found = []
    starts, ends = events[:, 0], events[:, 1]
    bounds = np.stack([starts, ends + 1], axis=1).ravel()
    highest = np.minimum.reduceat(np.append(level, np.int16(count)), bounds)[::2]
    merges_at = (starts[1:] - ends[:-1] + 1) // 2
    passes = [0, *np.unique(merges_at[merges_at <= widest]).tolist(), widest + 1]
    for half, next_half in itertools.pairwise(passes):
        group = np.append(0, 1 + np.flatnonzero(merges_at > half))
        # The row halfway between two events that merge now belongs to both.
        highest = np.minimum(highest, _outermost(level, starts, ends, half))
        highest = np.minimum.reduceat(highest, group)
        starts, ends = starts[group], ends[np.append(group[1:] - 1, len(ends) - 1)]
        merges_at = merges_at[merges_at > half]
        grown = np.arange(half, next_half)[:, None]
        reached = np.minimum.accumulate(np.minimum(_outermost(level, starts, ends, grown), highest), axis=0)
        highest = reached[-1]
        cell = np.arange(next_half - half)[:, None] * count + reached
        found.append(np.bincount(cell.ravel(), minlength=(next_half - half) * count).reshape(-1, count) / len(starts))
    return np.cumsum(np.concatenate(found), axis=1)


def _outermost(level: NDArray[np.int16], starts: Integers, ends: Integers, grown: int | Integers) -> NDArray[np.int16]:
    """The higher of the levels of the first and the last row of events grown by so many rows on both sides, within the stream."""
    return np.asarray(np.minimum(level[np.maximum(starts - grown, 0)], level[np.minimum(ends + grown, len(level) - 1)]))
