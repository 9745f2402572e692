from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from anomaly_daemon.domain.columns import LAST_SEEN_US
from anomaly_daemon.pipeline.features import FeatureTransforms
from anomaly_daemon.settings import Feature, RecordSchema
from anomaly_daemon.state.segments import lay_out

NAN = float("nan")
SECOND_US = 1_000_000


def of_one_entity(
    feature: Feature,
    readings: Sequence[float] = (),
    times_s: Sequence[float] | None = None,
    categories: Sequence[int] = (),
    others: tuple[Feature, ...] = (),
) -> NDArray[np.float64]:
    """The feature's columns over one entity's records, all in one batch; a record a second unless `times_s` says otherwise."""
    transforms = FeatureTransforms((feature, *others))
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
    return values[:, : len(feature.columns)].astype(np.float64)


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

    # New ones have 1/2, 2/3, 1/4 and 2/5 together; after 5, 5, 9 the value 5 has two thirds of the rest.
    assert rarity_and_new[:, 0] == pytest.approx([-math.log(1 / 2), -math.log(1 / 3), -math.log(1 / 4), NAN, -math.log(3 / 5 * 2 / 3)], nan_ok=True)
    assert rarity_and_new[:, 1] == pytest.approx([1, 0, 1, NAN, 0], nan_ok=True)


def test_a_new_value_is_no_surprise_of_an_entity_that_always_shows_new_ones() -> None:
    feature = Feature(name="merchant", kind="category")

    explorer = of_one_entity(feature, categories=range(1, 31))[-1, 0]
    settled = of_one_entity(feature, categories=[1] * 29 + [2])[-1, 0]

    assert explorer < 0.1
    assert settled > 3


def test_bits_tell_values_apart() -> None:
    told = of_one_entity(Feature(name="merchant", kind="category", bits=3), categories=[5, 3, 0, 5])

    assert told[:, 2:] == pytest.approx(np.array([[1, -1, 1], [1, 1, -1], [NAN, NAN, NAN], [1, -1, 1]]), nan_ok=True)


def test_relative_is_in_deviations_from_the_entity_s_own_mean_of_the_log() -> None:
    amounts = [math.e - 1, math.e**3 - 1, math.e**2 - 1, NAN, math.e**6 - 1]

    relative = of_one_entity(Feature(name="amount", kind="relative"), amounts)[:, 0]

    # Logs 1, 3, 2 have mean 2 and variance 1, as the four observations have that everybody starts with; the mean of n is known to 1/n.
    assert relative == pytest.approx([NAN, (3 - 1) / math.sqrt(2), 0, NAN, (6 - 2) / math.sqrt(4 / 3)], nan_ok=True)


def test_relative_within_a_category_compares_with_records_of_that_value() -> None:
    feature, category = Feature(name="amount", kind="relative", within="shop"), Feature(name="shop", kind="category")
    amounts, shops = [5.0, 500.0] * 20, [1, 2] * 20

    in_the_dear_shop = of_one_entity(feature, [*amounts, 500.0], categories=[*shops, 2], others=(category,))[-1, 0]
    in_the_cheap_one = of_one_entity(feature, [*amounts, 500.0], categories=[*shops, 1], others=(category,))[-1, 0]

    assert abs(in_the_dear_shop) < 0.5
    assert in_the_cheap_one > 8


def test_relative_without_the_category_compares_with_all_records() -> None:
    feature, category = Feature(name="amount", kind="relative", within="shop"), Feature(name="shop", kind="category")

    within = of_one_entity(feature, [5.0, 500.0, 50.0], categories=[0, 0, 0], others=(category,))

    assert within == pytest.approx(of_one_entity(Feature(name="amount", kind="relative"), [5.0, 500.0, 50.0]), nan_ok=True)


def test_a_place_taken_by_a_new_category_starts_without_the_old_one_s_amounts() -> None:
    feature, category = Feature(name="amount", kind="relative", within="shop"), Feature(name="shop", kind="category", values_max=2)
    shops = [1] * 10 + [2] * 4 + [1] * 10 + [3, 3]  # 3 takes the place of 2; of its first record the amount is missing

    amounts = [50.0] * 10 + [2500.0] * 4 + [50.0] * 10 + [NAN, 2500.0]

    in_the_new_shop = of_one_entity(feature, amounts, categories=shops, others=(category,))[-1, 0]
    in_the_dear_one = of_one_entity(feature, amounts, categories=[*shops[:-2], 2, 2], others=(category,))[-1, 0]

    assert in_the_new_shop > 1 > in_the_dear_one


def test_count_is_the_log_of_records_that_count_half_after_the_half_life() -> None:
    lately = of_one_entity(Feature(name="lately", kind="count", half_life="10s"), times_s=[0, 0, 10, 40])[:, 0]

    assert lately == pytest.approx(np.log([1, 2, 2, 1.25]))


def test_a_time_at_which_the_entity_is_never_seen_is_unusual_and_its_usual_one_is_not() -> None:
    noons = [day * 86400 + 12 * 3600 for day in range(40)]

    at_noon = of_one_entity(Feature(name="hour", kind="unusual_time", period="hour_of_day"), times_s=[*noons, noons[-1] + 86400])[:, 0]
    at_night = of_one_entity(Feature(name="hour", kind="unusual_time", period="hour_of_day"), times_s=[*noons, noons[-1] + 15 * 3600])[:, 0]

    assert at_noon[0] == 0
    assert at_noon[-1] == pytest.approx(-math.log((40 * 2 * 24 / 4 + 4) / (40 + 4)))
    assert at_night[-1] == pytest.approx(math.log((40 + 4) / 4))


def test_the_hour_before_midnight_is_a_neighbour_of_the_one_after() -> None:
    late = [day * 86400 + 23.5 * 3600 for day in range(40)]

    just_after = of_one_entity(Feature(name="hour", kind="unusual_time", period="hour_of_day"), times_s=[*late, 40 * 86400 + 600])[-1, 0]

    assert just_after == pytest.approx(-math.log((40 * 24 / 4 + 4) / (40 + 4)))


def test_habits_do_not_depend_on_where_batches_are_cut() -> None:
    features = (
        Feature(name="amount", kind="relative"),
        Feature(name="amount_there", kind="relative", within="shop"),
        Feature(name="shop", kind="category", values_max=2),
        Feature(name="lately", kind="count", half_life="1h"),
        Feature(name="night", kind="unusual_time", period="hour_of_day"),
    )
    random, total = np.random.default_rng(0), 400
    slots, times_us = random.integers(0, 5, total), np.cumsum(random.integers(0, 4 * 3600, total)) * SECOND_US
    readings, hashes = np.exp(random.normal(3, 2, (total, 2))), random.integers(0, 5, (total, 1))

    def run(batch: int) -> tuple[bytes, list[bytes]]:
        transforms = FeatureTransforms(features)
        table = {column.name: np.zeros((5, *column.shape), column.dtype) for column in transforms.columns()}
        table[LAST_SEEN_US.name] = np.full(5, np.iinfo(np.int64).min)
        values = np.empty((total, len(transforms.names)), np.float32)
        for start in range(0, total, batch):
            layout = lay_out(slots[start : start + batch])
            order = start + layout.order
            host = {name: column[layout.slots] for name, column in table.items()}
            values[order], _ = transforms.transform(layout, times_us[order], readings[order], hashes[order], host)
            host[LAST_SEEN_US.name][layout.rank] = times_us[order]
            for name, column in table.items():
                column[layout.slots] = host[name]
        return values.tobytes(), [column.tobytes() for column in table.values()]

    whole = run(total)

    assert whole == run(1) == run(7)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "count"}, "`half_life` goes with kind count"),
        ({"kind": "count", "half_life": "0"}, "half_life must be longer than 0"),
        ({"kind": "unusual_time"}, "`period` goes with kind cyclic or unusual_time"),
        ({"kind": "unusual_time", "period": "hour_of_day", "path": "y"}, "takes no path"),
        ({"kind": "log", "within": "shop"}, "`within` goes with kind relative"),
    ],
)
def test_a_setting_that_a_kind_does_not_take_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Feature(name="x", **keys)


def test_within_names_a_category_feature() -> None:
    with pytest.raises(ValidationError, match="within 'shop' is no feature of kind category; there is none"):
        RecordSchema(features=(Feature(name="amount", kind="relative", within="shop"),))


def test_cyclic_features_and_those_set_so_are_context() -> None:
    features = (Feature(name="hour", kind="cyclic", period="hour_of_day"), Feature(name="shop", kind="category", context=True), Feature(name="x"))

    assert [feature.is_context for feature in features] == [True, True, False]


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
