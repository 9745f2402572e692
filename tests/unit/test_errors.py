from __future__ import annotations

import pytest
import torch

from anomaly_daemon.model.errors import TERM_MAX, prediction_error, reconstruction_error, squared_terms

NAN = torch.nan


def test_a_term_is_the_squared_difference_in_levels() -> None:
    terms = squared_terms(torch.tensor([[1.0, 0.0]]), torch.tensor([[4.0, 0.5]]), torch.tensor([1.5, 0.25]))
    assert terms.dtype == torch.float64
    assert terms.tolist() == [[4.0, 4.0]]


def test_one_wild_feature_counts_no_more_than_the_cap() -> None:
    terms = squared_terms(torch.zeros(1, 2), torch.tensor([[1e20, 1.0]]), torch.ones(2))
    assert terms.tolist() == [[TERM_MAX, 1.0]]


def test_an_error_is_the_mean_over_what_is_present() -> None:
    scaled = torch.tensor([[3.0, NAN, 1.0], [NAN, NAN, 2.0], [NAN, NAN, NAN]])
    errors = prediction_error(torch.zeros(3, 3), scaled, torch.ones(3))
    assert errors[:2].tolist() == [5.0, 4.0]
    assert errors[2].isnan()


def test_a_window_with_nothing_present_has_no_error() -> None:
    target = torch.tensor([[[2.0], [NAN]], [[NAN], [NAN]]])
    errors = reconstruction_error(torch.zeros(2, 2, 1), target, torch.tensor([[1.0], [0.1]]))
    assert errors[0] == 4.0
    assert errors[1].isnan()


@pytest.mark.parametrize("features", [1, 2, 8, 17, 64])
@pytest.mark.parametrize("size", [1, 2, 31])
def test_errors_have_the_same_bits_in_any_batch(features: int, size: int) -> None:
    torch.set_num_threads(1)
    expected, scaled = torch.randn(200, features), torch.randn(200, features)
    scaled[torch.rand(200, features) < 0.1] = NAN
    level = torch.rand(features) + 0.1
    whole = prediction_error(expected, scaled, level)
    parts = [prediction_error(one, other, level) for one, other in zip(expected.split(size), scaled.split(size), strict=True)]
    assert torch.equal(whole.nan_to_num(-1.0), torch.cat(parts).nan_to_num(-1.0))

    rebuilt, target, levels = expected.view(50, 4, features), scaled.view(50, 4, features), level.expand(4, -1)
    whole = reconstruction_error(rebuilt, target, levels)
    parts = [reconstruction_error(one, other, levels) for one, other in zip(rebuilt.split(size), target.split(size), strict=True)]
    assert torch.equal(whole.nan_to_num(-1.0), torch.cat(parts).nan_to_num(-1.0))
