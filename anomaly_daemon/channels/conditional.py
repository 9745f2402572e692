"""Conditional: features that are not what the network's state, the clock and the rest of their own record say they should be."""

from __future__ import annotations

import torch
from torch import Tensor

from anomaly_daemon.channels.base import Evidence, Seen
from anomaly_daemon.domain.columns import Column
from anomaly_daemon.model.conditional import ConditionalFit, bank

CONDITIONAL = "conditional"


class ConditionalChannel:
    """The averages of every entity's residuals; asked by the network, whose state it needs."""

    def __init__(self, fit: ConditionalFit, device: str) -> None:
        self._fit = ConditionalFit(fit.spans, fit.head.to(device), fit.ordinary.to(device))
        self._bank = bank(fit.spans, fit.ordinary.shape[1])

    @property
    def columns(self) -> tuple[Column, ...]:
        """What it keeps per entity."""
        return self._bank.columns

    def observe(self, seen: Seen, before: Tensor) -> dict[str, Evidence]:
        """Evidence of each row under the state before it, float32 [N, H]; then learn. Nothing is said of an entity's first."""
        residual = self._fit.head.residual(before, seen.scaled)
        residual = torch.where((seen.index.count > 1)[:, None], residual, torch.nan)
        averages = self._bank.differences(seen.layout.widths.tolist(), seen.rows, self._fit.limited(residual))
        squares = self._fit.squares(residual, averages)
        error = self._fit.error(squares, ~residual.isnan().all(1))
        return {CONDITIONAL: Evidence(error, ~error.isnan(), lambda chosen: squares.index_select(0, chosen).amax(1))}
