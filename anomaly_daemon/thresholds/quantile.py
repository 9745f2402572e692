"""Threshold at a rolling quantile of the entity's last scores."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anomaly_daemon.domain.columns import Column
from anomaly_daemon.domain.errors import SettingsError
from anomaly_daemon.settings import Threshold as ThresholdSettings
from anomaly_daemon.statistics.quantile import RollingQuantile
from anomaly_daemon.statistics.score_prior import UNKNOWN, ScorePrior
from anomaly_daemon.thresholds.base import PREFIX, Judgement, Rows
from anomaly_daemon.thresholds.first import FirstThreshold
from anomaly_daemon.thresholds.suspects import Suspects


class QuantileThreshold:
    """The 1 − `tail` quantile of the last `window` scores. Raises SettingsError where the window holds no score that rare."""

    is_checkpointable = True

    def __init__(self, settings: ThresholdSettings, prior: ScorePrior = UNKNOWN) -> None:
        if settings.tail * settings.window < 1:
            raise SettingsError(
                f"threshold.tail: {settings.tail:g} is rarer than one score in a window of {settings.window}; "
                f"set threshold.window to {math.ceil(1 / settings.tail)} or more, or threshold.method to spot"
            )
        self._quantile = RollingQuantile(PREFIX, settings.window, settings.tail)
        self._suspects = Suspects(settings.tail)
        self._first = FirstThreshold(settings, prior)

    def columns(self) -> tuple[Column, ...]:
        """The window of scores, its quantile, and the credit of suspects."""
        return (*self._quantile.columns(), *self._suspects.columns())

    def judge(self, rows: Rows, score: Tensor) -> Judgement:
        """See Threshold."""
        threshold = self._first.until_known(rows, rows[self._quantile.quantile])
        is_anomaly = score > threshold
        return Judgement(threshold, is_anomaly, is_anomaly, (self._quantile.tail_probability(rows, score),), torch.full_like(score, torch.nan))

    def tail_probability(self, *tail: Tensor) -> Tensor:
        """See Threshold."""
        return tail[0]

    def learn(self, rows: Rows, score: Tensor, weight: Tensor, _judgement: Judgement) -> None:
        """See Threshold and Suspects; of suspect scores at weight 1/k every k-th is taken in."""
        self._quantile.learn(rows, *self._suspects.taught(rows, score, weight, rows[self._quantile.quantile]))
