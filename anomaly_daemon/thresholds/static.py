"""A threshold that does not learn: a fixed anomaly score."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from anomaly_daemon.domain.columns import Column
from anomaly_daemon.settings import Threshold as ThresholdSettings
from anomaly_daemon.statistics.score_prior import UNKNOWN, ScorePrior
from anomaly_daemon.thresholds.base import HELD_BACK, Judgement, Rows
from anomaly_daemon.thresholds.ewma import EwmaThreshold


class StaticThreshold:
    """Score threshold level / (1 − level), which is `level` on the scale of anomaly_score, s / (1 + s).

    The tail probability, and what holds a score back, are learned as EwmaThreshold does.
    """

    is_checkpointable = True

    def __init__(self, settings: ThresholdSettings, prior: ScorePrior = UNKNOWN) -> None:
        self._usual = EwmaThreshold(settings, prior)

    def columns(self) -> tuple[Column, ...]:
        """Those of EwmaThreshold."""
        return self._usual.columns()

    def judge(self, rows: Rows, score: Tensor) -> Judgement:
        """See Threshold; reads rows["parameter.level"] and, for the tail, rows["parameter.z"]."""
        level = rows["parameter.level"]
        threshold, least = level / (1 - level), self._usual.least(rows)
        usual = self._usual.judge(rows, score)
        is_anomaly = (score / (1 + score) > level) & (usual.deviations != HELD_BACK)
        return replace(usual, threshold=threshold if least is None else torch.maximum(threshold, least), is_anomaly=is_anomaly)

    def tail_probability(self, *tail: Tensor) -> Tensor:
        """See Threshold."""
        return self._usual.tail_probability(*tail)

    def learn(self, rows: Rows, score: Tensor, weight: Tensor, judgement: Judgement) -> None:
        """See Threshold."""
        self._usual.learn(rows, score, weight, judgement)
