"""The default threshold: so many deviations above the mean of the entity's own log score."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anomaly_daemon.domain.columns import OBSERVATIONS, Column
from anomaly_daemon.settings import Threshold as ThresholdSettings
from anomaly_daemon.statistics.ewma import Ewma
from anomaly_daemon.statistics.window import TAIL_PROBABILITY_MIN
from anomaly_daemon.thresholds.base import HELD_BACK, JUDGED, PREFIX, Judgement, Rows
from anomaly_daemon.thresholds.holding import Holding, RecentAverage

_OFFSET = 1e-6  # keeps the logarithm of a score of 0 finite
_LOG_MIN, _LOG_MAX = math.log(_OFFSET) + 1e-9, 700.0  # thresholds stay above 0 and within float64
_DEVIATION_FLOOR = 0.1  # scores that hardly vary would otherwise make a tenth of a per cent an anomaly
# While young the n-th score counts about n²: the first ones are taken before the channels know the entity's level. Measured on entities with
# a hundredth of the fleet's error: spikes found at the 300th observation 100 %, against none when all count alike; false alarms 0.01 a thousand.
_YOUTH = 3.0
_LEARNED = Column(f"{PREFIX}.learned", "float32")


class EwmaThreshold:
    """Threshold exp(mean + z·σ) of the exponentially weighted mean and deviation of the log score, averaged over `span` records.

    A suspect score, one at weight below 1, teaches as if it lay just `suspect_z`·σ above the mean, so that an incident hardly widens σ.
    The tail probability is that of the normal distribution of the log score. The threshold said is what this very score would have had to exceed.
    """

    is_checkpointable = True

    def __init__(self, settings: ThresholdSettings) -> None:
        self._suspect_z = settings.suspect_z
        self._reference_observations = settings.reference_observations
        half_life = math.inf if settings.reference_observations else settings.half_life
        self._log_score = Ewma(PREFIX, half_life, deviation_floor=_DEVIATION_FLOOR)
        self._recent = RecentAverage(settings.span, _LOG_MIN)
        self._holding = Holding(settings, _LOG_MIN)
        self._is_remembering = bool(self._recent.columns() or self._holding.columns())

    def columns(self) -> tuple[Column, ...]:
        """Mean and variance of the log score, the weight learned so far, and what holds scores back."""
        return (*self._log_score.columns(), _LEARNED, *self._recent.columns(), *self._holding.columns())

    def judge(self, rows: Rows, score: Tensor) -> Judgement:
        """See Threshold; reads rows["parameter.z"]."""
        mean, deviation = rows[self._log_score.mean], self._log_score.deviation(rows)
        average = self._average(rows, score)
        limit, least = (deviation * rows["parameter.z"]).add_(mean), self._holding.limit(rows)
        deviations = (average - mean).div_(deviation)
        is_suspect = deviations > self._suspect_z
        tail = torch.special.ndtr(-deviations).clamp_(min=TAIL_PROBABILITY_MIN)
        if least is not None:
            limit, deviations = torch.maximum(limit, least), torch.where(average > least, deviations, HELD_BACK)
        return Judgement(self._needed(rows, limit), deviations > rows["parameter.z"], is_suspect, tail, deviations)

    def least(self, rows: Rows) -> Tensor | None:
        """What a score must exceed not to be held back, float64 [n]; None where none is."""
        least = self._holding.limit(rows)
        return None if least is None else self._needed(rows, least)

    def learn(self, rows: Rows, score: Tensor, weight: Tensor, _judgement: Judgement) -> None:
        """See Threshold."""
        mean, most = rows[self._log_score.mean], self._log_score.deviation(rows).mul_(self._suspect_z)
        average = self._average(rows, score)
        if self._is_remembering:
            is_judged = rows[JUDGED] > 0
            self._holding.learn(rows, average, average <= mean, is_judged)
            self._recent.learn(rows, average, is_judged)
        if self._reference_observations:
            weight = weight * (rows[OBSERVATIONS.name] < self._reference_observations)
        taught = torch.where(weight < 1, average.minimum(most.add_(mean)), average)
        learned = rows[_LEARNED.name]
        self._log_score.learn(rows, taught, weight, learned.double() / _YOUTH)
        learned.add_(weight)

    def _needed(self, rows: Rows, average: Tensor) -> Tensor:
        """The score that brings the average there, as far as one can."""
        return self._recent.needed(rows, average, rows[_LEARNED.name]).clamp(_LOG_MIN, _LOG_MAX).exp_().sub_(_OFFSET)

    def _average(self, rows: Rows, score: Tensor) -> Tensor:
        return self._recent.after(rows, torch.log(score + _OFFSET), rows[_LEARNED.name])
