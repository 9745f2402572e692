"""What exceeds everything of late: a lasting strangeness is news once, when it begins and whenever it grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from anomaly_daemon.domain.columns import Column


class Peaks:
    """The last score that passed, float64, and the observations since, int32."""

    def __init__(self, name: str, length: int) -> None:
        """length: observations for which a score that passed keeps back those that are not higher; 0: all pass."""
        self._peak, self._age, self._length = f"{name}.peak", f"{name}.age", length
        self.columns = (Column(self._peak, "float64", fill=-1.0), Column(self._age, "int32")) if length else ()

    def passed(self, widths: Sequence[int], rows: Mapping[str, Tensor], scores: Tensor) -> Tensor:
        """Scores that pass as they are, the others 0: float64 [N], at least 0; the columns are advanced in place.

        widths: [T] rows of each step, those of the same entities first. A score of NaN stays NaN and counts for nothing.
        """
        if not self._length:
            return scores
        found = scores.clone()
        for told in torch.split(found, list(widths)):
            peak, age = rows[self._peak][: len(told)], rows[self._age][: len(told)]
            is_known = ~told.isnan()
            age += is_known
            passes = is_known & ((told > peak) | (age > self._length))
            peak.copy_(torch.where(passes, told, peak))
            age.copy_(torch.where(passes, 0, age))
            told.copy_(torch.where(passes | ~is_known, told, 0.0))
        return found
