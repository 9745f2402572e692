"""The default threshold: so many deviations above the mean of the entity's own log score."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anomaly_daemon.domain.columns import Column
from anomaly_daemon.settings import Threshold as ThresholdSettings
from anomaly_daemon.statistics.ewma import Ewma
from anomaly_daemon.statistics.window import TAIL_PROBABILITY_MIN
from anomaly_daemon.thresholds.base import PREFIX, Judgement, Rows

_OFFSET = 1e-6  # keeps the logarithm of a score of 0 finite
_LOG_MIN, _LOG_MAX = math.log(_OFFSET) + 1e-9, 700.0  # thresholds stay above 0 and within float64
_DEVIATION_FLOOR = 0.1  # scores that hardly vary would otherwise make a tenth of a per cent an anomaly
# While young the n-th score counts about n²: the first ones are taken before the channels know the entity's level. Measured on entities with
# a hundredth of the fleet's error: spikes found at the 300th observation 100 %, against none when all count alike; false alarms 0.01 a thousand.
_YOUTH = 3.0
_LEARNED = Column(f"{PREFIX}.learned", "float32")


class EwmaThreshold:
    """Threshold exp(mean + z·σ) of the exponentially weighted mean and deviation of the log score.

    A suspect score, one at weight below 1, teaches as if it lay just `suspect_z`·σ above the mean, so that an incident hardly widens σ.
    The tail probability is that of the normal distribution of the log score.
    """

    is_checkpointable = True

    def __init__(self, settings: ThresholdSettings) -> None:
        self._suspect_z = settings.suspect_z
        self._log_score = Ewma(PREFIX, settings.half_life, deviation_floor=_DEVIATION_FLOOR)

    def columns(self) -> tuple[Column, ...]:
        """Mean and variance of the log score, and the weight learned so far."""
        return (*self._log_score.columns(), _LEARNED)

    def judge(self, rows: Rows, score: Tensor) -> Judgement:
        """See Threshold; reads rows["parameter.z"]."""
        mean, deviation = rows[self._log_score.mean], self._log_score.deviation(rows)
        limit = (deviation * rows["parameter.z"]).add_(mean)
        threshold = limit.clamp_(_LOG_MIN, _LOG_MAX).exp_().sub_(_OFFSET)
        deviations = torch.log(score + _OFFSET).sub_(mean).div_(deviation)
        tail = torch.special.ndtr(-deviations).clamp_(min=TAIL_PROBABILITY_MIN)
        return Judgement(threshold, deviations > rows["parameter.z"], deviations > self._suspect_z, tail, deviations)

    def learn(self, rows: Rows, score: Tensor, weight: Tensor, _judgement: Judgement) -> None:
        """See Threshold."""
        most = self._log_score.deviation(rows).mul_(self._suspect_z).add_(rows[self._log_score.mean])
        log_score = torch.log(score + _OFFSET)
        taught = torch.where(weight < 1, log_score.minimum(most), log_score)
        learned = rows[_LEARNED.name]
        self._log_score.learn(rows, taught, weight, learned.double() / _YOUTH)
        learned.add_(weight)
