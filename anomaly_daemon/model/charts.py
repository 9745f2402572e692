"""Control charts over averages: of the features' values (level) and of what the network did not foresee (residual); how they are fitted and read.

A chart of a good forecaster's residuals sees what neither a single error nor an average of values gives away (Alwan & Roberts 1988,
"Time-Series Modeling for Statistical Process Control").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anomaly_daemon.domain.columns import Column
from anomaly_daemon.model.corpus import Corpus
from anomaly_daemon.model.sides import Side, sides
from anomaly_daemon.settings import Chart as ChartSettings
from anomaly_daemon.statistics.mewma import Mewma, Spread, Unseen, pulled, whitened, whitening_of
from anomaly_daemon.statistics.ordered import summed

# A feature's part in a distance: one wild feature must not drown what the others say.
SQUARE_MAX = 1000.0
# Residuals are measured in deviations of the network's error, but a tenth of a feature's own is never a surprise.
_RESIDUAL_FLOOR = 0.1
_RESIDUAL_MAX = 30.0
# An average says nothing before it spans what it should; of a short sequence a fifth must do.
_LEAD_IN_SPANS = 2
_LEAD_IN_SHARE = 0.2
_QUANTILE = 0.99
# What never varied in training strays by a deviation before it is told.
_ORDINARY_MIN = 1.0


@dataclass(frozen=True, slots=True)
class ChartFit:
    """What a chart looks like while nothing is wrong: S spans, F features.

    whitening: float32 [S, F, F], the symmetric inverse root of the covariance of each span's averages, 0 for features that are context;
               at work its diagonal alone, [S, F], where that is all.
    ordinary:  float64 [S], the .99 quantile of their squared distances.
    """

    spans: tuple[int, ...]
    whitening: Tensor
    ordinary: Tensor

    def error(self, squares: Tensor) -> Tensor:
        """[N, S, F] float32 → float64 [N]: log(1 + error) is the sum over the spans of log(1 + distance / ordinary)."""
        return torch.expm1(summed(torch.log1p(squares.double().sum(-1) / self.ordinary)))


class Chart:
    """The state of a chart of every entity, by its name."""

    def __init__(self, name: str, settings: ChartSettings, spans: Sequence[int], features: int) -> None:
        self._bank = Mewma(name, spans, features, settings.reference_half_life)
        half_life = settings.spread_half_life
        self._spread = None if half_life is None else Spread(name, (len(spans), features), half_life)
        self.columns: tuple[Column, ...] = (*self._bank.columns, *(self._spread.columns if self._spread is not None else ()))

    def differences(self, widths: Sequence[int], rows: Mapping[str, Tensor], values: Tensor, unseen: Unseen | None = None) -> Tensor:
        """See Mewma."""
        return self._bank.differences(widths, rows, values, unseen=unseen)

    def squares(self, widths: Sequence[int], rows: Mapping[str, Tensor], differences: Tensor, whitening: Tensor) -> Tensor:
        """Each feature's part in the distance of each span's average from its place: float32 [N, S, F], at most SQUARE_MAX."""
        roots = whitened(differences, whitening)
        if self._spread is not None:
            roots = self._spread.standardised(widths, rows, roots)
        return (roots * roots).clamp(max=SQUARE_MAX)


def residual_of(expected: Tensor, scaled: Tensor, level: Tensor) -> Tensor:
    """What the network did not foresee, in deviations of its own error: [N, F] each, level [F] → float32 [N, F], NaN where missing."""
    return ((scaled - expected) / torch.sqrt(level * level + _RESIDUAL_FLOOR**2)).clamp(-_RESIDUAL_MAX, _RESIDUAL_MAX)


def fit_chart(values: Tensor, corpus: Corpus, settings: ChartSettings, is_context: Tensor) -> tuple[ChartFit, Tensor]:
    """Fitted on the training parts; and the errors it finds on the validation parts, float64 [R].

    values: float32 [R, F] of the corpus's rows, NaN = missing. is_context: bool [F], features that are no evidence, such as the hour.
    """
    values, features = values.cpu(), values.shape[1]
    chart = Chart("chart", settings, settings.spans, features)
    lead_in_rows = _LEAD_IN_SPANS * max(settings.spans)
    moments, counted = torch.zeros(len(settings.spans), features, features, dtype=torch.float64), 0
    for side in sides(corpus):
        trained = _differences(chart, side, values)[0][side.is_training(lead_in_rows, _LEAD_IN_SHARE)].double()
        moments += torch.stack([span.mT @ span for span in trained.unbind(1)])
        counted += len(trained)
    whitening = whitening_of(moments / max(counted, 1), settings.shrinkage).float()
    whitening[:, is_context, :] = 0.0
    whitening[:, :, is_context] = 0.0
    known, later = [torch.zeros(0, len(settings.spans), features)], [torch.zeros(0, len(settings.spans), features)]
    for side in sides(corpus):
        differences, rows = _differences(chart, side, values, pulled(settings.spans, whitening))
        squares = chart.squares(side.widths, rows, differences, whitening)
        known.append(squares[side.is_training(lead_in_rows, _LEAD_IN_SHARE) | side.is_validation])
        later.append(squares[side.is_validation])
    distances = torch.cat(known).double().sum(-1)
    ordinary = np.quantile(distances.numpy(), _QUANTILE, axis=0) if len(distances) else np.ones(len(settings.spans))
    fit = ChartFit(settings.spans, whitening, torch.from_numpy(np.maximum(ordinary, _ORDINARY_MIN)))
    return fit, fit.error(torch.cat(later))


def _differences(chart: Chart, side: Side, values: Tensor, unseen: Unseen | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """Averages less reference at each row of the side, and the columns that go with them."""
    rows = side.start(chart.columns)
    return chart.differences(side.widths, rows, values[side.rows], unseen), rows
