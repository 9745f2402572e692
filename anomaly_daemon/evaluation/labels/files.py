"""Labels from files, told apart by their columns; extra columns are ignored, text times are ISO 8601, UTC unless they say otherwise.

    CSV (gzipped or not) or Parquet
        entity, start, end               intervals, both ends included; `simulate --labels` writes such
        entity, timestamp                anomalous points
        entity, timestamp, label         records, 1 for an anomalous one
        timestamp, label                 the same for one stream, the entity named by the file as `load` names it
    JSON: NAB's windows                  {"folder/file.csv": [[start, end], …], …}; the entity is folder/file
    a folder of CSV and Parquet files    entities named by their paths in it; an optional dataset.json gives the order and, per entity,
                                         train_rows: records that were for training, {"entities": [{"entity": …, "train_rows": …}, …]}
Entities that have no label were normal where intervals or points are listed; where records or windows are, nothing is known of them.
Rows in messages count from 1; in a CSV that is its header.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import msgspec
import numpy as np

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.evaluation.labels import Booleans, Integers, Labels, Unnamed, intervals_of_records, listed, merged, spelled_time
from anomaly_daemon.evaluation.labels.tables import Chunk, open_table
from anomaly_daemon.evaluation.measures.ranking import period_rows
from anomaly_daemon.pipeline.event_time import parse_iso_us

SUFFIXES: Final = (".csv", ".csv.gz", ".parquet")
_DATASET: Final = "dataset.json"
_LAYOUTS: Final = (
    "give the columns entity, start, end (intervals); entity, timestamp (points); entity, timestamp, label (records); "
    "or timestamp, label in a file named as its entity"
)


class _Stream(msgspec.Struct):
    entity: str
    train_rows: Annotated[int, msgspec.Meta(ge=0)] = 0


class _Dataset(msgspec.Struct):
    entities: list[_Stream]


@dataclass(slots=True)
class _Found:
    """What the files say, while they are read."""

    intervals: dict[str, list[Integers]] = field(default_factory=dict)
    unnamed: set[Unnamed] = field(default_factory=set)
    judged_from: dict[str, int] = field(default_factory=dict)
    period_rows: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, entity: str, intervals: Integers) -> None:
        self.intervals.setdefault(entity, []).append(intervals)

    def labels(self, origin: str) -> Labels:
        """Sorted, overlaps joined and told."""
        joined = {entity: merged(np.concatenate(parts)) for entity, parts in self.intervals.items()}
        overlapping = {entity: overlaps for entity, (_, overlaps) in joined.items() if overlaps}
        if overlapping:
            self.notes.append(f"{origin}: overlapping or repeated labels joined: {sum(overlapping.values())}, of {listed(overlapping)}")
        if not any(len(intervals) for intervals, _ in joined.values()):
            self.notes.append(f"{origin}: no record is labelled as anomalous")
        unnamed: Unnamed = "normal" if "normal" in self.unnamed else "unknown"
        if unnamed == "unknown" and not joined:
            raise InputError(f"{origin}: holds no row, so it says nothing of any entity; give the labels of the records")
        intervals = {entity: intervals for entity, (intervals, _) in joined.items()}
        return Labels(intervals, origin, unnamed, self.judged_from, self.period_rows, tuple(self.notes))


def read_labels(path: Path) -> Labels:
    """The labels of a file or folder. Raises InputError naming file, row and remedy for what cannot be used."""
    found = _Found()
    if path.is_dir():
        _read_folder(path, found)
    elif path.suffix.lower() == ".json":
        _read_windows(path, found)
    else:
        _read_table(path, bare_name(path.name), 0, found)
    return found.labels(str(path))


def bare_name(name: str) -> str:
    """A file's name, or its path in a folder, without the suffix of a table."""
    suffix = next((suffix for suffix in reversed(SUFFIXES) if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def _read_folder(folder: Path, found: _Found) -> None:
    files = {bare_name(path.relative_to(folder).as_posix()): path for path in sorted(folder.rglob("*")) if path.name.lower().endswith(SUFFIXES)}
    streams = _streams(folder) if (folder / _DATASET).exists() else [_Stream(name) for name in files]
    if not streams:
        raise InputError(f"{folder}: no labels: no file in it ends in {', '.join(SUFFIXES)}")
    for stream in streams:
        if stream.entity not in files:
            raise InputError(f"{folder / _DATASET}: no file {stream.entity}{'|'.join(SUFFIXES)} in this folder; fetch it, or take the entity out")
        _read_table(files[stream.entity], stream.entity, stream.train_rows, found)


def _streams(folder: Path) -> list[_Stream]:
    path = folder / _DATASET
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Dataset).entities
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; check the file and its rights") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}; write {{'entities': [{{'entity': …, 'train_rows': …}}, …]}}, or leave the file out") from None


def _read_windows(path: Path, found: _Found) -> None:
    """NAB's file of windows, `combined_windows.json`."""
    try:
        windows = msgspec.json.decode(path.read_bytes(), type=dict[str, list[tuple[str, str]]])
    except FileNotFoundError:
        raise _no_file(path) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; check the file and its rights") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f'{path}: not label windows: {error}; write {{"folder/file.csv": [["start", "end"], …], …}}') from None
    if not windows:
        raise InputError(f"{path}: holds no window and names no entity; give the file that does")
    found.unnamed.add("unknown")
    for name, spans in windows.items():
        times_us = [[_instant(path, f"{name}, window {row}", text) for text in span] for row, span in enumerate(spans, start=1)]
        for row, (start_us, end_us) in enumerate(times_us, start=1):
            _refuse_inverted(path, f"{name}, window {row}", start_us, end_us)
        found.add(bare_name(name), np.array(times_us, np.int64).reshape(-1, 2))


def _instant(path: Path, place: str, text: str) -> int:
    try:
        return parse_iso_us(text)
    except ValueError:
        raise InputError(f"{path}: {place}: {text!r} is no time; write 2026-01-31T12:00:00Z") from None


def _read_table(path: Path, entity: str, train_rows: int, found: _Found) -> None:
    """One CSV or Parquet file; `entity` where it has no column of that name."""
    if not path.exists():
        raise _no_file(path)
    with open_table(path) as table:
        names = set(table.names)
        if {"entity", "start", "end"} <= names:
            _read_intervals(path, table.chunks(["entity", "start", "end"]), found)
        elif {"entity", "timestamp"} <= names:
            _read_records(table.chunks([name for name in ("entity", "timestamp", "label") if name in names]), found)
        elif {"timestamp", "label"} <= names:
            channel = next((name for name in table.names if name not in ("timestamp", "label")), None)
            _read_stream(
                table.chunks(["timestamp", "label"] if channel is None else ["timestamp", "label", channel]), entity, train_rows, channel, found
            )
        else:
            raise InputError(f"{path}: no labels: it has the columns {', '.join(table.names[:20])}; {_LAYOUTS}")


def _read_intervals(path: Path, chunks: Iterator[Chunk], found: _Found) -> None:
    found.unnamed.add("normal")
    for chunk in chunks:
        spans = np.stack([chunk.times_us("start"), chunk.times_us("end")], axis=1)
        inverted = np.flatnonzero(spans[:, 0] > spans[:, 1])
        if len(inverted):
            row = int(inverted[0])
            _refuse_inverted(path, f"row {chunk.first_row + row}", *spans[row].tolist())
        for entity, rows in chunk.by_word("entity"):
            found.add(entity, spans[rows])


def _read_records(chunks: Iterator[Chunk], found: _Found) -> None:
    """Points, or records with a label each."""
    times: dict[str, list[Integers]] = {}
    flags: dict[str, list[Booleans]] = {}
    for chunk in chunks:
        times_us = chunk.times_us("timestamp")
        is_anomalous = chunk.flags("label") if "label" in chunk.columns else np.ones(len(times_us), np.bool_)
        for entity, rows in chunk.by_word("entity"):
            times.setdefault(entity, []).append(times_us[rows])
            flags.setdefault(entity, []).append(is_anomalous[rows])
    is_points = all(part.all() for parts in flags.values() for part in parts)
    found.unnamed.add("normal" if is_points else "unknown")
    if not is_points:
        labelled = sum(len(part) for parts in times.values() for part in parts)
        found.notes.append(f"{labelled:,} records bear a label; of the same entities, records that it does not name count as normal")
    for entity in times:
        times_us = np.concatenate(times[entity])
        if is_points:
            found.add(entity, np.stack([times_us, times_us], axis=1))
        else:
            _add_records(found, entity, times_us, np.concatenate(flags[entity]))


def _read_stream(chunks: Iterator[Chunk], entity: str, train_rows: int, channel: str | None, found: _Found) -> None:
    """The records of one entity, with the period of its first channel."""
    found.unnamed.add("unknown")
    parts = [(chunk.times_us("timestamp"), chunk.flags("label"), chunk.numbers(channel) if channel else None) for chunk in chunks]
    if not parts:
        return
    times_us = np.concatenate([times for times, _, _ in parts])
    _add_records(found, entity, times_us, np.concatenate([flags for _, flags, _ in parts]))
    if 0 < train_rows < len(times_us):
        found.judged_from[entity] = int(times_us[train_rows])
    elif train_rows:
        found.judged_from[entity] = int(times_us.max()) + 1
    readings = [numbers for _, _, numbers in parts if numbers is not None]
    if len(readings) == len(parts):
        found.period_rows[entity] = period_rows(np.concatenate(readings)[train_rows:])


def _add_records(found: _Found, entity: str, times_us: Integers, is_anomalous: Booleans) -> None:
    intervals, mixed = intervals_of_records(times_us, is_anomalous)
    found.add(entity, intervals)
    if mixed:
        found.notes.append(f"{entity}: {mixed} times bear a labelled and an unlabelled record; both count as labelled")


def _refuse_inverted(path: Path, place: str, start_us: int, end_us: int) -> None:
    if start_us > end_us:
        raise InputError(f"{path}: {place}: starts at {spelled_time(start_us)}, after its end at {spelled_time(end_us)}; exchange them")


def _no_file(path: Path) -> InputError:
    return InputError(f"{path}: no such file; give labels as CSV, Parquet, NAB's windows in JSON, or a folder of labelled streams")
