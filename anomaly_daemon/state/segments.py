"""Lay a micro-batch out time-major: step 0 of every entity, then step 1 of those that have one, and so on.

Entities stand in order of falling run length, so the entities active at a step are a prefix, every step is a
contiguous slice, and steps of equal width form one dense [steps, entities] segment without a copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Segment:
    """Steps first_step ≤ t < last_step, each `width` entities wide: rows `start` to `start + steps · width`."""

    first_step: int
    steps: int
    width: int
    start: int


@dataclass(frozen=True, slots=True)
class Layout:
    """N rows of B entities over T steps.

    order:    [N] row i of the layout is observation order[i] of the batch.
    slots:    [B] the entities' slots, longest run first.
    widths:   [T] entities at each step, never growing.
    starts:   [T] first row of each step.
    rank:     [N] the row's entity, an index into slots.
    step:     [N] the row's step.
    previous: [N] the row of the same entity one step before, −1 at step 0.
    """

    order: Index
    slots: Index
    widths: Index
    starts: Index
    rank: Index
    step: Index
    previous: Index

    def segments(self) -> Iterator[Segment]:
        """The dense blocks, in step order."""
        edges = np.flatnonzero(np.diff(self.widths, prepend=-1))
        for first, last in zip(edges, [*edges[1:], len(self.widths)], strict=True):
            yield Segment(int(first), int(last - first), int(self.widths[first]), int(self.starts[first]))


def part_of(layout: Layout, ranks: Index) -> tuple[Layout, Index]:
    """The layout of some entities (`ranks`, rising) by themselves, and its rows' places in the whole, [n]."""
    new_rank = np.full(len(layout.slots), -1)
    new_rank[ranks] = np.arange(len(ranks))
    rows = np.flatnonzero(new_rank[layout.rank] >= 0)
    step, rank = layout.step[rows], new_rank[layout.rank[rows]]
    widths = np.bincount(step)
    starts = np.cumsum(widths) - widths
    previous = np.where(step > 0, starts[np.maximum(step - 1, 0)] + rank, -1)
    return Layout(layout.order[rows], layout.slots[ranks], widths, starts, rank, step, previous), rows


def lay_out(slots: Index) -> Layout:
    """Order observations (slot of each, [N], in log order) time-major. Order within an entity is kept."""
    distinct, inverse, counts = np.unique(slots, return_inverse=True, return_counts=True)
    by_entity = np.argsort(inverse, kind="stable")
    run_starts = np.cumsum(counts) - counts
    step = np.empty(len(slots), np.int64)
    step[by_entity] = np.arange(len(slots)) - np.repeat(run_starts, counts)
    by_length = np.argsort(-counts, kind="stable")
    rank_of = np.empty(len(distinct), np.int64)
    rank_of[by_length] = np.arange(len(distinct))
    rank = rank_of[inverse]
    order = np.lexsort((rank, step))
    widths = np.bincount(step) if len(slots) else np.zeros(0, np.int64)
    starts = np.cumsum(widths) - widths
    step, rank = step[order], rank[order]
    previous = np.where(step > 0, starts[np.maximum(step - 1, 0)] + rank, -1)
    return Layout(order, distinct[by_length], widths, starts, rank, step, previous)
