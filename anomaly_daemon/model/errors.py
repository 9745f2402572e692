"""Errors of the autoencoder: the same arithmetic calibrates a model and judges with it.

Every term is (difference / level)², level being the root mean squared error of that feature (and lag) on data the
weights were not fitted on, so a term of ordinary data is about 1. All in float64; a row's bits depend on that row only.
"""

from __future__ import annotations

import torch
from torch import Tensor

# One wild feature counts as ten deviations and no more: it must not drown what the others say.
TERM_MAX = 100.0


def squared_terms(expected: Tensor, actual: Tensor, level: Tensor) -> Tensor:
    """((actual − expected) / level)² up to 100, NaN where `actual` is missing: each feature's contribution to an error.

    expected, actual: [..., F], or [M, K, F], scaled, actual NaN = missing. level: [F] or [K, F]. Returns float64 of that shape.
    """
    deviation = (actual.double() - expected.double()) / level.double()
    return (deviation * deviation).clamp(max=TERM_MAX)


def prediction_error(expected: Tensor, scaled: Tensor, level: Tensor) -> Tensor:
    """Mean term over the features present: [N, F], [N, F] (NaN = missing), [F] → float64 [N]; NaN where none is present."""
    return _mean_of_present(squared_terms(expected, scaled, level))


def reconstruction_error(rebuilt: Tensor, target: Tensor, level: Tensor) -> Tensor:
    """Mean term over the window's values present: [M, K, F], [M, K, F] (NaN = missing), [K, F] → float64 [M]; NaN where none is."""
    return _mean_of_present(squared_terms(rebuilt, target, level).flatten(1))


def _mean_of_present(terms: Tensor) -> Tensor:
    """[N, C] float64, NaN = missing → [N]. A sum along the row: its order does not depend on N."""
    present = ~torch.isnan(terms)
    return torch.where(present, terms, 0.0).sum(1) / present.sum(1)
