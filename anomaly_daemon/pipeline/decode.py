"""Bytes → observations: a batch of records in columns, and a rejection for every record that cannot be one.

Each value is parsed once, straight into a struct made for the schema; the checks run over whole columns. A record that
fails any of it is read again by `fields.py`, which knows the complete rules and names the one that is broken.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from anomaly_daemon.domain.records import Observations, Record, Rejection
from anomaly_daemon.pipeline.event_time import MICROSECONDS_PER, epoch_us, parse_all_iso_us
from anomaly_daemon.pipeline.fields import (
    CATEGORY_TYPE,
    ENTITY_TYPE,
    EPOCH_TYPE,
    NOT_A_NUMBER,
    NUMBER_TYPE,
    READING_MAX,
    FieldReader,
    Path,
    Row,
    category_features,
    category_hash,
    dotted_path,
    feature_path,
    is_entity,
    number_features,
)
from anomaly_daemon.pipeline.json_shape import SHALLOW_BYTES_MAX, is_utf8, may_be_deep
from anomaly_daemon.settings import RecordSchema, parse_instant_us

# Beyond int64 microseconds a timestamp is out of every range; clipped, so that its conversion cannot overflow.
_TIMESTAMP_MS_MAX = 1 << 52


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A field that the typed parser fills: missing ones are `default`, or fail the record when there is none."""

    path: Path
    kind: Any
    default: Any = msgspec.NODEFAULT


@dataclass(frozen=True, slots=True)
class _Columns:
    """What the fast path made of the records at `positions`; one row each."""

    positions: NDArray[np.int64]
    entities: list[str]
    times_us: NDArray[np.int64]
    readings: NDArray[np.float64]
    categories: NDArray[np.int64]


class Decoder:
    """Decodes the records of one schema. Holds no state between batches."""

    def __init__(self, record: RecordSchema) -> None:
        self._record = record
        self._reader = FieldReader(record)
        self._earliest_us = parse_instant_us(record.time.earliest)
        self._latest_us = parse_instant_us(record.time.latest)
        self._ahead_max_us = round(record.time.ahead_max * 1_000_000)

        numbers = [_Leaf(feature_path(feature), NUMBER_TYPE, NOT_A_NUMBER) for feature in number_features(record)]
        categories = [_Leaf(feature_path(feature), CATEGORY_TYPE, None) for feature in category_features(record)]
        distinct = list(dict.fromkeys(numbers))
        leaves = [*distinct, *dict.fromkeys(categories)]
        if record.time.path is not None:
            leaves.append(_Leaf(dotted_path(record.time.path), str if record.time.format == "iso8601" else EPOCH_TYPE))
        if record.entity != "key":
            leaves.append(_Leaf(dotted_path(record.entity), ENTITY_TYPE))

        kind, attributes = _typed(leaves) or (None, dict.fromkeys((leaf.path for leaf in leaves), ""))
        self._parse = None if kind is None else msgspec.json.Decoder(kind).decode
        self._is_any_watched = bool(numbers or categories)
        self._distinct_numbers = len(distinct)
        self._number_columns = np.array([distinct.index(leaf) for leaf in numbers], np.int64)
        self._pack = struct.Struct(f"{len(distinct)}d").pack
        self._numbers_of = _tuple_getter([attributes[leaf.path] for leaf in distinct])
        self._categories = [attrgetter(attributes[leaf.path]) for leaf in categories]
        self._time_of = None if record.time.path is None else attrgetter(attributes[dotted_path(record.time.path)])
        self._entity_of = None if record.entity == "key" else attrgetter(attributes[dotted_path(record.entity)])

    def decode(self, records: Sequence[Record]) -> tuple[Observations, list[Rejection]]:
        """The accepted records as columns and the others as rejections, both in the order given.

        Never raises because of a record's bytes. Every record is in exactly one of the two.
        """
        positions, rows = self._parsed(records)
        columns, is_doubtful = self._columns(records, positions, rows)
        if len(positions) == len(records) and not is_doubtful.any():
            return Observations(list(records), columns.entities, columns.times_us, columns.readings, columns.categories), []
        vouched = np.flatnonzero(~is_doubtful)
        left = sorted(set(range(len(records))).difference(positions[vouched].tolist()))
        outcomes = {position: self._reader.read(records[position]) for position in left}
        read = {position: outcome for position, outcome in outcomes.items() if isinstance(outcome, Row)}
        rejections = [outcome for outcome in outcomes.values() if isinstance(outcome, Rejection)]
        return _merged(records, columns, vouched, read), rejections

    def _parsed(self, records: Sequence[Record]) -> tuple[NDArray[np.int64], list[msgspec.Struct]]:
        """The positions of the records whose value parses as the schema's struct, and those structs."""
        if self._parse is None:
            return np.zeros(0, np.int64), []
        values: list[Any] = [record.value for record in records]
        if not self._is_plain(values):
            values = [value if self._is_fit(value) else b"" for value in values]  # b"" never parses
        rows: list[msgspec.Struct] = []
        unparsed: list[int] = []
        parsing = map(self._parse, values)
        while len(rows) + len(unparsed) < len(values):
            try:
                for row in parsing:
                    rows.append(row)  # noqa: PERF402 - what was parsed before an error must stay
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                unparsed.append(len(rows) + len(unparsed))
        return np.delete(np.arange(len(values)), unparsed), rows

    def _is_plain(self, values: list[Any]) -> bool:
        """Whether all values surely fit: present, short and ASCII."""
        short = min(self._record.record_bytes_max, SHALLOW_BYTES_MAX)
        return all(values) and max(map(len, values), default=0) <= short and all(map(bytes.isascii, values))

    def _is_fit(self, value: bytes | None) -> bool:
        """The parser passes over fields that are not watched without looking at their bytes, so UTF-8 is checked here."""
        return value is not None and len(value) <= self._record.record_bytes_max and not may_be_deep(value) and is_utf8(value)

    def _columns(self, records: Sequence[Record], positions: NDArray[np.int64], rows: list[msgspec.Struct]) -> tuple[_Columns, NDArray[np.bool_]]:
        """The columns of the parsed records, and which of their rows break a rule."""
        kept = records if len(rows) == len(records) else [records[position] for position in positions.tolist()]
        entities, is_nameless = self._entities(kept, rows)
        times_us, is_untimely = self._times_us(kept, rows)
        readings = self._readings(rows)
        categories = np.zeros((len(rows), len(self._categories)), np.int64)
        for column, category_of in enumerate(self._categories):
            categories[:, column] = [0 if value is None else category_hash(value) for value in map(category_of, rows)]
        is_doubtful = is_nameless | is_untimely
        is_large, is_missing = np.abs(readings) > READING_MAX, np.isnan(readings)
        if is_large.any():
            is_doubtful |= is_large.any(1)
        if self._is_any_watched and (is_missing.any() or not readings.shape[1]):
            is_doubtful |= is_missing.all(1) & (categories == 0).all(1)
        return _Columns(positions, entities, times_us, readings, categories), is_doubtful

    def _readings(self, rows: list[msgspec.Struct]) -> NDArray[np.float64]:
        numbers_of, width = self._numbers_of, self._distinct_numbers
        try:
            packed = b"".join([self._pack(*numbers_of(row)[:width]) for row in rows])
        except struct.error:  # an explicit null is None, which only the slower conversion takes
            distinct = np.array([numbers_of(row)[:width] for row in rows], np.float64)
        else:
            distinct = np.frombuffer(packed, np.float64).reshape(len(rows), width)
        return distinct[:, self._number_columns]

    def _entities(self, records: Sequence[Record], rows: list[msgspec.Struct]) -> tuple[list[str], NDArray[np.bool_]]:
        bytes_max = self._record.entity_bytes_max
        if self._entity_of is not None:
            names = list(map(str, map(self._entity_of, rows)))
        else:
            keys: list[Any] = [record.key for record in records]
            names = list(map(bytes.decode, keys)) if all(keys) and all(map(bytes.isascii, keys)) else list(map(_decoded, keys))
        joined = "".join(names)
        if all(names) and joined.isascii() and joined.isprintable() and max(map(len, names), default=0) <= bytes_max:
            return names, np.zeros(len(names), np.bool_)
        return names, np.array([not is_entity(name, bytes_max) for name in names], np.bool_)

    def _times_us(self, records: Sequence[Record], rows: list[msgspec.Struct]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        stamps_ms = np.array([record.timestamp_ms for record in records], np.int64)
        stamps_us = np.clip(stamps_ms, -_TIMESTAMP_MS_MAX, _TIMESTAMP_MS_MAX) * 1_000
        is_untimely = np.zeros(len(records), np.bool_)
        if self._time_of is None:
            times_us, is_untimely = stamps_us, stamps_ms < 0
        elif self._record.time.format == "iso8601":
            times_us, is_untimely = parse_all_iso_us(list(map(self._time_of, rows)))
        else:
            unit_us = MICROSECONDS_PER[self._record.time.format]
            times_us = np.array([epoch_us(count, unit_us) for count in map(self._time_of, rows)], np.int64)
        is_untimely |= (times_us < self._earliest_us) | (times_us > self._latest_us)
        return times_us, is_untimely | ((stamps_us > 0) & (times_us > stamps_us + self._ahead_max_us))


def _decoded(key: bytes | None) -> str:
    """Empty where there is no name in it."""
    try:
        return (key or b"").decode()
    except UnicodeDecodeError:
        return ""


def _merged(records: Sequence[Record], columns: _Columns, vouched: NDArray[np.int64], rows: dict[int, Row]) -> Observations:
    """The vouched rows of the columns and the rows read one by one, in the order of the records."""
    slow = list(rows.values())
    positions = np.concatenate([columns.positions[vouched], np.array(list(rows), np.int64)])
    order = np.argsort(positions)
    entities = [columns.entities[row] for row in vouched.tolist()] + [row.entity for row in slow]
    numbers, categories = columns.readings.shape[1], columns.categories.shape[1]
    return Observations(
        [records[position] for position in positions[order].tolist()],
        [entities[row] for row in order.tolist()],
        np.concatenate([columns.times_us[vouched], np.array([row.time_us for row in slow], np.int64)])[order],
        np.concatenate([columns.readings[vouched], np.array([row.readings for row in slow], np.float64).reshape(len(slow), numbers)])[order],
        np.concatenate([columns.categories[vouched], np.array([row.categories for row in slow], np.int64).reshape(len(slow), categories)])[order],
    )


def _typed(leaves: Sequence[_Leaf]) -> tuple[type[msgspec.Struct], dict[Path, str]] | None:
    """The struct that a record's value is parsed into, and the attribute path to each leaf.

    None where no struct can say it: one field under two types, a field that is also an object on the way to another, or
    a name that msgspec does not take. Such schemas are read by `fields.py` alone.
    """
    paths = [leaf.path for leaf in leaves]
    if len(set(paths)) < len(paths) or any(path[:depth] in paths for path in paths for depth in range(1, len(path))):
        return None
    try:
        return _struct(leaves, 0)
    except ValueError:
        return None


def _tuple_getter(attributes: list[str]) -> Callable[[msgspec.Struct], tuple[Any, ...]]:
    """From a row to a tuple that starts with these attributes; they are its first."""
    if all("." not in attribute for attribute in attributes):
        return msgspec.structs.astuple
    if len(attributes) == 1:
        only = attrgetter(attributes[0])
        return lambda row: (only(row),)
    return attrgetter(*attributes)


def _struct(leaves: Sequence[_Leaf], depth: int) -> tuple[type[msgspec.Struct], dict[Path, str]]:
    """A struct for the leaves below one object, `depth` keys down, and the attribute path to each of them."""
    below: dict[str, list[_Leaf]] = {}
    for leaf in leaves:
        below.setdefault(leaf.path[depth], []).append(leaf)
    fields: list[tuple[str, Any, Any]] = []
    attributes: dict[Path, str] = {}
    for number, (key, members) in enumerate(below.items()):
        name = f"f{number}"
        if len(members[0].path) == depth + 1:
            fields.append((name, members[0].kind, msgspec.field(name=key, default=members[0].default)))
            attributes[members[0].path] = name
            continue
        inner, inner_attributes = _struct(members, depth + 1)
        is_optional = all(leaf.default is not msgspec.NODEFAULT for leaf in members)
        fields.append((name, inner, msgspec.field(name=key, default=inner() if is_optional else msgspec.NODEFAULT)))
        attributes |= {path: f"{name}.{attribute}" for path, attribute in inner_attributes.items()}
    return msgspec.defstruct("Row", fields, frozen=True, gc=False, kw_only=True), attributes
