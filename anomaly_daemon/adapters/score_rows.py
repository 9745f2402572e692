"""Rows of exported scores on their way to a row group: put in log order, each record once, gathered in columns."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from anomaly_daemon.domain.records import Offset, Partition, Phase, Record, ScoredBatch

TEXTS = ("topic", "entity", "phase", "incident_id")
_SCORES = ("anomaly_score", "tail_probability", "threshold", "grade")
DEVIATIONS = "deviations"
_PHASES = [phase.name.lower() for phase in Phase]
_partition_of, _offset_of = attrgetter("partition"), attrgetter("offset")

Places = NDArray[np.int64]


def schema(channels: Sequence[str], metadata: Mapping[str, str]) -> Any:
    """The columns of an export, a contract, with what the writer wants noted in the file."""
    columns = [
        ("topic", pa.string()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("entity", pa.string()),
        ("timestamp", pa.timestamp("us", "UTC")),
        *((name, pa.float64()) for name in _SCORES[:3]),
        ("is_anomaly", pa.bool_()),
        ("grade", pa.float64()),
        ("phase", pa.string()),
        ("incident_id", pa.string()),
        *((channel, pa.float64()) for channel in channels),
        (DEVIATIONS, pa.float64()),
    ]
    return pa.schema(columns, dict(metadata))


class LogOrder:
    """Which records of a batch still want a row, and in which order. Partitions are known by a code, their place in `partitions`."""

    def __init__(self) -> None:
        self.partitions: list[Partition] = []
        self._codes: dict[Partition, int] = {}
        self._ended: set[Partition] = set()
        self._ranks = np.zeros(0, np.int64)
        self._next = np.zeros(0, np.int64)

    def begin(self, partition: Partition, offset: Offset) -> None:
        """The first offset wanted of a partition; only the first call counts, and the first after `end`."""
        if partition in self._ended:
            self._ended.discard(partition)
            code = self._codes[partition]
            self._next[code] = max(self._next[code], offset)
        if partition not in self._codes:
            self._codes[partition] = len(self.partitions)
            self.partitions.append(partition)
            rank = {one: place for place, one in enumerate(sorted(self.partitions))}
            self._ranks = np.array([rank[one] for one in self.partitions], np.int64)
            self._next = np.append(self._next, np.int64(offset))

    def end(self, partition: Partition) -> None:
        """The partition goes: what others make of it meanwhile is not wanted."""
        if partition in self._codes:
            self._ended.add(partition)

    def take(self, records: Sequence[Record]) -> tuple[Places, NDArray[np.int64], NDArray[np.int64]]:
        """Places in `records` by (partition, offset), those taken before left out; with the partition's code and the offset of each."""
        runs = [(partition, len(list(run))) for partition, run in itertools.groupby(records, key=_partition_of)]
        for partition, _ in runs:
            self.begin(partition, 0)
        codes = np.repeat(np.array([self._codes[partition] for partition, _ in runs], np.int64), np.array([count for _, count in runs], np.int64))
        offsets = np.fromiter(map(_offset_of, records), np.int64, len(records))
        places = np.lexsort((offsets, self._ranks[codes]))
        places = places[offsets[places] >= self._next[codes[places]]]
        codes, offsets = codes[places], offsets[places]
        np.maximum.at(self._next, codes, offsets + 1)
        return places, codes, offsets


class RowGroup:
    """Room for so many rows, filled batch by batch. A rejected record's row has no entity and no numbers."""

    def __init__(self, channels: Sequence[str], rows_max: int) -> None:
        self.filled, self._channels = 0, channels
        self._codes, self._offsets, self._times_us = (np.empty(rows_max, np.int64) for _ in range(3))
        self._is_judged, self._is_anomaly = (np.zeros(rows_max, np.bool_) for _ in range(2))
        self._phases = np.zeros(rows_max, np.int8)
        self._numbers = np.zeros((len(_SCORES) + len(channels) + 1, rows_max))
        self._entities: list[str | None] = []
        self._incident_ids: list[str | None] = []

    @property
    def room(self) -> int:
        """Rows that still fit."""
        return len(self._codes) - self.filled

    def append(self, scored: ScoredBatch, places: Places, codes: NDArray[np.int64], offsets: NDArray[np.int64]) -> None:
        """Rows of the records at `places`, counted through the observations and on through the rejections; there must be room."""
        judged, scores = len(scored.observations.records), scored.scores
        first, last = self.filled, self.filled + len(places)
        is_judged = places < judged
        rows, sources = first + np.flatnonzero(is_judged), places[is_judged]
        self._codes[first:last], self._offsets[first:last], self._is_judged[first:last] = codes, offsets, is_judged
        self._times_us[rows] = scored.observations.times_us[sources]
        self._is_anomaly[rows], self._phases[rows] = scores.is_anomaly[sources], scores.phase[sources]
        numbers = [*(getattr(scores, name) for name in _SCORES), *(scores.evidence[channel] for channel in self._channels), scores.deviations]
        for column, values in zip(self._numbers, numbers, strict=True):
            column[rows] = values[sources]
        named = np.minimum(places, judged).tolist()
        self._entities += map([*scored.observations.entities, None].__getitem__, named)
        self._incident_ids += map([*scored.incident_ids, None].__getitem__, named)
        self.filled = last  # last, so that a row interrupted halfway does not count

    def ends(self, partitions: Sequence[Partition]) -> dict[Partition, Offset]:
        """The offset after the last row of each partition that has one."""
        after = np.zeros(len(partitions), np.int64)
        np.maximum.at(after, self._codes[: self.filled], self._offsets[: self.filled] + 1)
        return {partition: end for partition, end in zip(partitions, after.tolist(), strict=True) if end}

    def table(self, columns: Any, partitions: Sequence[Partition]) -> Any:
        """The rows as an Arrow table of the schema `columns`."""
        rows = slice(0, self.filled)
        codes, is_missing = self._codes[rows], ~self._is_judged[rows]

        def nullable(values: NDArray[Any]) -> Any:
            return pa.array(values[rows], mask=is_missing | np.isnan(values[rows]))

        numbers = {name: nullable(values) for name, values in zip((*_SCORES, *self._channels, DEVIATIONS), self._numbers, strict=True)}
        return pa.table(
            {
                "topic": pa.array([partition.topic for partition in partitions], pa.string()).take(pa.array(codes)),
                "partition": pa.array([partition.number for partition in partitions], pa.int32()).take(pa.array(codes)),
                "offset": pa.array(self._offsets[rows]),
                "entity": pa.array(self._entities[rows], pa.string()),
                "timestamp": nullable(self._times_us).cast(pa.timestamp("us", "UTC")),
                "is_anomaly": nullable(self._is_anomaly),
                "phase": pa.array(_PHASES, pa.string()).take(nullable(self._phases)),
                "incident_id": pa.array(self._incident_ids[rows], pa.string()),
                **numbers,
            },
            columns,
        )
