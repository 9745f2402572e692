"""Sequences of a corpus gone through side by side, as the engine would: what is fitted on a slab's own numbers is fitted as it is served."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_daemon.domain.columns import Column
from anomaly_daemon.model.corpus import Corpus
from anomaly_daemon.state.segments import Layout, lay_out

_VALUES_AT_ONCE = 2**23


@dataclass(frozen=True, slots=True)
class Side:
    """The training and validation parts of some sequences; N rows in layout order.

    rows: int64 [N], in the corpus. trained: int64 [N], how many rows of the row's sequence are for training; its own place is `layout.step`.
    """

    layout: Layout
    rows: Tensor
    trained: NDArray[np.int64]

    @property
    def widths(self) -> list[int]:
        """Rows of each step."""
        widths: list[int] = self.layout.widths.tolist()
        return widths

    @property
    def is_validation(self) -> Tensor:
        """Bool [N]."""
        return torch.from_numpy(self.layout.step >= self.trained)

    def is_training(self, lead_in_rows: int, lead_in_share: float) -> Tensor:
        """Bool [N]: in the training part, and past its first rows: so many, of a short sequence that share."""
        step = self.layout.step
        return torch.from_numpy((step >= np.minimum(lead_in_rows, lead_in_share * self.trained)) & (step < self.trained))

    def start(self, columns: Sequence[Column]) -> dict[str, Tensor]:
        """Rows of these columns as entities begin with them."""
        count = len(self.layout.slots)
        return {column.name: torch.from_numpy(column.fresh(count)) for column in columns}


def sides(corpus: Corpus) -> Iterator[Side]:
    """All sequences, some at a time, so many that they hold no more values than memory likes."""
    lengths = [split.training + split.validation for split in corpus.splits]
    for group in _groups(lengths, max(1, _VALUES_AT_ONCE // corpus.values.shape[1])):
        entity = np.repeat(np.arange(len(group)), [lengths[one] for one in group])
        first, trained = (np.array(column) for column in zip(*((corpus.first_rows[one], corpus.splits[one].training) for one in group), strict=True))
        layout = lay_out(entity)
        yield Side(layout, torch.from_numpy(first[layout.slots[layout.rank]] + layout.step), trained[layout.slots[layout.rank]])


def _groups(lengths: list[int], rows_max: int) -> Iterator[list[int]]:
    """Positions of sequences, longest first."""
    group, rows = list[int](), 0
    for position in sorted(range(len(lengths)), key=lambda one: -lengths[one]):
        if group and rows + lengths[position] > rows_max:
            yield group
            group, rows = [], 0
        group.append(position)
        rows += lengths[position]
    if group:
        yield group
