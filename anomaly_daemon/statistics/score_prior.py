"""What a fused score usually is before its entity showed so itself: what the tail and the first verdicts begin from. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomaly_daemon.statistics.reach import moments_within

LEVELS: Final = (0.2, 0.05, 0.02, 0.01, 0.003, 0.001, 0.0003, 0.0001)
FIRST_MIN, GAP_MIN, GAP_MAX = -3.0, 0.02, 100.0
_COUNTED_MIN = 5  # scores beyond a quantile from which it is read off a sample, not drawn on as an exponential tail
_TAIL_SHARE = 50
_EXCESSES_MIN = 3  # beyond an entity's quantile, from which it tells how far it goes there
EXCESS_AT: Final = 1  # of LEVELS, the quantile that excesses are counted from
EXCESS_MIN, SHAPE_MIN, SHAPE_MAX = 1e-3, -0.4, 0.4
_GOLDEN = (5**0.5 - 1) / 2  # its multiples, modulo 1, are spread evenly from the first on


class ScorePrior(NamedTuple):
    """What training showed of the fused score.

    mean, variance: of log(score + 1e-6) while its entities were young, within reach, for their first records have next to no evidence.
    quantiles: of the deviations of later ones that were held out, by LEVELS, rising by GAP_MIN or more.
    excess, shape: by how much those of one entity exceed its own LEVELS[EXCESS_AT] quantile where they do, the mean over the entities; and the
    shape of a generalized Pareto distribution that varies as much, within ±.4.
    """

    mean: float
    variance: float
    quantiles: tuple[float, ...]
    excess: float = 0.418
    shape: float = -0.13

    def quantile(self, tail: float) -> float:
        """Deviations beyond which a share `tail` lies, at most LEVELS[0]; drawn on beyond the last level."""
        steps = np.log(LEVELS[0]) - np.log(LEVELS)
        slope = (self.quantiles[-1] - self.quantiles[-2]) / (steps[-1] - steps[-2])
        wanted = math.log(LEVELS[0] / tail)
        return float(np.interp(wanted, steps, self.quantiles)) + float(slope) * max(0.0, wanted - float(steps[-1]))

    def sample(self, count: int) -> NDArray[np.float32]:
        """So many deviations as these, [count], in an order in which any stretch of them is spread as all are; below LEVELS[0] as if normal."""
        ranks = np.argsort(np.argsort(np.arange(1, count + 1) * _GOLDEN % 1))
        normal, known = NormalDist(), LEVELS[0]
        tails = ((ranks + 0.5) / count).tolist()
        drawn = [self.quantile(min(tail, known)) + min(0.0, normal.inv_cdf(1 - tail) - normal.inv_cdf(1 - known)) for tail in tails]
        return np.array(drawn, np.float32)


UNKNOWN = ScorePrior(-1.0, 1.0, (0.842, 1.645, 2.054, 2.326, 2.748, 3.090, 3.432, 3.719))
"""Of an artifact that was not rehearsed: scores below 1, and the normal distribution."""


def prior_of(young: NDArray[np.float64], deviations: Sequence[NDArray[np.float64]]) -> ScorePrior:
    """The prior from log scores of young entities and from later deviations of each, all finite; what is too short to tell is as in `UNKNOWN`."""
    mean, variance = moments_within(young) if len(young) > 1 else UNKNOWN[:2]
    pooled = np.sort(np.concatenate([np.zeros(0), *deviations]))
    quantiles = _quantiles(pooled) if len(pooled) >= _TAIL_SHARE else UNKNOWN.quantiles
    return ScorePrior(mean, variance, quantiles, *_excesses([np.sort(own) for own in deviations]))


def _quantiles(ordered: NDArray[np.float64]) -> tuple[float, ...]:
    """By LEVELS, of a rising sample."""
    peaks = max(_COUNTED_MIN, len(ordered) // _TAIL_SHARE)
    peak = ordered[-peaks - 1]
    excess = float((ordered[-peaks:] - peak).mean())
    found: list[float] = []
    for level in LEVELS:
        is_counted = len(ordered) * level >= _COUNTED_MIN
        quantile = ordered[int(len(ordered) * (1 - level))] if is_counted else peak + excess * math.log(peaks / len(ordered) / level)
        least = found[-1] + GAP_MIN if found else FIRST_MIN
        found.append(min(max(float(quantile), least), found[-1] + GAP_MAX if found else GAP_MAX))
    return tuple(found)


def _excesses(samples: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Mean and shape of what lies beyond the LEVELS[EXCESS_AT] quantile of each rising sample.

    Scales differ between entities, and a mixture of scales has a heavier tail than any of them: so the ratio of the mean square to the squared mean
    is taken of each entity by itself, weighed by its excesses, and freed of what so few make it too small by where tails are exponential.
    """
    means, ratios, counts = [], [], []
    for ordered in samples:
        count = int(len(ordered) * LEVELS[EXCESS_AT])
        excess = ordered[-count:] - ordered[-count - 1] if count >= _EXCESSES_MIN else np.zeros(1)
        if (mean := float(excess.mean())) > EXCESS_MIN:
            means.append(mean)
            ratios.append(float((excess * excess).mean()) / (mean * mean) * (count + 1) / count)
            counts.append(count)
    if not means:
        return UNKNOWN.excess, UNKNOWN.shape
    ratio = max(1 + EXCESS_MIN, float(np.average(ratios, weights=counts)))
    return float(np.mean(means)), min(max(0.5 * (1 - 1 / (ratio - 1)), SHAPE_MIN), SHAPE_MAX)
