"""How large errors are on data the weights were not fitted on: the levels and the log statistics that judging starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anomaly_daemon.model.artifact import Calibration
from anomaly_daemon.model.autoencoder import Autoencoder
from anomaly_daemon.model.charts import ChartFit, fit_chart, residual_of
from anomaly_daemon.model.corpus import Corpus, Pieces
from anomaly_daemon.model.errors import prediction_error, reconstruction_error
from anomaly_daemon.model.objective import foretold, held_out
from anomaly_daemon.settings import Settings

LEVEL_MIN = 1e-3
# Keeps the logarithm of a perfect error finite.
ERROR_MIN = 1e-6
# Of a channel that the validation part never exercised: an ordinary error is about 1.
_UNKNOWN = Calibration(0.0, 1.0, 10.0)
QUANTILE = 0.99


@dataclass(frozen=True, slots=True)
class Usual:
    """What is usual of a trained network's errors and of averages, all on the CPU.

    prediction_level: float32 [F], reconstruction_level: float32 [K, F], root mean squared errors. calibration: of each channel's errors.
    """

    prediction_level: Tensor
    reconstruction_level: Tensor
    level: ChartFit
    residual: ChartFit
    calibration: dict[str, Calibration]


def calibrate(model: Autoencoder, corpus: Corpus, validation: Pieces, settings: Settings, names: Sequence[str]) -> Usual:
    """Everything that judging starts from, under the trained weights.

    A cyclic feature is context, not evidence: nobody is surprised by the hour. Its level is infinite, so its terms are 0.
    """
    context = {column for feature in settings.record.features if feature.kind == "cyclic" for column in feature.columns}
    is_context = torch.tensor([name in context for name in names])
    expected, following, rebuilt, windows = [], [], [], []
    for chunk, expected_next, rebuilt_windows in held_out(model, corpus, validation, settings):
        is_told = ~chunk.following.isnan().all(-1)
        expected.append(expected_next[is_told].cpu())
        following.append(chunk.following[is_told].cpu())
        is_whole = ~chunk.windows[:, :, 0].isnan().all(-1)  # the newest observation counts
        rebuilt.append(rebuilt_windows[is_whole].cpu())
        windows.append(chunk.windows[is_whole].cpu())
    predictions, observations = torch.cat(expected), torch.cat(following)  # [N, F]
    reconstructions, targets = torch.cat(rebuilt), torch.cat(windows)  # [M, K, F]
    prediction_level = _level(predictions, observations).masked_fill(is_context, torch.inf)
    reconstruction_level = _level(reconstructions, targets).masked_fill(is_context, torch.inf)
    values = corpus.values.cpu()
    residuals = residual_of(foretold(model, corpus, settings).cpu(), values, prediction_level)
    level, level_errors = fit_chart(values, corpus, settings.evidence.level, is_context)
    residual, residual_errors = fit_chart(residuals, corpus, settings.evidence.residual, is_context)
    errors = {
        "prediction": prediction_error(predictions, observations, prediction_level),
        "reconstruction": reconstruction_error(reconstructions, targets, reconstruction_level),
        "residual": residual_errors,
        "level": level_errors,
    }
    return Usual(prediction_level, reconstruction_level, level, residual, {name: _calibration(found) for name, found in errors.items()})


def _level(expected: Tensor, actual: Tensor) -> Tensor:
    """Root mean squared error over the first axis, float32; where nothing was present the mean of the others, or 1."""
    squared = (actual.double() - expected.double()) ** 2
    present = ~squared.isnan()
    level = torch.sqrt(torch.where(present, squared, 0.0).sum(0) / present.sum(0))
    known = level[~level.isnan()]
    return torch.where(level.isnan(), known.mean() if len(known) else 1.0, level).clamp(min=LEVEL_MIN).float()


def _calibration(errors: Tensor) -> Calibration:
    known = errors[~errors.isnan()]
    if len(known) < 2:
        return _UNKNOWN
    logs = torch.log(known + ERROR_MIN)
    return Calibration(float(logs.mean()), float(logs.var(correction=0)), float(np.quantile(known.numpy(), QUANTILE)))
