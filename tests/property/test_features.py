"""Features do not depend on where batches are cut, nor does what is remembered per entity."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from anomaly_daemon.domain.columns import LAST_SEEN_US
from anomaly_daemon.pipeline.features import FeatureTransforms
from anomaly_daemon.settings import Feature
from anomaly_daemon.state.segments import lay_out
from tests.small import is_sound

ENTITIES = 4
FEATURES = (
    Feature(name="pressure"),
    Feature(name="flow", kind="asinh"),
    Feature(name="errors", kind="log"),
    Feature(name="level", kind="difference"),
    Feature(name="packets", kind="rate"),
    Feature(name="bytes", kind="rate"),
    Feature(name="pace", kind="elapsed"),
    Feature(name="hour", kind="cyclic", period="hour_of_day"),
    Feature(name="weekday", kind="cyclic", period="day_of_week"),
    Feature(name="merchant", kind="category", values_max=2),
    Feature(name="country", kind="category", values_max=4),
    Feature(name="amount", kind="relative"),
    Feature(name="amount_there", kind="relative", within="merchant"),
    Feature(name="lately", kind="count", half_life="1h"),
    Feature(name="night", kind="unusual_time", period="hour_of_day"),
    Feature(name="weekend", kind="unusual_time", period="day_of_week"),
)
NUMBERS = 8


@dataclass(frozen=True)
class Stream:
    slots: NDArray[np.int64]
    times_us: NDArray[np.int64]
    readings: NDArray[np.float64]
    categories: NDArray[np.int64]


reading = st.floats(-1e300, 1e300, allow_nan=False) | st.floats(-1e3, 1e3) | st.just(float("nan")) | st.sampled_from([0.0, -0.0, 1.0, 7.5])
rows = st.tuples(
    st.integers(0, ENTITIES - 1),
    st.integers(1_600_000_000_000_000, 1_600_000_100_000_000) | st.sampled_from([1_600_000_000_000_000, -5_000_000]),
    st.tuples(*[reading] * NUMBERS),
    st.tuples(st.integers(0, 4), st.integers(0, 6)),
)


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    drawn = draw(st.lists(rows, min_size=1, max_size=24))
    slots, times_us, readings, categories = zip(*drawn, strict=True)
    return Stream(np.array(slots), np.array(times_us), np.array(readings), np.array(categories))


def run(stream: Stream, cuts: list[int]) -> tuple[bytes, bytes, dict[str, bytes]]:
    """Bits of values, gaps and of everything that is kept, with the stream cut before each of `cuts`."""
    transforms = FeatureTransforms(FEATURES)
    table = {
        column.name: np.array(np.broadcast_to(np.asarray(column.fill, column.dtype), (ENTITIES, *column.shape)))
        for column in (LAST_SEEN_US, *transforms.columns())
    }
    values = np.empty((len(stream.slots), len(transforms.names)), np.float32)
    gaps_s = np.empty(len(stream.slots))
    edges = [0, *sorted(set(cuts) - {0}), len(stream.slots)]
    for start, end in itertools.pairwise(edges):
        layout = lay_out(stream.slots[start:end])
        order = start + layout.order
        host = {name: column[layout.slots] for name, column in table.items()}
        values[order], gaps_s[order] = transforms.transform(layout, stream.times_us[order], stream.readings[order], stream.categories[order], host)
        for name, column in table.items():
            column[layout.slots] = host[name]
        for row in range(start, end):
            table[LAST_SEEN_US.name][stream.slots[row]] = stream.times_us[row]
    return values.tobytes(), gaps_s.tobytes(), {name: column.tobytes() for name, column in table.items()}


@given(streams(), st.data())
def test_features_and_what_is_kept_do_not_depend_on_where_batches_are_cut(stream: Stream, choice: st.DataObject) -> None:
    rows_total = len(stream.slots)
    cuts = choice.draw(st.lists(st.integers(0, rows_total - 1), max_size=6))

    assert run(stream, cuts) == run(stream, list(range(rows_total)))


@given(streams())
def test_an_entity_s_features_do_not_depend_on_its_neighbours(stream: Stream) -> None:
    alone = stream.slots == stream.slots[0]
    own = Stream(stream.slots[alone], stream.times_us[alone], stream.readings[alone], stream.categories[alone])
    width = len(FeatureTransforms(FEATURES).names)
    among = np.frombuffer(run(stream, [])[0], np.float32).reshape(-1, width)[alone]

    assert run(own, [])[0] == among.tobytes()


@given(streams())
def test_features_are_finite_or_missing_and_what_is_kept_is_sound(stream: Stream) -> None:
    values, _, kept = run(stream, [])

    assert not np.isinf(np.frombuffer(values, np.float32)).any()
    for column in FeatureTransforms(FEATURES).columns():
        assert is_sound(column.name, np.frombuffer(kept[column.name], column.dtype)), column.name
