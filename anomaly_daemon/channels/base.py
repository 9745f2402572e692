"""The seam between an entity's state and what is said of a record: what every channel sees, and the evidence it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from anomaly_daemon.channels.ring import Index
from anomaly_daemon.domain.columns import Column
from anomaly_daemon.state.segments import Layout
from anomaly_daemon.state.table import Table


@dataclass(frozen=True, slots=True)
class Seen:
    """A micro-batch as every channel sees it, in layout order; N rows of B entities, F features, on the device.

    rows:    the columns of the B entities, changed in place. table: for what is read where it lies.
    values:  float32 [N, F] as observed, NaN = missing.
    scaled:  float32 [N, F], the same on the scale that its entity had before the row: `center` and `spread`, [N, F], in fleet space.
    gaps:    float32 [N], scaled log seconds since the entity's record before.
    """

    layout: Layout
    index: Index
    rows: Mapping[str, Tensor]
    table: Table
    values: Tensor
    scaled: Tensor
    center: Tensor
    spread: Tensor
    gaps: Tensor


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one channel says of each row.

    error: float64 [N], at least 0, higher is stranger; NaN = nothing to say.
    fresh: bool [N], whether that is new at the row; only then is it learned from.
    terms: rows, int64 [n] → float64 [n, F], each feature's part of their errors, at least 0; asked for while the micro-batch is at hand.
    """

    error: Tensor
    fresh: Tensor
    terms: Callable[[Tensor], Tensor]


class Channel(Protocol):
    """One or more kinds of evidence from one state per entity. No bit of it may depend on where batches are cut."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """What it keeps per entity, handed in as `Seen.rows`."""
        ...

    def observe(self, seen: Seen) -> Mapping[str, Evidence]:
        """Evidence by name of each row from what was known before it; then learn."""
        ...
