"""Threshold at a tail probability that window-SPOT extrapolates from the entity's last scores."""

from __future__ import annotations

import torch
from torch import Tensor

from anomaly_daemon.domain.columns import Column
from anomaly_daemon.domain.errors import SettingsError
from anomaly_daemon.settings import Threshold as ThresholdSettings
from anomaly_daemon.statistics.score_prior import UNKNOWN, ScorePrior
from anomaly_daemon.statistics.spot import Spot
from anomaly_daemon.statistics.window import TAIL_PROBABILITY_MIN
from anomaly_daemon.thresholds.base import PREFIX, Judgement, Rows
from anomaly_daemon.thresholds.first import FirstThreshold
from anomaly_daemon.thresholds.suspects import Suspects


class SpotThreshold:
    """The score that a normal one exceeds with probability `tail`. Raises SettingsError for a tail below 1e-4."""

    is_checkpointable = True

    def __init__(self, settings: ThresholdSettings, prior: ScorePrior = UNKNOWN) -> None:
        if settings.tail < TAIL_PROBABILITY_MIN:
            raise SettingsError(
                f"threshold.tail: {settings.tail:g} is rarer than a window of scores can bear out; set it to {TAIL_PROBABILITY_MIN:g} or more"
            )
        self._spot = Spot(PREFIX, settings.window, settings.tail)
        self._suspects = Suspects(settings.tail)
        self._first = FirstThreshold(settings, prior)

    def columns(self) -> tuple[Column, ...]:
        """The window of scores, the fitted tail, and the credit of suspects."""
        return (*self._spot.columns(), *self._suspects.columns())

    def judge(self, rows: Rows, score: Tensor) -> Judgement:
        """See Threshold."""
        threshold = self._first.until_known(rows, rows[self._spot.quantile])
        is_anomaly = score > threshold
        return Judgement(threshold, is_anomaly, is_anomaly, (self._spot.tail_probability(rows, score),), torch.full_like(score, torch.nan))

    def tail_probability(self, *tail: Tensor) -> Tensor:
        """See Threshold."""
        return tail[0]

    def learn(self, rows: Rows, score: Tensor, weight: Tensor, _judgement: Judgement) -> None:
        """See Threshold and Suspects; of suspect scores at weight 1/k every k-th is taken in."""
        self._spot.learn(rows, *self._suspects.taught(rows, score, weight, rows[self._spot.quantile]))
