"""Read one record field by field: the complete rules of decoding, and for a record that breaks one, which and where.

`decode.py` reads whole batches faster by the same rules and comes here for every record that it cannot vouch for.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

import msgspec

from anomaly_daemon.domain.records import Reason, Record, Rejection
from anomaly_daemon.pipeline.event_time import MICROSECONDS_PER, epoch_us, parse_iso_us
from anomaly_daemon.pipeline.json_shape import DEPTH_MAX, is_deep, may_be_deep
from anomaly_daemon.settings import NUMBER_KINDS, Feature, RecordSchema, parse_instant_us

NOT_A_NUMBER: Final = float("nan")
READING_MAX: Final = 1e300
NUMBER_TYPE: Final = float | None
CATEGORY_TYPE: Final = str | int | bool | None
ENTITY_TYPE: Final = str | int
EPOCH_TYPE: Final = int | float

_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NUMBER: Final = msgspec.json.Decoder(NUMBER_TYPE)
_CATEGORY: Final = msgspec.json.Decoder(CATEGORY_TYPE)
_ENTITY: Final = msgspec.json.Decoder(ENTITY_TYPE)
_EPOCH: Final = msgspec.json.Decoder(EPOCH_TYPE)
_TEXT: Final = msgspec.json.Decoder(str)

_EXCERPT_MAX: Final = 80
_DETAIL_MAX: Final = 400
_CACHED_CATEGORY_MAX: Final = 128

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One accepted record: what `Observations` holds of it. NaN and 0 stand for missing."""

    entity: str
    time_us: int
    readings: tuple[float, ...]
    categories: tuple[int, ...]


class _RefusedError(Exception):
    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason
        self.detail = detail if len(detail) <= _DETAIL_MAX else detail[: _DETAIL_MAX - 1] + "…"
        super().__init__(self.detail)


def feature_path(feature: Feature) -> Path:
    """The keys from the record's object to the field: the name whole, or the path cut at its dots."""
    return (feature.name,) if feature.path is None else dotted_path(feature.path)


def dotted_path(text: str) -> Path:
    """`a.b` as its keys."""
    return tuple(text.split("."))


def number_features(record: RecordSchema) -> tuple[Feature, ...]:
    """Those with a column in `Observations.readings`."""
    return tuple(feature for feature in record.features if feature.kind in NUMBER_KINDS)


def category_features(record: RecordSchema) -> tuple[Feature, ...]:
    """Those with a column in `Observations.categories`."""
    return tuple(feature for feature in record.features if feature.kind == "category")


def category_hash(value: str | int | bool) -> int:
    """A stable non-zero 63-bit number; 1, "1" and true differ."""
    if isinstance(value, str) and len(value) > _CACHED_CATEGORY_MAX:
        return _hash(value)
    return _cached_hash(value)


def _hash(value: str | int | bool) -> int:
    digest = blake2b(msgspec.json.encode(value), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1 or 1


_cached_hash = lru_cache(maxsize=1 << 16, typed=True)(_hash)


def is_entity(name: str, bytes_max: int) -> bool:
    """Whether a name is non-empty, short enough and without control characters."""
    if not name or len(name.encode()) > bytes_max:
        return False
    return name.isprintable() or not any(unicodedata.category(character) == "Cc" for character in name)


class FieldReader:
    """Reads records of one schema, one at a time."""

    def __init__(self, record: RecordSchema) -> None:
        self._record = record
        self._entity_path = None if record.entity == "key" else dotted_path(record.entity)
        self._time_path = None if record.time.path is None else dotted_path(record.time.path)
        self._numbers = [(feature.name, feature_path(feature)) for feature in number_features(record)]
        self._categories = [(feature.name, feature_path(feature)) for feature in category_features(record)]
        self._earliest_us = parse_instant_us(record.time.earliest)
        self._latest_us = parse_instant_us(record.time.latest)
        self._ahead_max_us = round(record.time.ahead_max * 1_000_000)

    def read(self, record: Record) -> Row | Rejection:
        """The row of a record, or the first rule it breaks. Never raises because of the record's bytes."""
        try:
            tree = self._tree(record)
            entity = self._entity(record, tree)
            time_us = self._time_us(record, tree)
            readings = tuple(self._number(tree, name, path) for name, path in self._numbers)
            categories = tuple(self._category(tree, name, path) for name, path in self._categories)
            if (readings or categories) and all(reading != reading for reading in readings) and not any(categories):
                raise _RefusedError(Reason.FEATURES_MISSING, f"none of the features is there: {self._names()}; one is enough")
        except _RefusedError as refused:
            return Rejection(record, refused.reason, refused.detail)
        return Row(entity, time_us, readings, categories)

    def _names(self) -> str:
        return ", ".join(f"`{'.'.join(path)}`" for _, path in [*self._numbers, *self._categories])

    def _tree(self, record: Record) -> dict[str, msgspec.Raw]:
        value = record.value
        if value is None:
            raise _RefusedError(Reason.TOMBSTONE, "the record has no value: a tombstone deletes a key and says nothing of an entity")
        if len(value) > self._record.record_bytes_max:
            raise _RefusedError(Reason.OVERSIZED, f"{len(value)} bytes, more than record.record_bytes_max = {self._record.record_bytes_max}")
        try:
            value.decode()
        except UnicodeDecodeError as error:
            raise _RefusedError(Reason.ENCODING, f"byte {error.start} is not UTF-8: 0x{value[error.start]:02x} ({error.reason})") from None
        if may_be_deep(value) and is_deep(value):
            raise _RefusedError(Reason.MALFORMED_JSON, f"brackets nest more than {DEPTH_MAX} deep")
        return _object(msgspec.Raw(value), "the record")

    def _entity(self, record: Record, tree: dict[str, msgspec.Raw]) -> str:
        if self._entity_path is None:
            where, name = "the record's key", self._entity_of_key(record.key)
        else:
            where = f"`{self._record.entity}`"
            raw = _field(tree, self._entity_path)
            if raw is None:
                raise _RefusedError(Reason.ENTITY_MISSING, f"{where}, the entity by record.entity, is absent or null")
            try:
                name = str(_leaf(raw, _ENTITY))
            except (msgspec.ValidationError, ValueError):
                raise _RefusedError(Reason.ENTITY_INVALID, f"{where} is {_said(raw)}; an entity is a string or an integer") from None
        if not name:
            raise _RefusedError(Reason.ENTITY_MISSING, f"{where}, the entity by record.entity, is empty")
        if not is_entity(name, self._record.entity_bytes_max):
            limit = self._record.entity_bytes_max
            raise _RefusedError(Reason.ENTITY_INVALID, f"{where} is `{_cut(name)}`; an entity has at most {limit} bytes and no control characters")
        return name

    def _entity_of_key(self, key: bytes | None) -> str:
        if not key:
            raise _RefusedError(Reason.ENTITY_MISSING, "the record has no key, or an empty one; send the entity as key, or name record.entity")
        try:
            return key.decode()
        except UnicodeDecodeError as error:
            raise _RefusedError(Reason.ENTITY_INVALID, f"the record's key is not UTF-8 at byte {error.start}: {key[:40]!r}") from None

    def _time_us(self, record: Record, tree: dict[str, msgspec.Raw]) -> int:
        if self._time_path is None:
            if record.timestamp_ms < 0:
                raise _RefusedError(Reason.TIME_MISSING, "the record has no timestamp of its own; name a field in record.time.path")
            where, time_us = "the record's timestamp", epoch_us(record.timestamp_ms, 1_000)
        else:
            where = f"`{self._record.time.path}`"
            raw = _field(tree, self._time_path)
            if raw is None:
                raise _RefusedError(Reason.TIME_MISSING, f"{where}, the event time by record.time.path, is absent or null")
            time_us = self._parsed_us(raw, where)
        if not self._earliest_us <= time_us <= self._latest_us:
            bounds = f"{self._record.time.earliest} to {self._record.time.latest}"
            raise _RefusedError(Reason.TIME_OUT_OF_RANGE, f"{where} is {time_us} µs since 1970, outside {bounds}; is record.time.format right?")
        if record.timestamp_ms > 0 and time_us > epoch_us(record.timestamp_ms, 1_000) + self._ahead_max_us:
            ahead = f"{time_us / 1e6 - record.timestamp_ms / 1e3:.0f} s after the record's own timestamp"
            raise _RefusedError(Reason.TIME_OUT_OF_RANGE, f"{where} lies {ahead}, more than record.time.ahead_max allows")
        return time_us

    def _parsed_us(self, raw: msgspec.Raw, where: str) -> int:
        time_format = self._record.time.format
        try:
            if time_format == "iso8601":
                return parse_iso_us(_leaf(raw, _TEXT))
            return epoch_us(_leaf(raw, _EPOCH), MICROSECONDS_PER[time_format])
        except (msgspec.ValidationError, ValueError):
            wanted = "ISO 8601, such as 2024-05-01T12:00:00Z" if time_format == "iso8601" else f"a number of {time_format} since 1970"
            raise _RefusedError(Reason.TIME_INVALID, f"{where} is {_said(raw)}; record.time.format asks for {wanted}") from None

    def _number(self, tree: dict[str, msgspec.Raw], name: str, path: Path) -> float:
        raw = _field(tree, path)
        if raw is None:
            return NOT_A_NUMBER
        try:
            reading = _leaf(raw, _NUMBER)
        except msgspec.ValidationError:
            if _kind(raw) == "a number":
                raise _RefusedError(Reason.FEATURE_OUT_OF_RANGE, f"feature `{_cut(name)}` is {_said(raw)}, too large for a double") from None
            hint = "send it without quotes" if _is_quoted_number(raw) else "send a number, or null when it is missing"
            raise _RefusedError(Reason.FEATURE_TYPE, f"feature `{_cut(name)}` is {_said(raw)}; {hint}") from None
        if reading is None:
            return NOT_A_NUMBER
        if abs(reading) > READING_MAX:
            raise _RefusedError(Reason.FEATURE_OUT_OF_RANGE, f"feature `{_cut(name)}` is {reading:g}, beyond ±{READING_MAX:g}")
        return float(reading)

    def _category(self, tree: dict[str, msgspec.Raw], name: str, path: Path) -> int:
        raw = _field(tree, path)
        if raw is None:
            return 0
        try:
            value = _leaf(raw, _CATEGORY)
        except msgspec.ValidationError:
            raise _RefusedError(
                Reason.FEATURE_TYPE, f"feature `{_cut(name)}` is {_said(raw)}; a category is a string, an integer or a boolean"
            ) from None
        return 0 if value is None else category_hash(value)


def _object(raw: msgspec.Raw, where: str) -> dict[str, msgspec.Raw]:
    try:
        return _OBJECT.decode(raw)
    except msgspec.ValidationError:
        raise _RefusedError(Reason.SCHEMA, f"{where} is {_said(raw)}, not an object") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise _RefusedError(Reason.MALFORMED_JSON, _not_json(error)) from None


def _field(tree: dict[str, msgspec.Raw], path: Path) -> msgspec.Raw | None:
    """None where the field or an object on its way is absent or null."""
    raw = tree.get(path[0])
    for depth, key in enumerate(path[1:], start=1):
        if raw is None or bytes(raw) == b"null":
            return None
        raw = _object(raw, f"`{_cut('.'.join(path[:depth]))}`").get(key)
    return None if raw is None or bytes(raw) == b"null" else raw


def _leaf(raw: msgspec.Raw, decoder: msgspec.json.Decoder[Any]) -> Any:
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, RecursionError) as error:
        raise _RefusedError(Reason.MALFORMED_JSON, _not_json(error)) from None


def _not_json(error: Exception) -> str:
    return f"not JSON: {str(error).removeprefix('JSON is malformed: ')}"


def _kind(raw: msgspec.Raw) -> str:
    kinds = {'"': "a string", "[": "a list", "{": "an object", "t": "a boolean", "f": "a boolean", "n": "null"}
    return kinds.get(bytes(raw)[:1].decode(), "a number")


def _said(raw: msgspec.Raw) -> str:
    return f"{_kind(raw)} ({_cut(bytes(raw).decode())})"


def _cut(text: str) -> str:
    """At most `_EXCERPT_MAX` characters, control characters shown, not sent."""
    shown = text if len(text) <= _EXCERPT_MAX else text[: _EXCERPT_MAX - 1] + "…"
    return "".join(character if character.isprintable() else character.encode("unicode_escape").decode() for character in shown)


def _is_quoted_number(raw: msgspec.Raw) -> bool:
    try:
        float(_leaf(raw, _TEXT))
    except (msgspec.ValidationError, ValueError):
        return False
    return True
