"""What needs no network: usual value of the hour, nearest remembered value, bank of multivariate EWMA charts; each with the same running tail.

Every control sees the values (and events as indicators), is fitted on the clean first part and goes on learning from what it judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tests.benchmarks.quality.contextual_streams import DAY_S, Floats, Stream, moving_average

SPANS, SHRINKAGE, STD_FLOOR, CLIP = (1, 10, 30), 0.1, 0.05, 10.0
REMEMBERED_MAX = 256
SLOTS_PER_DAY = 24
WINDOW, PEAK_SHARE, REFIT_EVERY, SUSPECT_TAIL = 2000, 0.02, 20, 1e-3
_FORGETTING = 0.02

Control = Callable[[Stream], Floats]


def scaled(stream: Stream) -> Floats:
    """[T, C] by mean and deviation of the clean part, amounts of events as logarithms beside one indicator an event."""
    values = stream.values
    if stream.events is not None:
        names = sorted(set(stream.events))
        indicators = np.array([[float(event == name) for name in names] for event in stream.events])
        values = np.concatenate([np.log1p(values), indicators], 1)
    known = values[: stream.training]
    deviation = np.maximum(known.std(0), STD_FLOOR * np.ptp(known, axis=0))
    found: Floats = np.clip((values - known.mean(0)) / np.where(deviation > 0, deviation, 1.0), -CLIP, CLIP)
    return found


def seasonal_naive(stream: Stream) -> Floats:
    """How far from what the same hour of the same kind of day (workday, weekend) usually brings, in its usual deviations."""
    values = scaled(stream)
    hours = (stream.times_s % DAY_S) // (DAY_S // SLOTS_PER_DAY)
    slot = (hours + SLOTS_PER_DAY * (((stream.times_s // DAY_S + 3) % 7) >= 5)).astype(int)
    mean, square = np.zeros((2 * SLOTS_PER_DAY, values.shape[1])), np.ones((2 * SLOTS_PER_DAY, values.shape[1]))
    seen, score = np.zeros(2 * SLOTS_PER_DAY), np.zeros(len(values))
    for row, place in enumerate(slot.tolist()):
        difference = values[row] - mean[place]
        terms = difference**2 / (square[place] + STD_FLOOR)
        score[row] = terms.mean()
        seen[place] += 1
        rate = max(1 / (seen[place] + 1), _FORGETTING)
        mean[place] += rate * difference
        square[place] += rate * (difference**2 - square[place])
    return score


def value_memory(stream: Stream) -> Floats:
    """Distance to the nearest remembered value; a full memory lets go of what is most like another."""
    values = scaled(stream)
    memory, nearest = np.full((REMEMBERED_MAX, values.shape[1]), np.inf), np.full(REMEMBERED_MAX, np.inf)
    score = np.zeros(len(values))
    for row, value in enumerate(values):
        if row < REMEMBERED_MAX:
            memory[row] = value
            distances = np.where(np.arange(REMEMBERED_MAX) < row, ((memory - value) ** 2).sum(1), np.inf)
            score[row] = distances.min() if row else 0.0
            nearest = np.minimum(nearest, distances)
            nearest[row] = distances.min()
            continue
        distances = ((memory - value) ** 2).sum(1)
        score[row] = distances.min()
        redundant = int(nearest.argmin())
        if score[row] > nearest[redundant]:
            memory[redundant] = value
            distances[redundant] = np.inf
            nearest = np.minimum(nearest, distances)
            nearest[redundant] = distances.min()
    return score


def mewma(stream: Stream) -> Floats:
    """Hotelling's distance of the values' moving averages, spans 1, 10 and 30, each over its own .99 quantile of the clean part."""
    values = scaled(stream)
    fit = slice(min(60, stream.training // 5), stream.training)
    score = np.zeros(len(values))
    for span in SPANS:
        average = moving_average(values, 2 / (span + 1))
        covariance = np.cov(average[fit].T).reshape(values.shape[1], -1)
        covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.diag(np.diag(covariance))
        covariance += 1e-3 * np.eye(len(covariance)) * max(np.trace(covariance) / len(covariance), 1e-6)
        away = average - average[fit].mean(0)
        distance = np.einsum("ij,ij->i", away @ np.linalg.inv(covariance), away)
        score += np.log1p(distance / max(float(np.quantile(distance[fit], 0.99)), 1e-9))
    return score


CONTROLS: dict[str, Control] = {"seasonal-naive": seasonal_naive, "value memory": value_memory, "MEWMA bank": mewma}


def running_tail(score: Floats, training: int) -> Floats:
    """[T] probability of a normal score as high, by what came before: rank in the last 2000, beyond their .98 quantile a fitted Pareto tail.

    A score rarer than SUSPECT_TAIL is not learned: what was planted would soon be usual. For that it calls too often where nothing is wrong.
    The clean part is given out as 1.
    Source: Hosking & Wallis 1987, probability-weighted moments.
    """
    tail = np.ones(len(score))
    held = list(score[max(0, training - WINDOW) : training])
    for row in range(training, len(score)):
        if (row - training) % REFIT_EVERY == 0:
            ordered = np.sort(np.array(held[-WINDOW:]))
            peaks = max(10, int(PEAK_SHARE * len(ordered)))
            level = ordered[-peaks - 1]
            excess = np.sort(ordered[-peaks:] - level)[::-1]
            b0 = excess.mean()
            b1 = (excess * np.arange(peaks)).sum() / (peaks * (peaks - 1))
            shape = float(np.clip(2 - b0 / max(b0 - 2 * b1, 1e-12), 1e-6, 0.5))
            scale = max(float(b0 * (1 - shape)), 1e-9)
        if score[row] > level:
            tail[row] = peaks / len(ordered) * math.exp(-math.log1p(shape * (score[row] - level) / scale) / shape)
        else:
            tail[row] = (1 + len(ordered) - np.searchsorted(ordered, score[row])) / (1 + len(ordered))
        if tail[row] > SUSPECT_TAIL:
            held.append(score[row])
    return tail
