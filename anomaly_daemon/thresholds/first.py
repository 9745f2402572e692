"""The threshold of methods that need a window, while an entity has not filled enough of one: where training's scores would have it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anomaly_daemon.domain.columns import OBSERVATIONS
from anomaly_daemon.settings import Threshold as ThresholdSettings
from anomaly_daemon.statistics.score_prior import ScorePrior
from anomaly_daemon.statistics.window import SCORE_MAX
from anomaly_daemon.thresholds.base import WARMUP_MARGIN, Rows

_LOG_MAX = math.log(SCORE_MAX)


class FirstThreshold:
    """The score that training's young entities exceed with probability `tail`, with the margin of warm-up."""

    def __init__(self, settings: ThresholdSettings, prior: ScorePrior) -> None:
        deviations = prior.quantile(settings.tail) * (1 + WARMUP_MARGIN)
        self._threshold = math.exp(min(prior.mean + deviations * math.sqrt(prior.variance), _LOG_MAX))
        self._warmup_observations = settings.warmup_observations

    def until_known(self, rows: Rows, own: Tensor) -> Tensor:
        """Of each entity this one in warm-up, its own (float64 [n]) afterwards; a new tensor."""
        return torch.where(rows[OBSERVATIONS.name] < self._warmup_observations, self._threshold, own)
