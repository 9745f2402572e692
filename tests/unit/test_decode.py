from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from anomaly_daemon.domain.records import Observations, Partition, Reason, Record, Rejection
from anomaly_daemon.pipeline.decode import Decoder
from anomaly_daemon.settings import Feature, RecordSchema, Time

READINGS = Partition("readings", 0)
NOON_MS = 1_714_564_800_000  # 2024-05-01T12:00:00Z
PUMP = RecordSchema(features=(Feature(name="pressure"), Feature(name="flow")))


def record(value: Any, key: bytes | None = b"pump-1", timestamp_ms: int = NOON_MS, offset: int = 7) -> Record:
    """`value`: bytes as they are, anything else as JSON."""
    return Record(READINGS, offset, timestamp_ms, key, value if value is None or isinstance(value, bytes) else json.dumps(value).encode())


def accepted(schema: RecordSchema, *records: Record) -> Observations:
    observations, rejections = Decoder(schema).decode(records)
    assert rejections == []
    return observations


def rejected(schema: RecordSchema, one: Record) -> Rejection:
    observations, rejections = Decoder(schema).decode([one])
    assert observations.records == []
    (rejection,) = rejections
    assert rejection.record is one
    assert 0 < len(rejection.detail) <= 400
    return rejection


def timed(path: str | None = "time", **settings: Any) -> RecordSchema:
    return RecordSchema(time=Time(path=path, **settings), features=(Feature(name="x"),))


def test_a_record_becomes_a_row_in_the_order_of_the_settings() -> None:
    observations = accepted(PUMP, record({"flow": 2, "pressure": 1.5, "unwatched": ["anything"]}))

    assert observations.entities == ["pump-1"]
    assert observations.times_us.tolist() == [NOON_MS * 1000]
    assert observations.readings.tolist() == [[1.5, 2.0]]


def test_an_absent_or_null_feature_is_missing() -> None:
    observations = accepted(PUMP, record({"flow": 2}), record({"pressure": 1, "flow": None}))

    assert np.isnan(observations.readings).tolist() == [[True, False], [False, True]]


def test_names_with_dots_and_spaces_are_taken_whole_and_paths_are_followed() -> None:
    schema = RecordSchema(features=(Feature(name="a.b"), Feature(name="of pump", path="a.b"), Feature(name="mean temp (°C)")))

    observations = accepted(schema, record({"a.b": 1, "a": {"b": 2}, "mean temp (°C)": 3}))

    assert observations.readings.tolist() == [[1, 2, 3]]


def test_a_name_that_no_struct_field_can_have_is_still_read() -> None:
    schema = RecordSchema(features=(Feature(name='the "true" one'),))

    assert accepted(schema, record({'the "true" one': 4})).readings.tolist() == [[4]]


def test_one_field_may_feed_several_features() -> None:
    schema = RecordSchema(features=(Feature(name="level"), Feature(name="other"), Feature(name="change", path="level", kind="difference")))

    assert accepted(schema, record({"level": 3, "other": 5})).readings.tolist() == [[3, 5, 3]]


def test_a_field_that_is_also_an_object_elsewhere_may_be_absent() -> None:
    schema = RecordSchema(features=(Feature(name="a"), Feature(name="inner", path="a.b"), Feature(name="x")))

    assert accepted(schema, record({"x": 1})).readings[:, 2].tolist() == [1]
    assert rejected(schema, record({"a": 5, "x": 1})).reason is Reason.SCHEMA


def test_a_missing_object_on_the_way_is_a_missing_feature() -> None:
    schema = RecordSchema(features=(Feature(name="x"), Feature(name="deep", path="outer.inner.deep")))

    observations = accepted(schema, record({"x": 1}), record({"x": 1, "outer": None}), record({"x": 1, "outer": {"inner": {"deep": 2}}}))

    assert observations.readings[:, 1].tolist() == pytest.approx([float("nan"), float("nan"), 2], nan_ok=True)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.TOMBSTONE),
        (b"", Reason.MALFORMED_JSON),
        (b"{", Reason.MALFORMED_JSON),
        (b'{"pressure": 1} x', Reason.MALFORMED_JSON),
        (b'{"pressure": NaN}', Reason.MALFORMED_JSON),
        (b'{"pressure": -Infinity}', Reason.MALFORMED_JSON),
        (b'{"note": "\\ud800", "pressure": 1}', Reason.MALFORMED_JSON),
        (b'{"pressure": 1, "note": "\xff"}', Reason.ENCODING),
        (b'\xef\xbb\xbf{"pressure": 1}', Reason.MALFORMED_JSON),
        (b"[1, 2]", Reason.SCHEMA),
        (b"5", Reason.SCHEMA),
        (b'{"x": ' + b"[" * 500 + b"]" * 500 + b', "pressure": 1}', Reason.MALFORMED_JSON),
        (b'{"pressure": "1.5"}', Reason.FEATURE_TYPE),
        (b'{"pressure": true}', Reason.FEATURE_TYPE),
        (b'{"pressure": [1]}', Reason.FEATURE_TYPE),
        (b'{"pressure": {"v": 1}}', Reason.FEATURE_TYPE),
        (b'{"pressure": 1e400}', Reason.FEATURE_OUT_OF_RANGE),
        (b'{"pressure": -2e300}', Reason.FEATURE_OUT_OF_RANGE),
        (b'{"pressure": 1' + b"0" * 400 + b"}", Reason.FEATURE_OUT_OF_RANGE),
        (b"{}", Reason.FEATURES_MISSING),
        (b'{"pressure": null, "other": 1}', Reason.FEATURES_MISSING),
    ],
)
def test_a_bad_value_is_rejected_with_its_reason(value: bytes | None, reason: Reason) -> None:
    assert rejected(PUMP, record(value)).reason is reason


def test_an_oversized_record_is_rejected_unread() -> None:
    schema = PUMP.model_copy(update={"record_bytes_max": 64})

    assert rejected(schema, record(b"[" * 65)).reason is Reason.OVERSIZED


def test_a_number_out_of_range_in_a_field_that_is_not_watched_harms_nothing() -> None:
    assert accepted(PUMP, record(b'{"pressure": 1, "unwatched": 1e999}')).readings[0, 0] == 1


def test_a_document_with_many_shallow_objects_is_read() -> None:
    assert accepted(PUMP, record({"pressure": 1, "parts": [{"name": '[{"\\'}] * 900})).readings[0, 0] == 1


def test_a_quoted_number_is_refused_with_a_hint() -> None:
    assert "without quotes" in rejected(PUMP, record({"pressure": "12.5"})).detail


def test_no_more_than_a_glimpse_of_the_input_is_told() -> None:
    detail = rejected(PUMP, record({"pressure": "é\n" * 5000})).detail

    assert detail.isprintable()
    assert detail.count("é") < 100


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (None, Reason.ENTITY_MISSING),
        (b"", Reason.ENTITY_MISSING),
        (b"\xff", Reason.ENTITY_INVALID),
        (b"pump\n1", Reason.ENTITY_INVALID),
        ("pump\x85".encode(), Reason.ENTITY_INVALID),
        (b"p" * 257, Reason.ENTITY_INVALID),
        ("é".encode() * 129, Reason.ENTITY_INVALID),
    ],
)
def test_a_key_that_is_no_entity_is_rejected(key: bytes | None, reason: Reason) -> None:
    assert rejected(PUMP, record({"pressure": 1}, key=key)).reason is reason


def test_a_key_may_be_any_printable_text() -> None:
    observations = accepted(PUMP, record({"pressure": 1}, key="Pumpe Süd 1/α".encode()), record({"pressure": 1}))

    assert observations.entities == ["Pumpe Süd 1/α", "pump-1"]


def test_the_entity_may_be_a_string_or_an_integer_field() -> None:
    schema = RecordSchema(entity="card.id", features=(Feature(name="x"),))

    assert accepted(schema, record({"card": {"id": "a"}, "x": 1}), record({"card": {"id": 42}, "x": 1}, key=None)).entities == ["a", "42"]


@pytest.mark.parametrize(
    ("entity", "reason"),
    [
        ({}, Reason.ENTITY_MISSING),
        ({"id": None}, Reason.ENTITY_MISSING),
        ({"id": ""}, Reason.ENTITY_MISSING),
        ({"id": 1.5}, Reason.ENTITY_INVALID),
        ({"id": True}, Reason.ENTITY_INVALID),
        ({"id": ["a"]}, Reason.ENTITY_INVALID),
        ({"id": "a\tb"}, Reason.ENTITY_INVALID),
        (7, Reason.SCHEMA),
    ],
)
def test_a_field_that_is_no_entity_is_rejected(entity: Any, reason: Reason) -> None:
    schema = RecordSchema(entity="card.id", features=(Feature(name="x"),))

    assert rejected(schema, record({"card": entity, "x": 1})).reason is reason


@pytest.mark.parametrize(
    ("text", "microsecond"),
    [
        ("2024-05-01T12:00:00Z", 0),
        ("2024-05-01T12:00:00", 0),
        ("2024-05-01 12:00:00", 0),
        ("2024-05-01T12:00:00.5Z", 500_000),
        ("2024-05-01T12:00:00.000001", 1),
        ("2024-05-01T12:00:00.999999Z", 999_999),
        ("2024-05-01T14:00:00+02:00", 0),
        ("2024-05-01T07:30:00.123456-04:30", 123_456),
        ("2024-05-01T12:00", 0),
        ("20240501T120000Z", 0),
    ],
)
def test_iso_times_are_read_exactly(text: str, microsecond: int) -> None:
    assert accepted(timed(), record({"time": text, "x": 1})).times_us.tolist() == [NOON_MS * 1000 + microsecond]


@pytest.mark.parametrize(
    ("unit", "sent", "expected_us"),
    [
        ("s", 1_714_564_800, 1_714_564_800_000_000),
        ("s", 1_714_564_800.123457, 1_714_564_800_123_457),
        ("ms", 1_714_564_800_001, 1_714_564_800_001_000),
        ("ms", 1_714_564_800_000.25, 1_714_564_800_000_250),
        ("us", 1_714_564_800_000_001, 1_714_564_800_000_001),
    ],
)
def test_epochs_are_read_to_the_microsecond(unit: str, sent: float, expected_us: int) -> None:
    assert accepted(timed(format=unit), record({"time": sent, "x": 1})).times_us.tolist() == [expected_us]


@pytest.mark.parametrize(
    ("time_format", "sent", "reason"),
    [
        ("iso8601", None, Reason.TIME_MISSING),
        ("iso8601", "yesterday", Reason.TIME_INVALID),
        ("iso8601", "2023-02-29T00:00:00Z", Reason.TIME_INVALID),
        ("iso8601", 1_714_564_800, Reason.TIME_INVALID),
        ("iso8601", "1989-12-31T23:59:59Z", Reason.TIME_OUT_OF_RANGE),
        ("iso8601", "2024-05-02T12:00:00.000001Z", Reason.TIME_OUT_OF_RANGE),
        ("s", "1714564800", Reason.TIME_INVALID),
        ("s", True, Reason.TIME_INVALID),
        ("s", 1e300, Reason.TIME_OUT_OF_RANGE),
        ("s", -(10**400), Reason.TIME_OUT_OF_RANGE),
        ("s", 1_714_564_800_000, Reason.TIME_OUT_OF_RANGE),
    ],
)
def test_a_bad_event_time_is_rejected(time_format: str, sent: Any, reason: Reason) -> None:
    assert rejected(timed(format=time_format), record({"time": sent, "x": 1})).reason is reason


def test_an_absent_event_time_is_missing() -> None:
    assert rejected(timed(), record({"x": 1})).reason is Reason.TIME_MISSING


def test_a_record_without_a_timestamp_needs_an_event_time_field() -> None:
    assert rejected(PUMP, record({"pressure": 1}, timestamp_ms=-1)).reason is Reason.TIME_MISSING


def test_the_event_time_is_not_held_against_a_timestamp_that_is_not_there() -> None:
    assert accepted(timed(), record({"time": "2099-01-01T00:00:00Z", "x": 1}, timestamp_ms=-1)).entities == ["pump-1"]


def test_categories_are_stable_numbers_and_types_are_told_apart() -> None:
    schema = RecordSchema(features=(Feature(name="shop", kind="category"),))

    hashes = accepted(schema, *(record({"shop": shop}) for shop in ("1", 1, True, "1", "Bäcker"))).categories[:, 0].tolist()

    assert hashes[0] == hashes[3] == 1_055_886_174_656_470_169
    assert len(set(hashes)) == 4
    assert all(0 < number < 2**63 for number in hashes)


def test_a_category_alone_is_enough_and_an_object_is_none() -> None:
    schema = RecordSchema(features=(Feature(name="x"), Feature(name="shop", kind="category")))

    assert accepted(schema, record({"shop": ""})).categories[0, 0] != 0
    assert rejected(schema, record({"shop": {}})).reason is Reason.FEATURE_TYPE
    assert rejected(schema, record({})).reason is Reason.FEATURES_MISSING


def test_a_schema_of_derived_features_only_misses_nothing() -> None:
    schema = RecordSchema(features=(Feature(name="pace", kind="elapsed"),))

    assert accepted(schema, record({})).readings.shape == (1, 0)


def test_a_bad_record_leaves_its_neighbours_in_order() -> None:
    records = [record({"pressure": offset} if offset != 2 else b"}", offset=offset) for offset in range(5)]
    records[3] = record({"pressure": None, "flow": 3}, offset=3, key="ä".encode())

    observations, rejections = Decoder(PUMP).decode(records)

    assert [one.offset for one in observations.records] == [0, 1, 3, 4]
    assert observations.entities == ["pump-1", "pump-1", "ä", "pump-1"]
    assert [rejection.record.offset for rejection in rejections] == [2]


def test_an_empty_batch_is_empty() -> None:
    observations, rejections = Decoder(PUMP).decode([])

    assert (observations.records, observations.readings.shape, rejections) == ([], (0, 2), [])
