"""Who holds each of a number of places, and when each was last touched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_NOBODY = -1


class Holders:
    """Parallel to the slots in memory, or to the rows on disk; a partition is named by its number in the table."""

    def __init__(self) -> None:
        self.entities: list[str | None] = []
        self.partition = np.zeros(0, np.int32)
        self.touched = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self.entities)

    def grow(self, places: int) -> None:
        """Have so many places."""
        added = places - len(self)
        if added <= 0:
            return
        self.entities += [None] * added
        self.partition = np.concatenate([self.partition, np.full(added, _NOBODY, np.int32)])
        self.touched = np.concatenate([self.touched, np.zeros(added, np.int64)])

    def put(self, place: int, partition: int, entity: str, touched: int) -> None:
        """Give a place to an entity."""
        self.entities[place], self.partition[place], self.touched[place] = entity, partition, touched

    def free(self, place: int) -> None:
        """Nobody holds it."""
        self.entities[place], self.partition[place] = None, _NOBODY

    def of(self, partition: int) -> NDArray[np.int64]:
        """Places that a partition's entities hold."""
        return np.flatnonzero(self.partition == partition)

    def named(self, places: Sequence[int]) -> list[str]:
        """The entities that hold these places."""
        found = [self.entities[place] for place in places]
        assert None not in found
        return found  # type: ignore[return-value]

    def oldest(self, count: int, before: int) -> list[int]:
        """Up to so many held places, touched longest ago and before that moment."""
        held = np.flatnonzero((self.partition != _NOBODY) & (self.touched < before))
        if count < len(held):
            held = held[np.argpartition(self.touched[held], count)[:count]]
        return [int(place) for place in held[np.argsort(self.touched[held])]]
