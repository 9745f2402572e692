"""The last scores of every entity, as a ring: what the rolling statistics are refitted from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from anomaly_daemon.domain.columns import Column

SCORE_MAX = 1e30
"""Larger scores count as this one, so that sums of them stay finite in float32."""
REFIT_EVERY = 20
TAIL_PROBABILITY_MIN = 1e-4
"""Nothing rarer is claimed: windows of a few thousand scores cannot bear it out."""
_EMPTY = -1.0  # scores are never negative
_CREDIT_NEEDED = 1 - 1e-9  # ten weights of 0.1 add up to a little less than 1


class Window:
    """The last `length` scores, float32, at least 0.

    A weight below 1 is saved up: of scores at weight 0.1 every tenth is taken in.
    """

    def __init__(self, name: str, length: int, refit_every: int = REFIT_EVERY) -> None:
        self.scores, self.learned, self._credit = f"{name}.scores", f"{name}.learned", f"{name}.credit"
        self.length = length
        self._refit_every = refit_every

    def columns(self) -> tuple[Column, ...]:
        """The ring, how many scores it ever took in, and the weight saved up."""
        return (Column(self.scores, "float32", (self.length,), _EMPTY), Column(self.learned, "int64"), Column(self._credit, "float64"))

    def learn(self, rows: Mapping[str, Tensor], score: Tensor, weight: Tensor) -> Tensor:
        """Take score [n] in at weight [n]; returns the indices, int64, of the entities that are now due for a refit.

        An entity is due after every `refit_every` scores of its own history, so batch cuts never move a refit.
        """
        scores, learned, credit = rows[self.scores], rows[self.learned], rows[self._credit]
        credit.add_(weight)
        is_taken = credit >= _CREDIT_NEEDED
        credit.sub_(is_taken.to(credit.dtype))
        place = (learned % self.length).unsqueeze(1)
        scores.scatter_(1, place, torch.where(is_taken.unsqueeze(1), _as_stored(score), scores.gather(1, place)))
        learned.add_(is_taken)
        return torch.nonzero(is_taken & (learned % self._refit_every == 0)).squeeze(1)

    def held(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Scores held, int64 [n]."""
        return rows[self.learned].clamp(max=self.length)

    def rank(self, rows: Mapping[str, Tensor], score: Tensor) -> Tensor:
        """(1 + scores held that are at least as high) / (1 + scores held), float64 [n]: the tail as far as it was seen."""
        scores = rows[self.scores]
        # Ones and zeros as float32: five times faster to count than a bool tensor, and exact.
        as_high = torch.ge(scores, _as_stored(score), out=torch.empty_like(scores)).sum(1)
        return (as_high.to(torch.float64) + 1).div_(self.held(rows) + 1)

    def highest(self, rows: Mapping[str, Tensor], entities: Tensor, count: int) -> Tensor:
        """The `count` highest scores of some entities, falling, float64 [entities, count]; empty places come last, as −1."""
        return torch.topk(rows[self.scores][entities], count, dim=1).values.to(torch.float64)


def _as_stored(score: Tensor) -> Tensor:
    return score.clamp(max=SCORE_MAX).to(torch.float32).unsqueeze(1)
