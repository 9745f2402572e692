"""A partition's rows as they stood at one moment, copied a few at a time while the table goes on.

Whoever is about to change a row has it copied first, so that what is copied last is as old as what was copied at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_daemon.domain.columns import Column

Read = Callable[[NDArray[np.int64]], tuple[list[str], dict[str, NDArray[Any]]]]


class Snapshot:
    """Entities, least recently seen first, and their columns; whole once nothing waits.

    places: int64, one per entity: a slot where ≥ 0, else −1 − row of the spill file. read: entities and columns at some places.
    """

    def __init__(self, places: NDArray[np.int64], columns: Iterable[Column], read: Read) -> None:
        self.entities = [""] * len(places)
        self.columns: dict[str, NDArray[Any]] = {column.name: np.empty((len(places), *column.shape), column.dtype) for column in columns}
        self._places, self._read = places, read
        self._is_waiting = np.ones(len(places), np.bool_)
        self._next = self._kept = 0
        slots, spilled = places >= 0, places < 0
        self._number_of_slot = _numbers(places[slots], np.flatnonzero(slots))
        self._number_of_spilled = _numbers(-1 - places[spilled], np.flatnonzero(spilled))

    @property
    def is_whole(self) -> bool:
        """Whether every row is copied."""
        return self._next >= len(self._places)

    def copy(self, rows: int) -> None:
        """Copy rows that wait, so many together with those kept since the last call: what a call and a batch cost has one bound."""
        rows = max(rows - self._kept, 1)
        self._take(self._next + np.flatnonzero(self._is_waiting[self._next : self._next + rows]))
        self._next += rows
        self._kept = 0

    def keep_slots(self, slots: NDArray[np.int64]) -> None:
        """These slots are about to change or to leave."""
        self._keep(self._number_of_slot, slots)

    def keep_spilled(self, rows: Sequence[int]) -> None:
        """These rows of the spill file are about to be let go."""
        self._keep(self._number_of_spilled, np.array(rows, np.int64))

    def _keep(self, number_of: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        numbers = number_of[places[places < len(number_of)]]
        numbers = np.unique(numbers[numbers >= 0])
        numbers = numbers[self._is_waiting[numbers]]
        self._kept += len(numbers)
        self._take(numbers)

    def _take(self, numbers: NDArray[np.int64]) -> None:
        if not len(numbers):
            return
        entities, columns = self._read(self._places[numbers])
        for number, entity in zip(numbers.tolist(), entities, strict=True):
            self.entities[number] = entity
        for name, values in columns.items():
            self.columns[name][numbers] = values
        self._is_waiting[numbers] = False


def _numbers(places: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place → number, −1 where the place is nobody's."""
    number_of = np.full(int(places.max(initial=-1)) + 1, -1, np.int64)
    number_of[places] = numbers
    return number_of
