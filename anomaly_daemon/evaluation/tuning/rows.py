"""The records of an export that any incident could look at: what `tune` keeps in memory, however long the export is.

Kept are the judged records above a floor, and those after each that a recovery window may look at. Of the others only their number and their
latest event time count. A stream is an entity on a partition. Where more would be kept than there is room for, the floor rises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.domain.records import Partition
from anomaly_daemon.evaluation.notes import notes_of
from anomaly_daemon.evaluation.scores import DEVIATIONS, NO_CODE, NO_TIME, ScoreFile

Sensitivity = Literal["z", "level", "fixed"]
Integers = NDArray[np.int64]

ROWS_MAX: Final = 2_000_000
HISTORY: Final = 64  # after so many records a history of verdicts holds nothing of what was before
_COLUMNS: Final = ("stream", "value", "offset", "time_us", "seen", "lives", "row", "unseen_us")
_DTYPES: Final = (np.int32, np.float64, np.int64, np.int64, np.int32, np.int32, np.int32, np.int64)
_READ: Final[dict[Sensitivity, tuple[str, ...]]] = {
    "z": (DEVIATIONS,),
    "level": (DEVIATIONS, "anomaly_score"),
    "fixed": ("anomaly_score", "phase", "is_anomaly"),
}
_BATCH_ROWS: Final = 131_072


@dataclass(frozen=True, slots=True)
class KeptRows:
    """The kept records, stream by stream, each in log order; n rows of S streams.

    value:     float64 [n], what is held against the sensitivity; floor: none at or below it is an anomaly here.
    ordinal:   int64 [n], judged records of the stream so far; at a start anew after the time to live HISTORY more.
    row:       int32 [n], the record's place among all of the stream.
    unseen_us: int64 [n], latest event time of the judged records left out right before; NO_TIME where there are none.
    bounds:    int64 [S + 1]. records: int64 [S], all of the stream, unjudged ones included.
    """

    stream: NDArray[np.int32]
    value: NDArray[np.float64]
    offset: Integers
    time_us: Integers
    ordinal: Integers
    row: NDArray[np.int32]
    unseen_us: Integers
    bounds: Integers
    records: Integers
    partitions: Sequence[Partition]
    entities: Sequence[str]
    floor: float
    first_us: int
    last_us: int
    judged: int


def keep_rows(file: ScoreFile, sensitivity: Sensitivity, floor: float, followers: int, ttl_us: int, rows_max: int = ROWS_MAX) -> KeptRows:
    """Read the export once. followers: judged records after one above the floor that are kept too.

    Raises InputError where the file is no export of this version, where nothing in it was judged, and where no floor makes it small enough.
    """
    if sensitivity != "fixed" and DEVIATIONS not in file.names:
        raise InputError(
            f"{file.path}: has no column {DEVIATIONS}, so another version wrote it; export the scores anew with `anomaly-daemon replay --export`"
        )
    keeper, judges_in_warmup = RowKeeper(file, floor, followers, ttl_us, rows_max), notes_of(file).judges_in_warmup
    for batch in file.batches(("topic", "partition", "offset", "entity", "timestamp", *_READ[sensitivity]), _BATCH_ROWS):
        keeper.take(batch, _values(file, sensitivity, batch, judges_in_warmup))
    return keeper.finish()


def _values(file: ScoreFile, sensitivity: Sensitivity, batch: dict[str, NDArray[Any]], judges_in_warmup: bool) -> NDArray[np.float64]:
    """[rows] what is held against the sensitivity, NaN where a record was not judged."""
    if sensitivity == "z":
        return batch[DEVIATIONS]
    if sensitivity == "level":
        return level_values(batch[DEVIATIONS], batch["anomaly_score"])
    is_live = np.array([judges_in_warmup or word == "live" for word in file.words["phase"]] + [False])[batch["phase"]]
    return np.where(is_live & ~np.isnan(batch["anomaly_score"]), batch["is_anomaly"].astype(np.float64), np.nan)


def level_values(deviations: NDArray[np.float64], score: NDArray[np.float64]) -> NDArray[np.float64]:
    """[rows] what is held against a level: the score, 0 where it was held back, NaN where it was not judged."""
    return np.where(np.isnan(deviations), np.nan, np.where(np.isneginf(deviations), 0.0, score))


@dataclass(slots=True)
class _Carried:
    """Per stream what the next batch goes on from; int64 [streams], with room to grow."""

    row: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    seen: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    lives: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    last_hot: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    last_us: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    unseen_us: Integers = field(default_factory=lambda: np.zeros(0, np.int64))

    def grow(self, streams: int) -> None:
        more = max(streams, 2 * len(self.row)) - len(self.row)
        for name, fill in (("row", 0), ("seen", 0), ("lives", 0), ("last_hot", 0), ("last_us", NO_TIME), ("unseen_us", NO_TIME)):
            setattr(self, name, np.append(getattr(self, name), np.full(more, fill, np.int64)))


class RowKeeper:
    """Takes an export batch by batch, in order; `keep_rows` says the rest."""

    def __init__(self, file: ScoreFile, floor: float, followers: int, ttl_us: int, rows_max: int = ROWS_MAX) -> None:
        self._file, self._floor, self._followers, self._ttl_us, self._rows_max = file, floor, followers, ttl_us, rows_max
        self._partitions: dict[tuple[int, int], int] = {}
        self._stream_of: list[NDArray[np.int32]] = []
        self._owners: list[tuple[int, int]] = []
        self._carried = _Carried()
        self._chunks: list[tuple[NDArray[Any], ...]] = []
        self._kept = self._judged = 0
        self._first_us, self._last_us = np.iinfo(np.int64).max, NO_TIME

    def take(self, batch: dict[str, NDArray[Any]], values: NDArray[np.float64]) -> None:
        """One batch of the file. values: [rows] what is held against the sensitivity, NaN where a record was not judged."""
        there = np.flatnonzero(batch["entity"] != NO_CODE)
        if not len(there):
            return
        streams = self._streams(*(batch[name][there] for name in ("topic", "partition", "entity")))
        order = np.argsort(streams.astype(np.uint16) if len(self._owners) <= 1 << 16 else streams, kind="stable")
        there, stream = there[order], streams[order]
        value, offset, time_us = values[there], batch["offset"][there], batch["timestamp"][there]
        self._first_us, self._last_us = min(self._first_us, int(time_us.min())), max(self._last_us, int(time_us.max()))
        carried, is_first = self._carried, np.append(True, stream[1:] != stream[:-1])
        first = np.flatnonzero(is_first)
        group, here = np.cumsum(is_first) - 1, stream[first]
        row = carried.row[stream] + np.arange(len(stream)) - first[group]
        before_us = np.append(NO_TIME, time_us[:-1])
        before_us[first] = carried.last_us[here]
        is_anew = (before_us != NO_TIME) & (time_us - np.where(before_us == NO_TIME, time_us, before_us) > self._ttl_us)
        is_judged = ~np.isnan(value)
        seen = carried.seen[stream] + _counted(is_judged, first, group)
        lives = carried.lives[stream] + _counted(is_anew, first, group)
        is_hot = is_judged & (value > self._floor)
        is_kept, last_hot = self._chosen(seen, is_hot, is_judged, group, first, carried.last_hot[here])
        unseen_us = _unseen(is_kept, is_first, np.where(is_judged & ~is_kept, time_us, NO_TIME), carried.unseen_us[here])
        last = np.append(first[1:], len(stream)) - 1
        carried.row[here], carried.seen[here], carried.lives[here] = row[last] + 1, seen[last], lives[last]
        carried.last_hot[here], carried.last_us[here] = last_hot[last], time_us[last]
        carried.unseen_us[here] = unseen_us[1]
        self._judged += int(np.count_nonzero(is_judged))
        columns = (stream, value, offset, time_us, seen, lives, row, unseen_us[0])
        self._chunks.append(tuple(column[is_kept].astype(kind, copy=False) for column, kind in zip(columns, _DTYPES, strict=True)))
        self._kept += len(self._chunks[-1][0])
        if self._kept > self._rows_max:
            self._raise_floor()

    def finish(self) -> KeptRows:
        """All that was kept. Raises InputError where nothing was judged."""
        if not self._judged:
            raise InputError(
                f"{self._file.path}: none of its {self._file.rows:,} records was judged: all are rejected or in warm-up; export a longer range"
            )
        self._join()
        stream, value, offset, time_us, seen, lives, row, unseen_us = self._chunks[0]
        words = self._file.words
        named = {code: Partition(words["topic"][topic], number) for (topic, number), code in self._partitions.items()}
        return KeptRows(
            stream=stream,
            value=value,
            offset=offset,
            time_us=time_us,
            ordinal=seen + HISTORY * lives.astype(np.int64),
            row=row,
            unseen_us=unseen_us,
            bounds=np.searchsorted(stream, np.arange(len(self._owners) + 1)),
            records=self._carried.row[: len(self._owners)].copy(),
            partitions=[named[partition] for partition, _ in self._owners],
            entities=[words["entity"][entity] for _, entity in self._owners],
            floor=self._floor,
            first_us=int(self._first_us),
            last_us=int(self._last_us),
            judged=self._judged,
        )

    def _streams(self, topic: NDArray[np.int32], number: Integers, entity: NDArray[np.int32]) -> NDArray[np.int32]:
        """[rows] the stream of each."""
        found = np.empty(len(entity), np.int32)
        cuts = np.flatnonzero(np.append(True, (topic[1:] != topic[:-1]) | (number[1:] != number[:-1])))
        for first, last in zip(cuts.tolist(), np.append(cuts[1:], len(topic)).tolist(), strict=True):
            partition = self._partitions.setdefault((int(topic[first]), int(number[first])), len(self._partitions))
            if partition == len(self._stream_of):
                self._stream_of.append(np.full(0, NO_CODE, np.int32))
            entities = entity[first:last]
            known = self._stream_of[partition]
            if len(known) <= (top := int(entities.max())):
                known = self._stream_of[partition] = np.append(known, np.full(max(top + 1, 2 * len(known)) - len(known), NO_CODE, np.int32))
            for fresh in np.unique(entities[known[entities] == NO_CODE]).tolist():
                known[fresh] = len(self._owners)
                self._owners.append((partition, fresh))
            found[first:last] = known[entities]
        if len(self._owners) > len(self._carried.row):
            self._carried.grow(len(self._owners))
        return found

    def _chosen(
        self, seen: Integers, is_hot: NDArray[np.bool_], is_judged: NDArray[np.bool_], group: Integers, first: Integers, carried: Integers
    ) -> tuple[NDArray[np.bool_], Integers]:
        """Which rows are kept, and `seen` of the last hot one up to each row, 0 where there was none."""
        width = np.int64(1) << 40  # more than any `seen`: the running maximum starts anew with each group
        latest = np.where(is_hot, seen, 0)
        latest[first] = np.maximum(latest[first], carried)
        latest = np.maximum.accumulate(latest + group * width) - group * width
        return is_judged & (latest > 0) & (seen - latest <= self._followers), latest

    def _join(self) -> None:
        """All chunks as one, by stream."""
        joined = [np.concatenate(parts) for parts in zip(*self._chunks, strict=True)]
        self._chunks = []
        order = np.argsort(joined[0], kind="stable")
        for place, column in enumerate(joined):
            joined[place] = column[order]
        self._chunks = [tuple(joined)]

    def _raise_floor(self) -> None:
        """Raise the floor until at most half of the room is taken."""
        while self._kept > self._rows_max // 2:
            self._join()
            stream, value, _, time_us, seen, _, _, unseen_us = self._chunks[0]
            hot = value[value > self._floor]
            floor = float(np.median(hot)) if len(hot) else self._floor
            if floor <= self._floor or floor >= hot.max():
                raise InputError(
                    f"{self._file.path}: more than {self._rows_max:,} records are anomalous or follow one, and no sensitivity tells them apart; "
                    "export a shorter range or fewer entities"
                )
            self._floor = floor
            is_first = np.append(True, stream[1:] != stream[:-1])
            first = np.flatnonzero(is_first)
            group, here = np.cumsum(is_first) - 1, stream[first]
            is_judged = np.ones(len(stream), np.bool_)
            is_kept, last_hot = self._chosen(seen, value > floor, is_judged, group, first, np.zeros(len(first), np.int64))
            left_us = np.where(is_kept, NO_TIME, np.maximum(time_us, unseen_us))
            gaps_us, tail_us = _unseen(is_kept, is_first, left_us, np.full(len(first), NO_TIME))
            last = np.append(first[1:], len(stream)) - 1
            self._carried.last_hot[:] = 0
            self._carried.last_hot[here] = last_hot[last]
            self._carried.unseen_us[here] = np.maximum(self._carried.unseen_us[here], tail_us)
            columns = (*self._chunks[0][:-1], np.maximum(gaps_us, unseen_us))
            self._chunks = [tuple(column[is_kept] for column in columns)]
            self._kept = len(self._chunks[0][0])


def _counted(is_counted: NDArray[np.bool_], first: Integers, group: Integers) -> Integers:
    """[rows] how many of the row's group are counted up to and with it."""
    running = np.cumsum(is_counted)
    return running - (running[first] - is_counted[first])[group]


def _unseen(is_kept: NDArray[np.bool_], is_first: NDArray[np.bool_], left_us: Integers, carried_us: Integers) -> tuple[Integers, Integers]:
    """[rows] latest time left out right before each kept row, and per group after its last kept row.

    left_us: of each row left out, else NO_TIME. carried_us: [groups], left out before the group's first row.
    """
    is_start = is_kept | is_first
    starts = np.flatnonzero(is_start)
    latest = np.maximum.reduceat(left_us, starts)
    is_group_start = is_first[starts]
    # A group that begins with a row left out goes on with what was left out before it.
    opening = np.flatnonzero(is_group_start)
    goes_on = ~is_kept[starts[opening]]
    latest[opening[goes_on]] = np.maximum(latest[opening[goes_on]], carried_us[goes_on])
    before = np.append(NO_TIME, latest[:-1])
    before[opening] = carried_us
    gaps_us = np.full(len(left_us), NO_TIME)
    gaps_us[starts] = before
    return gaps_us, latest[np.append(opening[1:], len(starts)) - 1]
