"""The last observations of every entity, and where things stand in a micro-batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from anomaly_daemon.domain.columns import Column
from anomaly_daemon.state.segments import Layout
from anomaly_daemon.state.table import Table


class Index:
    """Where things stand in a layout, as tensors on the device; N rows, B entities.

    seen: int64 [B], observations of each entity before the micro-batch. rank, step: as in the layout. count: int64 [N], up to and with the row.
    """

    def __init__(self, layout: Layout, seen: Tensor, device: str) -> None:
        self.rank, self.step, self.starts, self.slots = (
            torch.from_numpy(array).to(device) for array in (layout.rank, layout.step, layout.starts, layout.slots)
        )
        self.seen = seen
        self.count = seen.index_select(0, self.rank) + self.step + 1
        lengths = torch.bincount(self.rank)
        self.last_row = self.starts[lengths - 1] + torch.arange(len(lengths), device=device)


class Ring:
    """Observed values, float32 [length, F] per entity; read and written in place."""

    def __init__(self, length: int, features: int) -> None:
        self.column = Column("ring", "float32", (length, features), fill=float("nan"))
        self._length = length

    def history(self, index: Index, table: Table, values: Tensor, chosen: Tensor, steps: int) -> Tensor:
        """The `steps` newest observations at each chosen row of `values` [N, F], newest first, NaN before the first: [chosen, steps, F]."""
        back = torch.arange(steps, device=values.device)
        rank = index.rank.index_select(0, chosen)
        step = index.step.index_select(0, chosen)[:, None] - back
        here = index.starts[step.clamp(min=0)] + rank[:, None]
        number = index.seen.index_select(0, rank)[:, None] + step
        before = table.slab(self.column.name)[index.slots.index_select(0, rank)[:, None], number.remainder(self._length)]
        before = torch.where((number >= 0)[..., None], before, torch.nan)
        return torch.where((step >= 0)[..., None], values[here.clamp(max=len(values) - 1)], before)

    def remember(self, layout: Layout, index: Index, table: Table, values: Tensor) -> None:
        """Write the micro-batch's values; its history can then no longer be told."""
        lengths = np.bincount(layout.rank)
        kept = torch.from_numpy(np.flatnonzero(layout.step >= lengths[layout.rank] - self._length)).to(values.device)
        rank = index.rank.index_select(0, kept)
        place = (index.seen.index_select(0, rank) + index.step.index_select(0, kept)).remainder(self._length)
        table.slab(self.column.name)[index.slots.index_select(0, rank), place] = values.index_select(0, kept)
