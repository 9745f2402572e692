"""What differs between two sides and may have changed incidents: settings, model, version, and the records and scores themselves.

Two exports are held against each other in blocks of offsets, each reduced to a checksum: rows may come in any order of partitions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from anomaly_daemon.domain.records import Offset, Partition
from anomaly_daemon.evaluation.comparison import Difference, ModelName, Side, shared_ranges
from anomaly_daemon.evaluation.comparison.exports import partitions_of
from anomaly_daemon.evaluation.scores import NO_CODE, NO_TIME, Column, ScoreFile
from anomaly_daemon.incidents.alerts import rfc3339
from anomaly_daemon.settings import DECIDING, RULES, is_under

BLOCK_OFFSETS: Final = 4096
_TEXT_MAX: Final = 120
_COLUMNS: Final = ("topic", "partition", "offset", "entity", "timestamp", "anomaly_score")
_ODD: Final = np.uint64(0x9E3779B97F4A7C15)
_SHIFT: Final = np.uint64(29)

Block = tuple[Partition, int]
Checksums = NDArray[np.uint64]


class _Row(NamedTuple):
    entity: str | None
    time_us: int
    score_bits: int


def differences_between(before: Side, after: Side, *, with_rows: bool = True) -> list[Difference]:
    """Everything that both sides tell and that differs. with_rows: two exports are read once more, for the first records that differ."""
    named = [*_of_settings(before, after), *_of_model(before, after)]
    if before.version is not None and after.version is not None and before.version != after.version:
        named.append(Difference("version", "anomaly-daemon", before.version, after.version))
    if not (before.is_export and after.is_export and with_rows):
        return named
    is_scored_alike = not any(one.cause == "model" or (one.cause == "settings" and not is_under(one.key, RULES)) for one in named)
    return [*named, *_of_ranges(before, after), *_of_rows(before, after, with_scores=is_scored_alike)]


def _of_settings(before: Side, after: Side) -> Iterator[Difference]:
    if before.settings is not None and after.settings is not None:
        old, new = _flat(before.settings, after.settings), _flat(after.settings, before.settings)
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key) and is_under(key, DECIDING):
                yield Difference("settings", key, _spelled(old, key), _spelled(new, key))
    elif before.settings_hashes and after.settings_hashes and before.settings_hashes != after.settings_hashes:
        yield Difference("settings", "settings_hash", ", ".join(sorted(before.settings_hashes)), ", ".join(sorted(after.settings_hashes)))


def _of_model(before: Side, after: Side) -> Iterator[Difference]:
    old, new = before.models, after.models
    if not (before.is_export and after.is_export):
        old, new = (frozenset(ModelName(one.name, one.version) for one in models) for models in (old, new))
    if old and new and old != new:
        yield Difference("model", "model", ", ".join(map(str, sorted(old))), ", ".join(map(str, sorted(new))))


def _of_ranges(before: Side, after: Side) -> Iterator[Difference]:
    old, new = before.ranges or {}, after.ranges or {}
    for partition in sorted(old.keys() | new.keys()):
        if old.get(partition) != new.get(partition):
            one, other = (_offsets(ranges.get(partition)) for ranges in (old, new))
            # Which changes lie outside the other's range is told change by change.
            yield Difference("data", f"range of {partition}", one, other, partition)


def _of_rows(before: Side, after: Side, *, with_scores: bool) -> Iterator[Difference]:
    """The first row of each partition that differs, and how the state before it came about where only scores do."""
    ranges = shared_ranges(before, after)
    paths = Path(before.name), Path(after.name)
    old, new = (_checksums(path, ranges, with_scores=with_scores) for path in paths)
    wanted: dict[Partition, int] = {}
    for partition, number in sorted(old.keys() | new.keys()):
        if partition not in wanted and not np.array_equal(old.get((partition, number), ()), new.get((partition, number), ())):
            wanted[partition] = number
    if not wanted:
        return
    is_told = False
    rows_before, rows_after = (_rows_of(path, ranges, wanted) for path in paths)
    for partition in sorted(wanted):
        one, other = rows_before[partition], rows_after[partition]
        for offset in sorted(one.keys() | other.keys()):
            was, now = one.get(offset), other.get(offset)
            if was is None or now is None or was[:2] != now[:2]:
                yield Difference("data", f"{partition} offset {offset}", _record(was), _record(now), partition, offset)
                break
            if with_scores and was.score_bits != now.score_bits:
                if not is_told:
                    yield from _of_history(before, after)
                    is_told = True
                yield Difference("data", f"{partition} offset {offset}", _score(was), _score(now), partition, offset)
                break


def _of_history(before: Side, after: Side) -> Iterator[Difference]:
    for key in sorted(before.history.keys() | after.history.keys()):
        if before.history.get(key) != after.history.get(key):
            yield Difference("data", key, before.history.get(key), after.history.get(key))


def _checksums(path: Path, ranges: Mapping[Partition, range], *, with_scores: bool) -> dict[Block, Checksums]:
    """Per block that has rows their count and a sum over their contents, the same in whatever pieces the rows come."""
    sums: dict[Block, Checksums] = {}
    with ScoreFile(path) as file:
        marks = np.zeros(1, np.uint64)
        for batch in file.batches(_COLUMNS if with_scores else _COLUMNS[:-1]):
            names = file.words["entity"]
            fresh = [_mark(name) for name in names[len(marks) - 1 :]]
            marks = np.concatenate([marks[:-1], np.array(fresh, np.uint64), marks[-1:]])  # the last one stands for null
            contents = _mixed(batch, marks)
            for partition, rows in _within(file, batch, ranges):
                blocks = batch["offset"][rows] // BLOCK_OFFSETS
                starts = np.flatnonzero(np.diff(blocks, prepend=NO_CODE))
                counts = np.diff(np.append(starts, len(blocks)))
                for block, count, total in zip(blocks[starts].tolist(), counts, np.add.reduceat(contents[rows], starts), strict=True):
                    known = sums.setdefault((partition, block), np.zeros(2, np.uint64))
                    known += np.array([count, total], np.uint64)
    return sums


def _mixed(batch: Mapping[str, Column], marks: Checksums) -> Checksums:
    """One number per row over its offset, entity, event time and score."""
    columns = [batch["offset"], marks[batch["entity"]], batch["timestamp"]]
    if "anomaly_score" in batch:
        columns.append(batch["anomaly_score"])
    mixed = np.zeros(len(batch["offset"]), np.uint64)
    for column in columns:
        mixed = (mixed ^ column.view(np.uint64)) * _ODD
        mixed ^= mixed >> _SHIFT
    return mixed


def _rows_of(path: Path, ranges: Mapping[Partition, range], wanted: Mapping[Partition, int]) -> dict[Partition, dict[Offset, _Row]]:
    """The rows of one block per partition."""
    found: dict[Partition, dict[Offset, _Row]] = {partition: {} for partition in wanted}
    with ScoreFile(path) as file:
        for batch in file.batches(_COLUMNS):
            for partition, within in _within(file, batch, {partition: ranges[partition] for partition in wanted}):
                rows = within[batch["offset"][within] // BLOCK_OFFSETS == wanted[partition]]
                entities = [None if code == NO_CODE else file.words["entity"][code] for code in batch["entity"][rows].tolist()]
                bits = batch["anomaly_score"][rows].view(np.int64).tolist()
                contents = map(_Row, entities, batch["timestamp"][rows].tolist(), bits)
                found[partition] |= zip(batch["offset"][rows].tolist(), contents, strict=True)
    return found


def _within(file: ScoreFile, batch: Mapping[str, Column], ranges: Mapping[Partition, range]) -> Iterator[tuple[Partition, NDArray[np.int64]]]:
    """Rows of each partition that lie in its range, of those that have any."""
    for partition, rows in partitions_of(file, batch):
        wanted = ranges.get(partition, range(0))
        offsets = batch["offset"][rows]
        inside = rows[(offsets >= wanted.start) & (offsets < wanted.stop)]
        if len(inside):
            yield partition, inside


def _mark(name: str) -> int:
    """A stable number for a name: Python's own differs from run to run."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _flat(tree: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Dotted key → value; lists are gone through where both sides have equally many elements."""
    found: dict[str, object] = {}
    for key, value in tree.items():
        against = other.get(key)
        if isinstance(value, list) and isinstance(against, list) and len(value) == len(against):
            value, against = ({str(place): element for place, element in enumerate(one)} for one in (value, against))
        if isinstance(value, Mapping) and isinstance(against, Mapping):
            found |= _flat(value, against, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _spelled(tree: Mapping[str, object], key: str) -> str | None:
    if key not in tree:
        return None
    value = tree[key]
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= _TEXT_MAX else text[: _TEXT_MAX - 1] + "…"


def _offsets(offsets: range | None) -> str | None:
    return None if offsets is None else f"offsets {offsets.start} to {offsets.stop - 1}"


def _record(row: _Row | None) -> str | None:
    if row is None:
        return None
    return "a rejected record" if row.entity is None or row.time_us == NO_TIME else f"{row.entity} at {rfc3339(row.time_us)}"


def _score(row: _Row) -> str:
    return f"anomaly_score {np.int64(row.score_bits).view(np.float64):.17g}"
