"""What the product is held against on cards: detectors that anybody would try first, each judging a payment before it learns from it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from river.anomaly import HalfSpaceTrees
from sklearn.ensemble import IsolationForest

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

_Z_OBSERVATIONS_MIN = 5
_Z_MAX = 50.0


def running_z(cards: Sequence[NDArray[np.float32]]) -> Floats:
    """Sum of |z| over the features of each card's payments, against the card's own mean and deviation so far; 0 until it has five.

    cards: [T, F] each, NaN = missing. Returns their rows one after the other. Of sum, greatest and root of squares the sum did best.
    """
    return np.concatenate([_z_of_card(values.astype(np.float64)) for values in cards])


def _z_of_card(values: Floats) -> Floats:
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    count = np.cumsum(known, 0) - known
    mean = (np.cumsum(filled, 0) - filled) / np.maximum(count, 1)
    square = (np.cumsum(filled**2, 0) - filled**2) / np.maximum(count, 1)
    deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
    is_told = known & (count >= _Z_OBSERVATIONS_MIN) & (deviation > 0)
    z = np.divide(np.abs(filled - mean), deviation, out=np.zeros_like(filled), where=is_told)
    return np.asarray(np.minimum(z, _Z_MAX).sum(1), np.float64)


def isolation_forest(values: Floats, is_clean: Booleans, seed: int = 0) -> Floats:
    """scikit-learn's, fitted on the clean payments; a missing value counts as their mean. values: [N, F]."""
    filled = np.where(np.isnan(values), np.nanmean(values[is_clean], 0), values)
    forest = IsolationForest(n_estimators=200, random_state=seed).fit(filled[is_clean])
    anomaly: Floats = -np.asarray(forest.score_samples(filled), np.float64)
    return anomaly


def half_space_trees(values: Floats, is_clean: Booleans, order: Integers, seed: int = 0) -> Floats:
    """river's, over all cards in the order of time, on features scaled to [0, 1] by the clean payments. values: [N, F]; order: [N]."""
    low, high = np.nanmin(values[is_clean], 0), np.nanmax(values[is_clean], 0)
    scaled = np.nan_to_num((values - low) / np.where(high > low, high - low, 1.0), nan=0.5).clip(0.0, 1.0)
    trees = HalfSpaceTrees(n_trees=25, height=8, window_size=250, seed=seed)
    names = range(values.shape[1])
    score = np.full(len(values), math.nan)
    for row in order.tolist():
        payment = dict(zip(names, scaled[row].tolist(), strict=True))
        score[row] = trees.score_one(payment)
        trees.learn_one(payment)
    return score
