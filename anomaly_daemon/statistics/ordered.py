"""Sums whose bits do not depend on how many rows there are."""

from __future__ import annotations

from torch import Tensor


def summed(parts: Tensor) -> Tensor:
    """[N, P] → [N], one part after the other: the order of a reduction may depend on N."""
    total, *others = parts.unbind(1)
    for part in others:
        total = total + part
    return total
