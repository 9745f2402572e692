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
from anomaly_daemon.model.conditional import ConditionalFit, fit_conditional
from anomaly_daemon.model.corpus import Corpus, Pieces
from anomaly_daemon.model.errors import prediction_error, reconstruction_error
from anomaly_daemon.model.linear import LinearFit, fit_linear
from anomaly_daemon.model.objective import foretold, held_out
from anomaly_daemon.model.scaling import FleetScale
from anomaly_daemon.model.surprise import SurpriseFit, directions, fit_surprise
from anomaly_daemon.settings import NETWORK_CHANNELS, Settings
from anomaly_daemon.statistics.log_error import log_of

LEVEL_MIN = 1e-3
# Keeps the logarithm of a perfect error finite.
# Of a channel that the validation part never exercised: an ordinary error is about 1.
_UNKNOWN = Calibration(0.0, 1.0, 10.0)
QUANTILE = 0.99
# Of a channel that had nothing to err on, such as a stream that stood still throughout.
QUANTILE_MIN = 0.1
_SWITCH_VALUES = 2
# Novelty is in decades of the entity's own range: no training tells it more. One in a hundred ordinary values is about one decade new.
_NOVELTY = Calibration(-1.0, 0.18, 1.0)


@dataclass(frozen=True, slots=True)
class Usual:
    """What is usual of a trained network's errors, of averages and of rare values, all on the CPU.

    prediction_level: float32 [F], reconstruction_level: float32 [K, F], root mean squared errors.
    calibration: of the errors of each channel, those of a network that was not trained left out. conditional: None where it is not asked for.
    """

    prediction_level: Tensor
    reconstruction_level: Tensor
    level: ChartFit
    residual: ChartFit
    linear: LinearFit
    linear_chart: ChartFit
    surprise: SurpriseFit
    calibration: dict[str, Calibration]
    conditional: ConditionalFit | None


def calibrate(model: Autoencoder, corpus: Corpus, scale: FleetScale, validation: Pieces, settings: Settings, names: Sequence[str]) -> Usual:
    """Everything that judging starts from, under the trained weights.

    Of a feature that is context, not evidence, the level is infinite, so its terms are 0.
    """
    features, evidence = settings.record.features, settings.evidence
    context = {column for feature in features if feature.is_context for column in feature.columns}
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
    if not evidence.switches:
        is_context = _with_switches(corpus, is_context)
    prediction_level = _level(predictions, observations).masked_fill(is_context, torch.inf)
    reconstruction_level = _level(reconstructions, targets).masked_fill(is_context, torch.inf)
    values = corpus.values.cpu()
    residuals = residual_of(foretold(model, corpus, settings).cpu(), values, prediction_level)
    nominal = {column for feature in features for column in feature.nominal}
    is_uncharted = is_context | torch.tensor([name in nominal for name in names])
    level, level_errors = fit_chart(values, corpus, evidence.level, is_uncharted)
    residual, residual_errors = fit_chart(residuals, corpus, evidence.residual, is_uncharted)
    linear, linear_residuals = fit_linear(corpus, is_context)
    linear_chart, linear_errors = fit_chart(linear_residuals, corpus, evidence.linear, is_uncharted)
    surprise, surprise_errors = fit_surprise(corpus, scale, evidence.surprise.half_lives, directions(features, names, ~is_uncharted))
    errors = {
        "prediction": prediction_error(predictions, observations, prediction_level),
        "reconstruction": reconstruction_error(reconstructions, targets, reconstruction_level),
        "residual": residual_errors,
        "level": level_errors,
        "linear": linear_errors,
        "surprise": surprise_errors,
    }
    conditional = None
    if "conditional" in evidence.channels:
        conditional, errors["conditional"] = fit_conditional(model, corpus, is_context, settings)
    calibration = {name: _calibration(found) for name, found in errors.items() if evidence.is_network_asked or name not in NETWORK_CHANNELS}
    calibration |= dict.fromkeys(("novelty", "adaptive"), _NOVELTY)
    return Usual(prediction_level, reconstruction_level, level, residual, linear, linear_chart, surprise, calibration, conditional)


def _with_switches(corpus: Corpus, is_context: Tensor) -> Tensor:
    """Context and the features that took at most two values in the training parts; these alone are kept where nothing else would be left."""
    starts = zip(corpus.first_rows, corpus.splits, strict=True)
    trained = torch.cat([corpus.values[first : first + part.training] for first, part in starts]).cpu()
    is_switch = torch.tensor([len(column[~column.isnan()].unique()) <= _SWITCH_VALUES for column in trained.T])
    found = is_context | is_switch
    return is_context if bool(found.all()) else found


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
    logs = log_of(known)
    return Calibration(float(logs.mean()), float(logs.var(correction=0)), max(QUANTILE_MIN, float(np.quantile(known.numpy(), QUANTILE))))
