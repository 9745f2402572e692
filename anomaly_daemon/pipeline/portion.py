"""How many records go through the device at once: fewer once it ran out of memory, more again when that has long been enough."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from anomaly_daemon.domain.errors import NoRoom

_REMEDY = "lower engine.resident_max or input.batch_records_max, or free memory on the device"
_CALM_BATCHES = 256  # an attempt at twice as many costs a micro-batch at most, so it may come now and then


@contextmanager
def undone_by_recovery() -> Iterator[None]:
    """Raises NoRoom in place of the device's own error, where state may have changed by halves: only the log can undo that."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise NoRoom(f"the device has no memory left: {error}; {_REMEDY}") from error


class Portion:
    """rows_max: records of a micro-batch at most; None: as many as come. Results never depend on cuts, so it may follow the device."""

    def __init__(self) -> None:
        self.rows_max: int | None = None
        self._halved = self._calm_batches = 0

    def halve(self, rows: int, error: Exception) -> None:
        """So many records did not fit. Raises NoRoom where that was a single one."""
        if rows <= 1:
            raise NoRoom(f"the device has no memory for a single record: {error}; {_REMEDY}") from error
        self.rows_max = rows // 2
        self._halved += 1
        self._calm_batches = 0

    def grow(self) -> None:
        """A batch is done; after many without a halving twice as many records are tried."""
        if self.rows_max is None:
            return
        self._calm_batches += 1
        if self._calm_batches >= _CALM_BATCHES:
            self.rows_max, self._calm_batches = 2 * self.rows_max, 0

    def take_halved(self) -> int:
        """Halvings since the last call."""
        halved, self._halved = self._halved, 0
        return halved
