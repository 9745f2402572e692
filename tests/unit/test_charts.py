from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from anomaly_daemon.model import charts, sides
from anomaly_daemon.model.charts import SQUARE_MAX, ChartFit, fit_chart, residual_of
from anomaly_daemon.model.corpus import Corpus, Split
from anomaly_daemon.settings import Chart as ChartSettings
from tests.slab_rows import fresh_rows

ROWS, ENTITIES, FEATURES = 800, 4, 3
NO_CONTEXT = torch.zeros(FEATURES, dtype=torch.bool)


def ordinary_values(seed: int = 0) -> Tensor:
    return torch.randn(ENTITIES * ROWS, FEATURES, generator=torch.Generator().manual_seed(seed))


def corpus_of(values: Tensor, validation: int = 300) -> Corpus:
    starts = tuple(range(0, len(values), ROWS))
    return Corpus(values, torch.zeros(len(values)), starts, tuple(Split(ROWS - validation, validation, 0) for _ in starts))


def fitted(values: Tensor, settings: ChartSettings, is_context: Tensor = NO_CONTEXT) -> tuple[ChartFit, Tensor]:
    return fit_chart(values, corpus_of(values), settings, is_context)


def served(fit: ChartFit, settings: ChartSettings, values: Tensor) -> tuple[Tensor, Tensor]:
    """Errors [T] and squares [T, S, F] of one entity's values, [T, F]."""
    chart = charts.Chart("chart", settings, fit.spans, values.shape[1])
    rows, widths = fresh_rows(chart.columns), [1] * len(values)
    differences = chart.differences(widths, rows, values)
    squares = chart.squares(widths, rows, differences, fit.whitening)
    return fit.error(squares), squares


def shifted(by: float, feature: int = 1) -> Tensor:
    values = ordinary_values(9)[:200].clone()
    values[100:, feature] += by
    return values


@pytest.mark.parametrize(
    "settings", [ChartSettings(spans=(1,)), ChartSettings(spans=(20,)), ChartSettings(spans=(10,), reference_half_life=200, spread_half_life=200)]
)
def test_one_in_a_hundred_ordinary_rows_has_an_error_above_one(settings: ChartSettings) -> None:
    fit, errors = fitted(ordinary_values(), settings)

    assert len(errors) == ENTITIES * 300
    assert 0.001 < float((errors > 1).double().mean()) < 0.04
    assert fit.ordinary.shape == (1,)


def test_a_shift_of_level_that_no_single_value_gives_away_is_found_by_averages() -> None:
    alone, averages = ChartSettings(spans=(1,)), ChartSettings(spans=(1, 10, 30))

    by_value, _ = served(fitted(ordinary_values(), alone)[0], alone, shifted(1.5))
    by_average, squares = served(fitted(ordinary_values(), averages)[0], averages, shifted(1.5))

    assert by_value[150:].median() < 1
    assert by_average[50:100].median() < 1
    assert by_average[150:].median() > 4
    assert squares[-1].sum(0).argmax() == 1


def test_with_a_reference_that_follows_a_shift_that_lasts_becomes_usual() -> None:
    settings = ChartSettings(spans=(10,), reference_half_life=20)

    errors, _ = served(
        fitted(ordinary_values(), settings)[0], settings, torch.cat([shifted(3.0), ordinary_values(8)[:200] + torch.tensor([0.0, 3, 0])])
    )

    assert errors[105:115].max() > 2
    assert errors[300:].median() < 0.5


def test_context_says_nothing() -> None:
    settings, is_context = ChartSettings(), torch.tensor([False, True, False])
    values = ordinary_values()
    values[:, 1] = 0.9 * values[:, 0]  # what it shares with others is not told by it either

    fit, _ = fitted(values, settings, is_context)
    calm, squares = served(fit, settings, shifted(0.0))
    wild, _ = served(fit, settings, shifted(10.0))

    assert torch.equal(calm, wild)
    assert not squares[..., 1].any()


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_feature_that_never_varied_leaves_errors_finite_and_speaks_up_when_it_moves(value: float) -> None:
    values, settings = ordinary_values(), ChartSettings()
    values[:, 1] = value
    fit, errors = fitted(values, settings)
    moved = values[:100].clone()
    moved[50:, 1] = 8.0

    found, squares = served(fit, settings, moved)

    assert errors.isfinite().all()
    assert found.isfinite().all()
    assert float(squares.max()) <= SQUARE_MAX
    assert found[60:].min() > 10 * found[:50].max()


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_where_nothing_ever_varied_errors_are_finite(value: float) -> None:
    fit, errors = fitted(torch.full((ENTITIES * ROWS, FEATURES), value), ChartSettings())

    assert errors.tolist() == [0.0] * len(errors)
    assert served(fit, ChartSettings(), shifted(10.0))[0].isfinite().all()


def test_without_a_validation_part_a_chart_is_fitted_and_no_error_told() -> None:
    values = ordinary_values()

    fit, errors = fit_chart(values, corpus_of(values, validation=0), ChartSettings(), NO_CONTEXT)

    assert len(errors) == 0
    assert fit.ordinary.isfinite().all()


def test_the_validation_part_moves_the_quantile_and_not_the_covariance() -> None:
    values, settings = ordinary_values(), ChartSettings()
    later = torch.arange(ENTITIES * ROWS) % ROWS >= ROWS - 300
    loud = torch.where(later[:, None], 3 * values, values)

    (calm, _), (other, _) = fitted(values, settings), fitted(loud, settings)

    assert torch.equal(calm.whitening, other.whitening)
    assert (other.ordinary > 2 * calm.ordinary).all()


def test_how_many_sequences_are_gone_through_at_once_changes_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ChartSettings(spans=(1, 10), spread_half_life=100)
    whole, errors = fitted(ordinary_values(), settings)
    monkeypatch.setattr(sides, "_VALUES_AT_ONCE", ROWS * FEATURES)

    apart, others = fitted(ordinary_values(), settings)

    torch.testing.assert_close(apart.whitening, whole.whitening)
    torch.testing.assert_close(apart.ordinary, whole.ordinary)
    torch.testing.assert_close(others.sort().values, errors.sort().values)


@pytest.mark.parametrize("spans", [(1,), (1, 10), (1, 10, 30)])
def test_the_bits_of_an_error_do_not_depend_on_the_batch(spans: tuple[int, ...]) -> None:
    fit = ChartFit(spans, torch.zeros(0), torch.rand(len(spans), dtype=torch.float64) + 0.1)
    squares = torch.rand(300, len(spans), 5, generator=torch.Generator().manual_seed(0)) * 50

    whole = fit.error(squares)

    for size in (1, 2, 7, 64):
        assert torch.equal(torch.cat([fit.error(part) for part in torch.split(squares, size)]), whole)


def test_what_was_not_foreseen_is_told_in_deviations_of_the_networks_own_error() -> None:
    scaled, level = torch.tensor([[1.0, float("nan"), 2.0, -500.0]]), torch.tensor([0.5, 0.5, 1e-3, 1e-3])

    found = residual_of(torch.zeros(1, 4), scaled, level)[0]

    assert found[0] == pytest.approx(1 / np.hypot(0.5, 0.1))
    assert found[1].isnan()
    assert found[2] == pytest.approx(20, abs=0.01)  # however well it foresees, a tenth of a deviation is never a surprise
    assert found[3] == -30
    assert residual_of(torch.zeros(1, 4), scaled, torch.full((4,), torch.inf))[0, 0] == 0
