"""Rows of bytes on disk: where entities wait that do not fit in memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from anomaly_daemon.domain.errors import NoRoom

_FIRST_ROWS = 4096


class SpillFile:
    """A file of fixed-size rows with a free list; private to the process and unlinked at once, so that nothing stays behind.

    capacity: rows there is room for now.
    """

    def __init__(self, directory: Path, row_bytes: int) -> None:
        self._directory, self._row_bytes = directory, row_bytes
        self._rows: NDArray[np.uint8] | None = None
        self._file: IO[bytes] | None = None
        self._free: list[int] = []
        self.capacity = 0

    @property
    def used(self) -> int:
        """Rows held."""
        return self.capacity - len(self._free)

    def put(self, rows: NDArray[np.uint8]) -> list[int]:
        """Store rows; returns where. Raises NoRoom, and stores none, where the disk has no room for more."""
        while len(self._free) < len(rows):
            self._grow()
        places = [self._free.pop() for _ in range(len(rows))]
        if places:
            assert self._rows is not None
            self._rows[places] = rows
        return places

    def read(self, places: Sequence[int]) -> NDArray[np.uint8]:
        """Copies of rows, left where they are."""
        if not places:
            return np.empty((0, self._row_bytes), np.uint8)
        assert self._rows is not None
        return np.array(self._rows[list(places)])

    def drop(self, places: Sequence[int]) -> None:
        """Let go of rows."""
        self._free += places

    def close(self) -> None:
        """Give the disk space back; may be called twice."""
        self._rows = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def _grow(self) -> None:
        capacity = max(_FIRST_ROWS, 2 * self.capacity)
        try:
            if self._file is None:
                self._directory.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=self._directory, prefix="spill-")  # noqa: SIM115 - lives as long as the table
            # A write into a hole of a full disk through the mapping below would end the process (SIGBUS), so room is taken now.
            os.posix_fallocate(self._file.fileno(), 0, capacity * self._row_bytes)
        except OSError as error:
            raise NoRoom(
                f"entities beyond engine.resident_max cannot spill to {self._directory}: {error.strerror}; "
                "make room there, name another place in engine.spill_directory, or raise engine.resident_max"
            ) from error
        self._rows = np.memmap(self._file, dtype=np.uint8, mode="r+", shape=(capacity, self._row_bytes))
        self._free = list(range(capacity - 1, self.capacity - 1, -1)) + self._free
        self.capacity = capacity
