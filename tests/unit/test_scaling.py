from __future__ import annotations

import numpy as np
import pytest
import torch

from anomaly_daemon.model.scaling import CLIP, DEVIATION_FLOOR, PRIOR_OBSERVATIONS, entity_scale, fit_fleet, scale_with, shrunk_scale

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


def test_an_entity_never_seen_has_the_scale_of_the_fleet() -> None:
    mean, deviation = entity_scale(torch.full((3, 2), torch.nan))
    assert mean.tolist() == [0.0, 0.0]
    assert deviation.tolist() == [1.0, 1.0]


def test_own_observations_outweigh_the_fleet_as_they_come() -> None:
    own = torch.full((10_000, 1), 5.0) + 0.5 * torch.randn(10_000, 1)
    means, deviations = zip(*(entity_scale(own[:rows]) for rows in (1, 16, 10_000)), strict=True)
    assert 0 < means[0] < means[1] < means[2]
    assert deviations[0] > deviations[1] > deviations[2]
    assert float(means[2]) == pytest.approx(5, rel=0.02)
    assert float(deviations[2]) == pytest.approx(0.5, rel=0.05)


def test_the_shrunk_scale_is_the_weighted_mean_of_own_and_prior() -> None:
    count, mean, variance = torch.tensor([48.0]), torch.tensor([2.0]), torch.tensor([0.25])
    shrunk_mean, deviation = shrunk_scale(count, mean, variance)
    assert float(shrunk_mean) == pytest.approx(48 * 2 / (48 + PRIOR_OBSERVATIONS))
    assert float(deviation) ** 2 == pytest.approx((48 * 0.25 + PRIOR_OBSERVATIONS) / (48 + PRIOR_OBSERVATIONS))


def test_a_still_entity_keeps_the_floor() -> None:
    _, deviation = shrunk_scale(torch.tensor([1e9]), torch.tensor([0.0]), torch.tensor([0.0]))
    assert float(deviation) == pytest.approx(DEVIATION_FLOOR)


def test_what_the_network_sees_is_clipped_and_keeps_missing_values() -> None:
    seen = scale_with(torch.tensor([1.0, 1e9, -1e9, torch.nan]), torch.tensor(0.5), torch.tensor(0.25))
    assert seen[:3].tolist() == [2.0, CLIP, -CLIP]
    assert seen[3].isnan()
