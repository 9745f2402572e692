"""What is kept per entity, declared by whoever keeps it; the table of `state` owns the memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

DType = Literal["float16", "float32", "float64", "int32", "int64", "uint8"]


@dataclass(frozen=True, slots=True)
class Column:
    """One value or small array per entity.

    fill: what a new entity starts with, broadcast to `shape`.
    is_host: lives in main memory as numpy, for the feature transforms; otherwise a tensor on the device.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...] = ()
    fill: float | int | NDArray[Any] = 0
    is_host: bool = False

    @property
    def bytes_per_entity(self) -> int:
        """Memory of one entity's share."""
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))

    def fresh(self, count: int) -> NDArray[Any]:
        """What so many new entities start with, [count, *shape], an array of its own."""
        return np.array(np.broadcast_to(np.asarray(self.fill, self.dtype), (count, *self.shape)))


FROZEN = "frozen"
"""Beside the columns: bool [B], entities that learn nothing at present; absent where all learn."""

RESTARTED = "restarted"
"""Likewise: entities that started anew after a lasting change, of which nothing is an anomaly before their warm-up is over."""

# Kept by the pipeline for everybody; `observations` counts those before the one at hand.
OBSERVATIONS = Column("observations", "int32")
LAST_SEEN_US = Column("last_seen_us", "int64", fill=np.iinfo(np.int64).min, is_host=True)
