"""The default threshold: so many deviations above the mean of the entity's own log score."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anomaly_daemon.domain.columns import Column
from anomaly_daemon.settings import Threshold as ThresholdSettings
from anomaly_daemon.statistics.ewma import Ewma
from anomaly_daemon.statistics.score_prior import UNKNOWN, ScorePrior
from anomaly_daemon.statistics.tail import Tail
from anomaly_daemon.thresholds.base import PREFIX, WARMUP_MARGIN, Judgement, Rows

_OFFSET = 1e-6  # keeps the logarithm of a score of 0 finite
_LOG_MIN, _LOG_MAX = math.log(_OFFSET) + 1e-9, 700.0  # thresholds stay above 0 and within float64
_DEVIATION_FLOOR = 0.1  # scores that hardly vary would otherwise make a tenth of a per cent an anomaly
# While young the n-th score counts about n²: the first ones are taken before the channels know the entity's level. Measured on entities with
# a hundredth of the fleet's error: spikes found at the 300th observation 100 %, against none when all count alike; false alarms 0.01 a thousand.
_YOUTH = 3.0
_LEARNED = Column(f"{PREFIX}.learned", "float32")


def log_of(score: Tensor) -> Tensor:
    """The log score that means and deviations are of, a new tensor; finite at a score of 0."""
    return torch.log(score + _OFFSET)


class EwmaThreshold:
    """Threshold exp(mean + z·σ) of the exponentially weighted mean and deviation of the log score.

    A suspect score, one at weight below 1, teaches as if it lay just `suspect_z`·σ above the mean, so that an incident hardly widens σ.
    Until the entity showed `warmup_observations` scores, mean and variance are those of a mixture with the prior, whose share falls in a
    straight line, and σ is the wider the larger that share. What an entity's own statistics learn does not depend on the prior.
    The tail probability follows the entity's own far quantiles, see Tail.
    """

    is_checkpointable = True

    def __init__(self, settings: ThresholdSettings, prior: ScorePrior = UNKNOWN) -> None:
        self._suspect_z, self._warmup_observations, self._prior = settings.suspect_z, settings.warmup_observations, prior
        self._log_score = Ewma(PREFIX, settings.half_life, deviation_floor=_DEVIATION_FLOOR)
        self._tail = Tail(f"{PREFIX}.tail", settings.half_life, prior.quantiles)

    def columns(self) -> tuple[Column, ...]:
        """Mean and variance of the log score, the weight learned so far, and the far quantiles."""
        return (*self._log_score.columns(), _LEARNED, *self._tail.columns())

    def judge(self, rows: Rows, score: Tensor) -> Judgement:
        """See Threshold; reads rows["parameter.z"]."""
        mean, deviation = self._usual(rows)
        limit = (deviation * rows["parameter.z"]).add_(mean)
        threshold = limit.clamp_(_LOG_MIN, _LOG_MAX).exp_().sub_(_OFFSET)
        deviations = log_of(score).sub_(mean).div_(deviation)
        tail = self._tail.probability(rows, deviations)
        return Judgement(threshold, deviations > rows["parameter.z"], deviations > self._suspect_z, tail, deviations)

    def learn(self, rows: Rows, score: Tensor, weight: Tensor, judgement: Judgement) -> None:
        """See Threshold."""
        most = self._log_score.deviation(rows).mul_(self._suspect_z).add_(rows[self._log_score.mean])
        log_score = log_of(score)
        taught = torch.where(weight < 1, log_score.minimum(most), log_score)
        learned = rows[_LEARNED.name]
        seen = learned.double()
        self._log_score.learn(rows, taught, weight, seen / _YOUTH)
        self._tail.learn(rows, judgement.deviations, weight, seen)
        learned.add_(weight)

    def _usual(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Mean and deviation that a log score is held against, new or not to be changed."""
        mean, deviation = rows[self._log_score.mean], self._log_score.deviation(rows)
        share = (rows[_LEARNED.name].double() / self._warmup_observations).clamp_(max=1.0)
        is_own = share == 1
        if bool(is_own.all()):
            return mean, deviation
        apart = mean - self._prior.mean
        variance = share * rows[self._log_score.variance] + (1 - share) * (self._prior.variance + share * apart * apart)
        mixed = variance.sqrt().clamp_(min=_DEVIATION_FLOOR) * (1 + WARMUP_MARGIN * (1 - share))
        return torch.where(is_own, mean, self._prior.mean + share * apart), torch.where(is_own, deviation, mixed)
