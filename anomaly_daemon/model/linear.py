"""A linear forecaster of the next observation from averages of the ones before: fitted in closed form, hard to beat where little is curved.

Vector autoregression on exponentially weighted averages, by ridge regression (Hoerl & Kennard 1970, "Ridge Regression: Biased Estimation for
Nonorthogonal Problems"). Its errors are charted as the network's are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anomaly_daemon.model.charts import residual_of
from anomaly_daemon.model.corpus import Corpus
from anomaly_daemon.model.scaling import CLIP
from anomaly_daemon.model.sides import Side, sides
from anomaly_daemon.statistics.mewma import Mewma, Unseen, rates_of

SPANS = (1, 5, 30)
_RIDGE = 10.0
_LEAD_IN_ROWS, _LEAD_IN_SHARE = 10, 0.2
_BLOCK_ROWS = 256


@dataclass(frozen=True, slots=True)
class LinearFit:
    """weights: float32 [F, S · F + 1], the last a constant. level: float32 [F], root mean squared error in training; infinite for context."""

    weights: Tensor
    level: Tensor

    def forecast(self, averages: Tensor) -> Tensor:
        """What follows averages [N, S, F]: float32 [N, F]. A row's bits depend on that row only."""
        blocks = [(block[:, None, :] * self.weights[:, :-1]).sum(-1) for block in torch.split(averages.flatten(1), _BLOCK_ROWS)]
        return torch.cat(blocks) + self.weights[:, -1]

    def residual(self, averages: Tensor, scaled: Tensor) -> Tensor:
        """What it did not foresee, in deviations: [N, S, F] before each row, [N, F] → float32 [N, F], NaN where missing."""
        return residual_of(self.forecast(averages), scaled, self.level)


def bank(features: int) -> Mewma:
    """The averages it forecasts from."""
    return Mewma("linear.past", SPANS, features, None)


def foreseen(fit: LinearFit) -> Unseen:
    """A missing value counts as its forecast, for a stale one of one feature would spoil those of the others; but the longest average stays.

    What was forecast for long has lost the level of the feature, and there it is found again where values return.
    """
    rates = rates_of(SPANS).to(fit.weights.device)
    rates[-1] = 0.0

    def unseen(averages: Tensor, _: Tensor) -> Tensor:
        return rates * (fit.forecast(averages).clamp(-CLIP, CLIP)[:, None] - averages)

    return unseen


def before(previous: Tensor, first: Tensor, after: Tensor) -> Tensor:
    """Averages before each row, [N, S, F]. previous: int64, the row before, of each row but the entities' first ones. first: [B, S, F]."""
    return torch.cat([first, after.index_select(0, previous)])


def fit_linear(corpus: Corpus, is_context: Tensor) -> tuple[LinearFit, Tensor]:
    """Fitted on the training parts; and its residuals on all rows of the training and validation parts, float32 [R, F], NaN elsewhere."""
    features = corpus.values.shape[1]
    width = len(SPANS) * features + 1
    square, product = torch.zeros(width, width, dtype=torch.float64), torch.zeros(width, features, dtype=torch.float64)
    for side in sides(corpus):
        inputs, targets = _rows_of(corpus, side)
        chosen = side.is_training(_LEAD_IN_ROWS, _LEAD_IN_SHARE)
        known = torch.cat([inputs[chosen].flatten(1), torch.ones(int(chosen.sum()), 1)], 1).double()
        square += known.mT @ known
        # A missing value is taken as the one before: no reason to expect a change.
        product += known.mT @ torch.where(targets[chosen].isnan(), inputs[chosen][:, 0], targets[chosen]).double()
    weights = torch.linalg.solve(square + _RIDGE * torch.eye(width, dtype=torch.float64), product).mT.float().contiguous()
    fit = LinearFit(weights, torch.ones(features))
    squared, count = torch.zeros(features, dtype=torch.float64), torch.zeros(features, dtype=torch.float64)
    missed = torch.full_like(corpus.values, torch.nan, device="cpu")
    for side in sides(corpus):
        inputs, targets = _rows_of(corpus, side, foreseen(fit))
        error = targets - fit.forecast(inputs)
        error[: len(side.layout.slots)] = torch.nan  # nothing was foretold of a sequence's first row
        missed[side.rows] = error
        trained = error[side.is_training(_LEAD_IN_ROWS, _LEAD_IN_SHARE)].double()
        squared += trained.nan_to_num(nan=0.0).square().sum(0)
        count += (~trained.isnan()).sum(0)
    level = (squared / count.clamp(min=1)).sqrt().float().masked_fill(is_context, torch.inf)
    return LinearFit(weights, level), residual_of(torch.zeros_like(missed), missed, level)


def _rows_of(corpus: Corpus, side: Side, unseen: Unseen | None = None) -> tuple[Tensor, Tensor]:
    """Averages before each row of the side, and the row: [N, S, F], [N, F]."""
    targets = corpus.values.cpu()[side.rows]
    averages = bank(targets.shape[1])
    rows = side.start(averages.columns)
    first = rows[averages.columns[0].name].clone()
    after = averages.differences(side.widths, rows, targets, torch.ones(len(first), dtype=torch.bool), unseen)
    return before(torch.from_numpy(side.layout.previous[len(first) :]), first, after), targets
