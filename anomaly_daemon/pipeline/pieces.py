"""Cut a batch where its state demands it: where the table must finish some records first, where a time to live ran out.

Results never depend on cuts, so the cuts may fall wherever the state needs them.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from anomaly_daemon.domain.columns import LAST_SEEN_US
from anomaly_daemon.domain.records import Observations, Offset, Partition, Record
from anomaly_daemon.state.table import Table

Piece = tuple[Observations, NDArray[np.int64]]
_partition_of = attrgetter("partition")


def pieces(observations: Observations, table: Table, ttl_us: int, forget: Callable[[Record, str], None]) -> Iterator[Piece]:
    """Observations and the slot of each, in log order; each piece must be processed before the next is asked for.

    forget: called for every entity that the table had to forget, with the record it made room for, before the piece of that record.
    """
    done = first = 0
    table.begin()
    slots: list[NDArray[np.int64]] = []
    for partition, end in runs(observations.records):
        while done < end:
            admitted = table.admit(partition, observations.entities[done:end])
            for place, entity in table.take_forgotten():
                forget(observations.records[done + place], entity)
            slots.append(admitted)
            done += len(admitted)
            if done < end:
                yield from _within_ttl(cut(observations, first, done), np.concatenate(slots), table, ttl_us)
                first, slots = done, []
                table.begin()
    if done > first:
        yield from _within_ttl(cut(observations, first, done), np.concatenate(slots), table, ttl_us)


def of_bytes(records: Sequence[Record], bytes_max: int) -> Iterator[Sequence[Record]]:
    """Runs of records whose values have so many bytes together, or that are one record."""
    ends = list(itertools.accumulate(len(record.value or b"") for record in records))
    first = 0
    while first < len(records):
        before = ends[first - 1] if first else 0
        end = max(first + 1, bisect_right(ends, before + bytes_max))
        yield records[first:end]
        first = end


def runs(records: Sequence[Record]) -> list[tuple[Partition, int]]:
    """Partition and end of each run of records of one partition."""
    lengths = [(partition, len(list(run))) for partition, run in itertools.groupby(records, key=_partition_of)]
    ends = itertools.accumulate(length for _, length in lengths)
    return [(partition, end) for (partition, _), end in zip(lengths, ends, strict=True)]


def next_offsets(records: Sequence[Record]) -> dict[Partition, Offset]:
    """Per partition the offset after its last record; the records of a partition come in offset order."""
    return {partition: records[end - 1].offset + 1 for partition, end in runs(records)}


def cut(observations: Observations, first: int, last: int) -> Observations:
    """Rows first ≤ row < last."""
    if first == 0 and last == len(observations.records):
        return observations
    return Observations(
        observations.records[first:last],
        observations.entities[first:last],
        observations.times_us[first:last],
        observations.readings[first:last],
        observations.categories[first:last],
    )


def only(observations: Observations, is_wanted: Callable[[str], bool]) -> tuple[Observations, Observations]:
    """Those of the entities wanted, and the others."""
    wanted = [is_wanted(entity) for entity in observations.entities]
    chosen, others = ([place for place, is_one in enumerate(wanted) if is_one is kept] for kept in (True, False))
    return at(observations, chosen), at(observations, others)


def at(observations: Observations, places: list[int]) -> Observations:
    """Rows at these places."""
    return Observations(
        [observations.records[place] for place in places],
        [observations.entities[place] for place in places],
        observations.times_us[places],
        observations.readings[places],
        observations.categories[places],
    )


def _within_ttl(piece: Observations, slots: NDArray[np.int64], table: Table, ttl_us: int) -> Iterator[Piece]:
    """Cut a piece wherever an entity returns after its time to live, and start that entity anew there."""
    while len(slots):
        expired = _expired(piece, slots, table, ttl_us)
        end = int(expired[0]) if len(expired) else len(slots)
        if end:
            yield cut(piece, 0, end), slots[:end]
        if end < len(slots):
            table.reset(slots[end : end + 1])
        piece, slots = cut(piece, end, len(slots)), slots[end:]


def _expired(piece: Observations, slots: NDArray[np.int64], table: Table, ttl_us: int) -> NDArray[np.int64]:
    """Positions whose entity was last seen longer ago than its time to live."""
    last_seen = table.slab(LAST_SEEN_US.name).numpy()[slots]
    order = np.argsort(slots, kind="stable")
    is_repeat = slots[order[1:]] == slots[order[:-1]]
    previous = last_seen.copy()
    previous[order[1:]] = np.where(is_repeat, piece.times_us[order[:-1]], last_seen[order[1:]])
    was_seen = previous != LAST_SEEN_US.fill
    return np.flatnonzero(was_seen & (piece.times_us - np.where(was_seen, previous, 0) > ttl_us))
