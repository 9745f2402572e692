"""The last values of every entity, as a ring: what the rolling statistics are refitted from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_daemon.domain.columns import Column

VALUE_MAX = 1e30
"""What lies further from 0 counts as this, so that sums stay finite in float32."""
REFIT_EVERY = 20
TAIL_PROBABILITY_MIN = 1e-4
"""Nothing rarer is claimed: windows of a few thousand values cannot bear it out."""
_EMPTY = -VALUE_MAX
_DIGITS = 6
_CREDIT_NEEDED = 1 - 1e-9  # ten weights of 0.1 add up to a little less than 1


class Window:
    """The last `length` values, float32, to begin with those given, as if they had been the entity's own.

    A weight below 1 is saved up: of values at weight 0.1 every tenth is taken in.
    """

    def __init__(self, name: str, length: int, first: NDArray[np.float32], refit_every: int = REFIT_EVERY) -> None:
        """first: at least one of them, at most `length`."""
        self.values, self.learned, self._credit = f"{name}.values", f"{name}.learned", f"{name}.credit"
        self.length, self._first = length, first
        self._refit_every = refit_every

    def columns(self) -> tuple[Column, ...]:
        """The ring, how many values it ever took in, and the weight saved up."""
        ring = np.full(self.length, _EMPTY, np.float32)
        ring[: len(self._first)] = self._first
        learned = Column(self.learned, "int64", fill=len(self._first))
        return Column(self.values, "float32", (self.length,), ring), learned, Column(self._credit, "float64")

    def learn(self, rows: Mapping[str, Tensor], value: Tensor, weight: Tensor) -> Tensor:
        """Take value [n] in at weight [n]; returns the indices, int64, of the entities that are now due for a refit.

        An entity is due after every `refit_every` values of its own history, so batch cuts never move a refit.
        """
        values, learned, credit = rows[self.values], rows[self.learned], rows[self._credit]
        credit.add_(weight)
        is_taken = credit >= _CREDIT_NEEDED
        credit.sub_(is_taken.to(credit.dtype))
        place = (learned % self.length).unsqueeze(1)
        values.scatter_(1, place, torch.where(is_taken.unsqueeze(1), _as_stored(value), values.gather(1, place)))
        learned.add_(is_taken)
        return torch.nonzero(is_taken & (learned % self._refit_every == 0)).squeeze(1)

    def held(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Values held, int64 [n]."""
        return rows[self.learned].clamp(max=self.length)

    def rank(self, rows: Mapping[str, Tensor], value: Tensor) -> Tensor:
        """(1 + values held that are at least as high) / (1 + values held), float64 [n]: the tail as far as it was seen."""
        values = rows[self.values]
        # Ones and zeros as float32: five times faster to count than a bool tensor, and exact.
        as_high = torch.ge(values, _as_stored(value), out=torch.empty_like(values)).sum(1)
        return (as_high.to(torch.float64) + 1).div_(self.held(rows) + 1)

    def highest(self, rows: Mapping[str, Tensor], entities: Tensor, count: int) -> Tensor:
        """The `count` highest values of some entities, falling, float64 [entities, count]; empty places come last."""
        return torch.topk(rows[self.values][entities], count, dim=1).values.to(torch.float64)


def begun(columns: Sequence[Column], fitted: Sequence[str], refit: Callable[[Mapping[str, Tensor], Tensor], None]) -> tuple[Column, ...]:
    """The columns, those of `fitted` filled with what `refit` makes of the window's first values, to six digits: machines differ in the last ones."""
    rows = {column.name: torch.from_numpy(column.fresh(1)) for column in columns}
    refit(rows, torch.zeros(1, dtype=torch.int64))
    return tuple(replace(column, fill=round(rows[column.name].item(), _DIGITS)) if column.name in fitted else column for column in columns)


def _as_stored(value: Tensor) -> Tensor:
    return value.clamp(-VALUE_MAX, VALUE_MAX).to(torch.float32).unsqueeze(1)
