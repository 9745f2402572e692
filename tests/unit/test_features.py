from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from anomaly_daemon.domain.columns import LAST_SEEN_US
from anomaly_daemon.pipeline.features import FeatureTransforms
from anomaly_daemon.settings import Feature
from anomaly_daemon.state.segments import lay_out

NAN = float("nan")
SECOND_US = 1_000_000


def of_one_entity(
    feature: Feature, readings: Sequence[float] = (), times_s: Sequence[float] | None = None, categories: Sequence[int] = ()
) -> NDArray[np.float64]:
    """The feature's columns over one entity's records, all in one batch; a record a second unless `times_s` says otherwise."""
    transforms = FeatureTransforms((feature,))
    total = max(len(readings), len(categories), len(times_s or ()))
    times_us = (np.array(times_s if times_s is not None else range(total)) * SECOND_US).astype(np.int64)
    host: dict[str, Any] = {
        column.name: np.array(np.broadcast_to(np.asarray(column.fill, column.dtype), (1, *column.shape)))
        for column in (LAST_SEEN_US, *transforms.columns())
    }
    layout = lay_out(np.zeros(total, np.int64))
    numbers = np.array(readings, np.float64).reshape(total, -1) if len(readings) else np.zeros((total, 0))
    hashes = np.array(categories, np.int64).reshape(total, -1) if len(categories) else np.zeros((total, 0), np.int64)
    values, _ = transforms.transform(layout, times_us, numbers, hashes, host)
    return values.astype(np.float64)


def test_a_number_stays_as_it_is() -> None:
    assert of_one_entity(Feature(name="x"), [1.5, NAN, -2.0])[:, 0] == pytest.approx([1.5, NAN, -2.0], nan_ok=True)


def test_a_number_beyond_float32_is_clipped() -> None:
    assert of_one_entity(Feature(name="x"), [1e300, -1e300])[:, 0] == pytest.approx([3e38, -3e38])


def test_asinh_is_the_inverse_hyperbolic_sine() -> None:
    assert of_one_entity(Feature(name="x", kind="asinh"), [1000.0, -3.0])[:, 0] == pytest.approx([math.asinh(1000), math.asinh(-3)])


def test_log_keeps_the_sign() -> None:
    assert of_one_entity(Feature(name="x", kind="log"), [math.e - 1, 1 - math.e, 0.0])[:, 0] == pytest.approx([1, -1, 0])


def test_difference_is_to_the_last_known_value() -> None:
    differences = of_one_entity(Feature(name="x", kind="difference"), [10.0, 12.0, NAN, 17.0])[:, 0]

    assert differences == pytest.approx([NAN, 2, NAN, 5], nan_ok=True)


def test_rate_is_per_second_since_the_last_known_value() -> None:
    rates = of_one_entity(Feature(name="x", kind="rate"), [100.0, NAN, 130.0], times_s=[0, 5, 10])[:, 0]

    assert rates == pytest.approx([NAN, NAN, 3], nan_ok=True)


def test_a_counter_that_was_reset_counts_from_zero() -> None:
    assert of_one_entity(Feature(name="x", kind="rate"), [100.0, 8.0], times_s=[0, 4])[1, 0] == pytest.approx(2)


def test_rate_is_missing_where_no_time_has_passed() -> None:
    rates = of_one_entity(Feature(name="x", kind="rate"), [1.0, 2.0, 3.0], times_s=[10, 10, 9])[:, 0]

    assert np.isnan(rates).all()


def test_elapsed_is_the_log_of_the_seconds_since_the_previous_record() -> None:
    elapsed = of_one_entity(Feature(name="pace", kind="elapsed"), times_s=[0, 10, 5])[:, 0]

    assert elapsed == pytest.approx([NAN, math.log1p(10), 0], nan_ok=True)


def test_the_hour_of_day_is_a_point_on_a_circle() -> None:
    circle = of_one_entity(Feature(name="hour", kind="cyclic", period="hour_of_day"), times_s=[0, 6 * 3600, 12 * 3600])

    assert circle == pytest.approx(np.array([[0, 1], [1, 0], [0, -1]]), abs=1e-6)


def test_the_day_of_the_week_comes_back_after_seven_days() -> None:
    circle = of_one_entity(Feature(name="day", kind="cyclic", period="day_of_week"), times_s=[86400, 8 * 86400, 2 * 86400])

    assert circle[0] == pytest.approx(circle[1])
    assert circle[0] != pytest.approx(circle[2], abs=0.1)


def test_rarity_is_judged_before_the_value_is_counted() -> None:
    feature = Feature(name="merchant", kind="category")

    rarity_and_new = of_one_entity(feature, categories=[5, 5, 9, 0, 5])

    assert rarity_and_new[:, 0] == pytest.approx([-math.log(1 / 2), -math.log(2 / 3), -math.log(1 / 4), NAN, -math.log(3 / 5)], nan_ok=True)
    assert rarity_and_new[:, 1] == pytest.approx([1, 0, 1, NAN, 0], nan_ok=True)


def test_a_full_table_forgets_the_first_of_the_rarest_values() -> None:
    feature = Feature(name="merchant", kind="category", values_max=2)

    is_new = of_one_entity(feature, categories=[5, 9, 7, 9, 5])[:, 1]

    assert is_new.tolist() == [1, 1, 1, 0, 1]


def test_names_follow_the_settings_and_two_stand_for_cyclic_and_category() -> None:
    features = (Feature(name="hour", kind="cyclic", period="hour_of_day"), Feature(name="x"), Feature(name="shop", kind="category"))

    assert FeatureTransforms(features).names == ("hour_sin", "hour_cos", "x", "shop_rarity", "shop_new")


def test_only_what_the_kinds_need_is_kept_per_entity() -> None:
    assert FeatureTransforms((Feature(name="x"), Feature(name="pace", kind="elapsed"))).columns() == ()


def test_gaps_reach_back_into_earlier_batches() -> None:
    transforms = FeatureTransforms((Feature(name="x"),))
    layout = lay_out(np.array([1, 0, 1]))
    host: dict[str, Any] = {"last_seen_us": np.array([4 * SECOND_US, np.iinfo(np.int64).min])}  # by rank: slot 1, slot 0

    _, gaps_s = transforms.transform(layout, np.array([10, 20, 30])[layout.order] * SECOND_US, np.zeros((3, 1)), np.zeros((3, 0), np.int64), host)

    in_log_order = np.empty(3)
    in_log_order[layout.order] = gaps_s
    assert in_log_order == pytest.approx([6, NAN, 20], nan_ok=True)
