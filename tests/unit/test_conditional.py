from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from anomaly_daemon.channels.models import Models
from anomaly_daemon.domain.errors import ArtifactError
from anomaly_daemon.model.autoencoder import Autoencoder, Shape
from anomaly_daemon.model.conditional import BLOCK_ROWS, ConditionalFit, ConditionalHead, bank, fit_conditional, inputs
from anomaly_daemon.model.corpus import Corpus, Split
from tests.slab_rows import fresh_rows
from tests.small import artifact, settings

ROWS, VALIDATION, HIDDEN, FEATURES = 1200, 200, 4, 4
IS_CONTEXT = torch.tensor([False, True, False, False])  # a clock stands amid three readings
CLOCK = 1


def values(rows: int = ROWS, seed: int = 0) -> Tensor:
    """A reading, a clock, a reading that follows both, and one of its own."""
    generator = torch.Generator().manual_seed(seed)
    first, other = torch.randn(2, rows, generator=generator)
    clock = torch.sin(torch.arange(rows) / 10)
    return torch.stack([first, clock, first * clock + 0.05 * torch.randn(rows, generator=generator), other], 1)


@cache
def fitted(epochs: int = 30) -> tuple[ConditionalFit, Tensor]:
    corpus = Corpus(values(), torch.zeros(ROWS), (0,), (Split(ROWS - VALIDATION, VALIDATION, 0),))
    chosen = settings("evidence.channels=[conditional]", f"training.epochs={epochs}", "evidence.conditional.units=32")
    return fit_conditional(Autoencoder(Shape(FEATURES, HIDDEN, 2)), corpus, IS_CONTEXT, chosen)


def head() -> ConditionalHead:
    """Trained, so that no weight is as it was drawn."""
    return fitted()[0].head


def served(readings: Tensor) -> tuple[Tensor, Tensor]:
    """Errors [T] and squares [T, 1 + S, F] of one entity's readings, [T, F]."""
    fit = fitted()[0]
    averages = bank(fit.spans, FEATURES)
    residual = fit.head.residual(torch.zeros(len(readings), HIDDEN), readings)
    squares = fit.squares(residual, averages.differences([1] * len(readings), fresh_rows(averages.columns), fit.limited(residual)))
    return fit.error(squares, ~residual.isnan().all(1)), squares


def test_a_feature_is_foretold_from_the_context_and_the_features_ahead_of_it_alone() -> None:
    before, readings = torch.randn(50, HIDDEN), values(50)
    mean, log_spread = head()(inputs(before, readings))

    for changed, foretold in ((0, [2, 3]), (CLOCK, [0, 2, 3]), (2, [3]), (3, [])):
        other = readings.clone()
        other[:, changed] += 1.0
        other[::2, changed] = torch.nan
        other_mean, other_spread = head()(inputs(before, other))
        differs = [place for place in range(FEATURES) if not torch.equal(mean[:, place], other_mean[:, place])]
        assert differs == foretold
        assert all(torch.equal(log_spread[:, place], other_spread[:, place]) for place in range(FEATURES) if place not in foretold)


@pytest.mark.parametrize("rows", [1, 2, BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1, 3 * BLOCK_ROWS])
def test_a_rows_bits_depend_on_that_row_alone(rows: int) -> None:
    before, readings = torch.randn(500, HIDDEN), values(500)
    whole = head().residual(before, readings)
    chosen = torch.randperm(500)[:rows]

    found = head().residual(before[chosen], readings[chosen])

    assert found.numpy().tobytes() == whole[chosen].numpy().tobytes()


def test_no_rows_have_no_residuals() -> None:
    assert head().residual(torch.zeros(0, HIDDEN), values(0)).shape == (0, FEATURES)


def test_an_ordinary_value_that_the_rest_of_its_record_belies_is_strange_and_its_feature_is_blamed() -> None:
    readings = values(400, seed=1)
    readings[300, 0], readings[300, CLOCK] = 1.5, 1.0
    readings[300, 2] = -1.5

    errors, squares = served(readings)

    assert errors[300] > 4 * errors[100:300].max()
    assert squares[300].amax(0).argmax() == 2


def test_errors_that_last_add_up() -> None:
    readings = values(400, seed=1)
    readings[300:310, 3] = 2.2

    _, squares = served(readings)

    alone, longest = squares[:, 0, 3], squares[:, -1, 3]
    assert longest[309] > 1.5 * longest[100:300].max()
    assert alone[300:310].max() < 1.5 * alone[100:300].max()


def test_a_record_that_is_far_off_does_not_make_those_after_it_strange() -> None:
    readings = values(400, seed=1)
    readings[300, 3] = 9.0

    errors, _ = served(readings)

    assert errors[300] > 4
    assert errors[301:].max() < 1.5


def test_context_is_no_evidence() -> None:
    readings = values(400, seed=1)
    readings[300:, CLOCK] = 9.0

    _, squares = served(readings)

    assert (squares[..., CLOCK] == 0).all()


def test_what_is_missing_says_nothing() -> None:
    readings = values(50)
    readings[20] = torch.nan
    readings[30, 2] = torch.nan

    errors, squares = served(readings)

    assert errors.isnan().tolist() == [row == 20 for row in range(50)]
    assert squares[30, 0, 2] == 0
    assert squares[30, 1, 2] == squares[29, 1, 2]


def test_one_in_a_thousand_ordinary_rows_has_an_average_beyond_the_ordinary() -> None:
    fit, errors = fitted()

    assert len(errors) == VALIDATION
    assert float((errors > 1).double().mean()) < 0.05
    assert torch.isinf(fit.ordinary).all(0).tolist() == IS_CONTEXT.tolist()


def test_an_artifact_trained_without_it_is_refused() -> None:
    without = artifact("evidence.channels=[prediction]")

    assert without.conditional is None
    with pytest.raises(ArtifactError, match=r"evidence\.channels: conditional: the artifact was trained without.*train again"):
        Models(without, settings("evidence.channels=[conditional]"), "cpu")
