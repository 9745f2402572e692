"""The logarithm that errors and scores are calibrated in, by the model and by its entities alike: of 0, the least there is, it is finite."""

from __future__ import annotations

import torch
from torch import Tensor

OFFSET = 1e-6


def log_of(values: Tensor) -> Tensor:
    """log(values + 1e-6), a new tensor."""
    return torch.log(values + OFFSET)
