"""Whatever the bytes, each record is accepted once or rejected once, and its neighbours do not matter."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from anomaly_daemon.domain.records import Observations, Partition, Record, Rejection
from anomaly_daemon.pipeline.decode import Decoder
from anomaly_daemon.pipeline.event_time import parse_all_iso_us, parse_iso_us
from anomaly_daemon.pipeline.fields import FieldReader
from anomaly_daemon.settings import Feature, RecordSchema, Time

SCHEMAS = [
    RecordSchema(features=(Feature(name="a"), Feature(name="b"))),
    RecordSchema(time=Time(earliest="1900-01-01"), features=(Feature(name="a"),)),
    RecordSchema(
        entity="c",
        time=Time(path="t"),
        features=(Feature(name="a"), Feature(name="deep", path="o.a"), Feature(name="b", kind="category"), Feature(name="pace", kind="elapsed")),
    ),
    RecordSchema(time=Time(path="o.t", format="ms"), features=(Feature(name="only", path="o.a"),)),
    RecordSchema(entity="a", features=(Feature(name="a", kind="category"), Feature(name="b"), Feature(name="o"), Feature(name="deep", path="o.b"))),
]

leaf: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["2024-05-01T12:00:00Z", "2024-05-01", "pump-1", "12", "", 1_714_564_800_000, 10**350]),
    st.text(max_size=4),
    st.lists(st.integers(), max_size=2),
)
names = st.sampled_from(["a", "b", "c", "t"])
tree = st.dictionaries(names | st.just("o"), leaf | st.dictionaries(names, leaf, max_size=3), max_size=5)
values = st.one_of(
    tree.map(lambda value: json.dumps(value).encode()),
    tree.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")),
    leaf.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=12),
    st.builds(lambda value, cut: json.dumps(value).encode()[:cut], tree, st.integers(0, 40)),
    st.none(),
)
keys = st.none() | st.sampled_from([b"pump-1", b"", "süd".encode(), b"\xff", b"a\x00"]) | st.binary(max_size=4)
records = st.builds(
    Record,
    st.just(Partition("readings", 0)),
    st.integers(0, 99),
    st.sampled_from([1_714_564_800_000, -1, 0, 2**62]),
    keys,
    values,
)
batches = st.lists(records, max_size=8)
schemas = st.sampled_from(SCHEMAS)


def rows(observations: Observations) -> list[tuple[Any, ...]]:
    """Each row as it is, numbers by their bits."""
    return [
        (
            observations.records[row],
            observations.entities[row],
            int(observations.times_us[row]),
            observations.readings[row].tobytes(),
            observations.categories[row].tolist(),
        )
        for row in range(len(observations.records))
    ]


@given(schemas, batches)
def test_every_record_is_accepted_once_or_rejected_once_in_order(schema: RecordSchema, batch: list[Record]) -> None:
    observations, rejections = Decoder(schema).decode(batch)

    accepted = {id(record) for record in observations.records}
    assert [id(record) for record in batch if id(record) in accepted] == [id(record) for record in observations.records]
    assert [id(record) for record in batch if id(record) not in accepted] == [id(rejection.record) for rejection in rejections]
    assert all(0 < len(rejection.detail) <= 400 for rejection in rejections)
    assert np.isfinite(observations.readings[~np.isnan(observations.readings)]).all()


@given(schemas, batches)
def test_a_batch_is_decoded_as_the_complete_rules_read_each_record(schema: RecordSchema, batch: list[Record]) -> None:
    observations, rejections = Decoder(schema).decode(batch)
    reader = FieldReader(schema)
    read = [(record, reader.read(record)) for record in batch]

    assert rejections == [outcome for _, outcome in read if isinstance(outcome, Rejection)]
    assert rows(observations) == [
        (record, row.entity, row.time_us, np.array(row.readings).tobytes(), list(row.categories))
        for record, row in read
        if not isinstance(row, Rejection)
    ]


@given(schemas, batches)
def test_the_neighbours_of_a_record_do_not_matter(schema: RecordSchema, batch: list[Record]) -> None:
    decoder = Decoder(schema)
    together, rejections = decoder.decode(batch)
    alone = [decoder.decode([record]) for record in batch]

    assert rows(together) == [row for observations, _ in alone for row in rows(observations)]
    assert rejections == [rejection for _, found in alone for rejection in found]


fractions = st.sampled_from(["", ".", ".1", ".12", ".123", ".123456", ".1234567", ",5"])
zones = st.sampled_from(["", "Z", "z", "ZZ", "+02:00", "-0130", " "])
moments = st.builds(
    lambda year, month, day, between, hour, minute, second, fraction, zone: (
        f"{year:04}-{month:02}-{day:02}{between}{hour:02}:{minute:02}:{second:02}{fraction}{zone}"
    ),
    st.sampled_from([0, 1, 1969, 1970, 2024, 9999]),
    st.integers(0, 13),
    st.integers(0, 32),
    st.sampled_from("TTT tx"),
    st.integers(0, 25),
    st.integers(0, 61),
    st.integers(0, 61),
    fractions,
    zones,
)


@given(st.lists(moments | st.text(max_size=27), max_size=12))
@example(["2024-05-01T12:00:00.1Z", "2024-05-01T12:00:00\x00Z", "éééé-éé-ééTéé:éé:éé", "now", "NaT", "today"])
def test_times_are_read_together_as_they_are_alone(texts: list[str]) -> None:
    times_us, is_unread = parse_all_iso_us(texts)

    for text, time_us, unread in zip(texts, times_us.tolist(), is_unread.tolist(), strict=True):
        try:
            expected: int | None = parse_iso_us(text)
        except ValueError:
            expected = None
        assert (None if unread else time_us) == expected
