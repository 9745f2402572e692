from __future__ import annotations

import numpy as np
import pytest
import torch

from anomaly_daemon.model.scaling import CLIP, DEVIATION_FLOOR, entity_scales, fit_fleet, learn_scale, own_scale, scale_with

GENERATOR = np.random.default_rng(0)


def test_values_come_back_from_fleet_space() -> None:
    values = GENERATOR.normal(1000, 5, (300, 4))
    scale = fit_fleet(values, np.full(300, 60.0))
    scaled = scale.transform(values)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(0), 1, atol=1e-5)
    np.testing.assert_allclose(scale.inverse(scaled), values, rtol=1e-6)


def test_missing_and_infinite_values_are_left_out_of_the_scale_and_stay_missing() -> None:
    values = np.array([[1.0, 2.0], [3.0, np.nan], [np.nan, 4.0], [5.0, np.inf]])
    scale = fit_fleet(values, np.full(4, np.nan))
    assert scale.center.tolist() == [3.0, 3.0]
    assert np.isnan(scale.transform(values)[2, 0])


def test_a_feature_that_is_always_missing_keeps_its_unit() -> None:
    scale = fit_fleet(np.full((5, 1), np.nan), np.full(5, np.nan))
    assert (scale.center[0], scale.deviation[0]) == (0.0, 1.0)


def test_a_deviation_is_at_least_a_twentieth_of_the_range_and_never_zero() -> None:
    nearly_still = np.zeros((10_000, 1))
    nearly_still[0] = 10.0
    assert fit_fleet(nearly_still, np.full(10_000, 1.0)).deviation[0] == 0.5
    assert fit_fleet(np.full((10, 1), 7.0), np.full(10, 1.0)).deviation[0] > 0


def test_a_gap_is_a_scaled_logarithm_within_bounds_and_zero_where_unknown() -> None:
    scale = fit_fleet(np.zeros((4, 1)), np.array([np.nan, 10.0, 100.0, 1000.0]))
    gaps = scale.gap(np.array([np.nan, 10.0, 1000.0, 1e12, -5.0]))
    assert gaps[0] == 0.0
    assert gaps[1] == pytest.approx(-gaps[2], abs=0.05)
    assert gaps[3] == 5.0
    assert np.isfinite(gaps).all()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 13])
def test_scaled_values_and_gaps_have_the_same_bits_in_any_batch(size: int) -> None:
    values, gaps = GENERATOR.normal(size=(101, 3)), GENERATOR.exponential(60, 101)
    scale = fit_fleet(values, gaps)
    cuts = range(0, 101, size)
    assert np.array_equal(scale.gap(gaps), np.concatenate([scale.gap(gaps[i : i + size]) for i in cuts]))
    assert np.array_equal(scale.transform(values), np.concatenate([scale.transform(values[i : i + size]) for i in cuts]))


@pytest.mark.parametrize("wild", [65535.0, -1e30])
def test_a_wild_value_in_training_does_not_make_its_feature_deaf(wild: float) -> None:
    values = GENERATOR.normal(5, 0.7, (2000, 2))
    usual = fit_fleet(values, np.full(2000, 1.0), draws_in_wild=True)
    values[77, 0] = wild
    scale = fit_fleet(values, np.full(2000, 1.0), draws_in_wild=True)
    assert scale.deviation[0] < 2 * usual.deviation[0]
    assert abs(scale.center[0] - usual.center[0]) < 0.1
    assert scale.deviation[1] == usual.deviation[1]


def test_a_feature_that_nearly_always_shows_one_value_keeps_its_rare_ones() -> None:
    values = np.zeros((10_000, 1))
    values[:40] = 7.0
    assert fit_fleet(values, np.full(10_000, 1.0), draws_in_wild=True).deviation[0] == pytest.approx(values.std())


def noise(rows: int, mean: float = 0.0, deviation: float = 1.0) -> torch.Tensor:
    return torch.from_numpy(GENERATOR.normal(mean, deviation, (rows, 1))).float()


def learned(values: torch.Tensor) -> tuple[float, float]:
    means, deviations = entity_scales([values])
    return float(means), float(deviations)


def test_an_entity_never_seen_has_the_scale_of_the_fleet() -> None:
    mean, deviation = entity_scales([torch.full((3, 2), torch.nan)])
    assert mean.tolist() == [[0.0, 0.0]]
    assert deviation.tolist() == [[1.0, 1.0]]


def test_own_observations_outweigh_the_fleet_as_they_come() -> None:
    own = noise(2000, 5, 0.5)
    means, deviations = zip(*(learned(own[:rows]) for rows in (1, 16, 2000)), strict=True)
    assert 0 < means[0] < means[1]
    assert deviations[1] > deviations[2]
    assert means[2] == pytest.approx(5, rel=0.02)
    assert deviations[2] == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(("mean", "deviation"), [(100.0, 1.0), (-30.0, 0.3), (0.0, 10.0)])
def test_an_entity_unlike_the_fleet_is_learned(mean: float, deviation: float) -> None:
    own_mean, own_deviation = learned(noise(1440, mean, deviation))
    assert own_mean == pytest.approx(mean, abs=0.2 * deviation + 0.05)
    assert deviation / 1.5 < own_deviation < 1.5 * deviation


def test_a_daily_cycle_is_learned_whole() -> None:
    hours = torch.arange(1440)[:, None] / 1440 * 2 * torch.pi
    mean, deviation = learned(2 * torch.sin(hours) + noise(1440, 0, 0.2))
    assert abs(mean) < 0.5
    assert 1.2 < deviation < 1.6


@pytest.mark.parametrize("place", [0, 1, 5, 40, 255])
@pytest.mark.parametrize("wild", [65535.0, -1e6])
def test_no_wild_value_carries_an_own_scale_off(place: int, wild: float) -> None:
    own = noise(256)
    own[place] = wild
    mean, deviation = learned(own)
    assert abs(mean) < 0.4
    assert 0.8 < deviation < 1.4


@pytest.mark.parametrize("place", [60, 120, 220])
def test_a_fault_that_is_short_beside_the_learning_does_not_make_its_feature_deaf(place: int) -> None:
    own = noise(256)
    own[place : place + 30] += 20
    mean, deviation = learned(own)
    assert mean < 2
    assert deviation < 2.5


def test_what_is_not_learned_from_changes_no_bit() -> None:
    count, mean, variance = torch.tensor([7.0, 7.0]), torch.tensor([0.3, 0.3]), torch.tensor([2.0, 2.0])
    learn_scale(count, mean, variance, torch.tensor([torch.nan, 5.0]), torch.tensor([False, True]))
    assert (count.tolist()[0], mean.tolist()[0], variance.tolist()[0]) == (7.0, pytest.approx(0.3), 2.0)
    assert (count.tolist()[1], mean.tolist()[1] > 0.3) == (8.0, True)


def test_entities_are_learned_each_by_itself_whatever_their_lengths() -> None:
    many = [noise(rows, 3) for rows in (1, 17, 300)]
    means, deviations = entity_scales(many)
    assert [(float(m), float(d)) for m, d in zip(means, deviations, strict=True)] == [learned(one) for one in many]


def test_an_own_deviation_is_drawn_towards_the_fleets() -> None:
    _, deviation = own_scale(torch.tensor([48.0]), torch.tensor([2.0]), torch.tensor([0.25]))
    assert float(deviation) ** 2 == pytest.approx((48 * 0.25 + 16) / (48 + 16))


def test_a_still_entity_keeps_the_floor() -> None:
    _, deviation = own_scale(torch.tensor([1e9]), torch.tensor([0.0]), torch.tensor([0.0]))
    assert float(deviation) == pytest.approx(DEVIATION_FLOOR)


def test_what_the_network_sees_is_clipped_and_keeps_missing_values() -> None:
    seen = scale_with(torch.tensor([1.0, 1e9, -1e9, torch.nan]), torch.tensor(0.5), torch.tensor(0.25))
    assert seen[:3].tolist() == [2.0, CLIP, -CLIP]
    assert seen[3].isnan()
