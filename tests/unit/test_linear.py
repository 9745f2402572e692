import numpy as np
import torch

from anomaly_daemon.model.corpus import EntitySequence, build
from anomaly_daemon.model.linear import LinearFit, bank, fit_linear, foreseen
from anomaly_daemon.statistics.mewma import Unseen
from tests.slab_rows import fresh_rows
from tests.small import settings

ROWS = 600


def corpus(values: np.ndarray):
    sequences = [EntitySequence("one", values.astype(np.float32), np.full(len(values), 60.0))]
    names = ", ".join(f"{{name: f{number}}}" for number in range(values.shape[1]))
    return build(sequences, settings(f"record.features=[{names}]", "model.scale=fleet"))[0]


def walk(seed: int = 0) -> np.ndarray:
    """Two features, the second follows the first one record later."""
    generator = np.random.default_rng(seed)
    leader = np.sin(np.arange(ROWS) / 5) + 0.1 * generator.normal(size=ROWS)
    return np.stack([leader, np.roll(leader, 1) + 0.01 * generator.normal(size=ROWS)], 1)


def no_context(features: int) -> torch.Tensor:
    return torch.zeros(features, dtype=torch.bool)


def test_what_follows_from_another_feature_is_foretold() -> None:
    fit, residuals = fit_linear(corpus(walk()), no_context(2))

    assert fit.level[1] < 0.1
    assert residuals[1:500].abs().max() < 5


def test_nothing_is_foretold_of_a_first_row_and_of_rows_that_are_for_testing() -> None:
    training_and_validation = sum(ROWS * share for share in (1 - 0.1,))
    _, residuals = fit_linear(corpus(walk()), no_context(2))

    told = ~residuals.isnan().any(1)
    assert not told[0]
    assert told[1 : int(training_and_validation)].all()
    assert not told[int(training_and_validation) :].any()


def test_a_feature_that_is_context_has_no_residual() -> None:
    _, residuals = fit_linear(corpus(walk()), torch.tensor([False, True]))

    assert residuals[1:400, 1].abs().max() == 0


def test_missing_values_leave_the_others_told() -> None:
    values = walk()
    values[100:200, 0] = np.nan
    fit, residuals = fit_linear(corpus(values), no_context(2))

    assert bool(torch.isfinite(fit.weights).all())
    assert bool(residuals[150, 0].isnan())
    assert bool(residuals[150, 1].isfinite())


def test_an_outage_of_one_feature_spoils_no_forecast_of_another() -> None:
    generator = np.random.default_rng(1)
    common = np.zeros(ROWS)
    for row in range(1, ROWS):
        common[row] = 0.9 * common[row - 1] + generator.normal()
    values = (common[:, None] + 0.5 * generator.normal(size=(ROWS, 2))).astype(np.float32)
    fit, _ = fit_linear(corpus(values), no_context(2))
    outages = [slice(start + 10, start + 70) for start in range(30, ROWS - 70, 90)]
    for outage in outages:
        values[outage, 0] = np.nan

    def lean(unseen: Unseen | None) -> float:
        """Of the other feature's residuals, the mean of each outage."""
        averages, scaled = bank(2), torch.from_numpy(values)
        after = averages.differences([1] * ROWS, fresh_rows(averages.columns, 1), scaled, torch.tensor([True]), unseen)
        residual = fit.residual(after[:-1], scaled[1:])[:, 1]
        return float(np.mean([abs(float(residual[outage].mean())) for outage in outages]))

    assert lean(foreseen(fit)) < 0.6 * lean(None)


def test_a_forecast_has_the_same_bits_in_any_batch() -> None:
    torch.manual_seed(0)
    fit = LinearFit(torch.randn(7, 22), torch.ones(7))
    averages = torch.randn(600, 3, 7)

    whole = fit.forecast(averages)

    for first in (0, 255, 500):
        for size in (1, 2, 31):
            assert torch.equal(fit.forecast(averages[first : first + size]), whole[first : first + size])
