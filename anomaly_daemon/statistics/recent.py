"""Sums over the recent past of every entity: what was added counts half after each half-life of event time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from anomaly_daemon.domain.columns import Column


class RecentSums:
    """One sum a half-life, float64 [H], per entity."""

    def __init__(self, name: str, half_lives_s: Sequence[float]) -> None:
        self._sums = f"{name}.sums"
        self._rates = torch.tensor([-math.log(2) / half_life_s for half_life_s in half_lives_s], dtype=torch.float64)
        self.columns = (Column(self._sums, "float64", (len(half_lives_s),)),)

    def advance(self, widths: Sequence[int], rows: Mapping[str, Tensor], added: Tensor, gaps_s: Tensor) -> Tensor:
        """What each row adds, and the sums with it: float64 [N, 1 + H]; the column is advanced in place.

        widths: [T] rows of each step, those of the same entities first. added: float64 [N], at least 0.
        gaps_s: float64 [N], seconds since the entity's row before, at least 0.
        """
        sums = rows[self._sums]
        kept = torch.exp(gaps_s[:, None] * self._rates.to(gaps_s.device))  # [N, H]
        found = torch.cat([added[:, None], torch.empty_like(kept)], 1)
        for told, share in zip(*(torch.split(column, list(widths)) for column in (found, kept)), strict=True):
            own = sums[: len(told)]
            torch.add(own * share, told[:, :1], out=own)
            told[:, 1:] = own
        return found
