"""The threshold of all methods that learn but river's: so many deviations above the mean of the entity's own log score."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anomaly_daemon.domain.columns import OBSERVATIONS, Column
from anomaly_daemon.settings import Threshold as ThresholdSettings
from anomaly_daemon.statistics.ewma import Ewma
from anomaly_daemon.statistics.log_error import OFFSET, log_of
from anomaly_daemon.statistics.score_prior import UNKNOWN, ScorePrior
from anomaly_daemon.statistics.tail import Tail
from anomaly_daemon.statistics.window_tail import WindowTail
from anomaly_daemon.thresholds.base import HELD_BACK, JUDGED, PREFIX, WARMUP_MARGIN, Judgement, Rows, may_teach
from anomaly_daemon.thresholds.holding import Holding, RecentAverage

_LOG_MIN, _LOG_MAX = math.log(OFFSET) + 1e-9, 700.0  # thresholds stay above 0 and within float64
_DEVIATION_FLOOR = 0.1  # scores that hardly vary would otherwise make a tenth of a per cent an anomaly
# While young the n-th score counts about n²: the first ones are taken before the channels know the entity's level. Measured on entities with
# a hundredth of the fleet's error: spikes found at the 300th observation 100 %, against none when all count alike; false alarms 0.01 a thousand.
_YOUTH = 3.0
_LEARNED = Column(f"{PREFIX}.learned", "float32")


class EwmaThreshold:
    """Threshold exp(mean + limit·σ) of the exponentially weighted mean and deviation of the log score, averaged over `span` records.

    The limit is z, or the quantile of a window of such deviations.
    What is far from the mean hardly moves it or widens σ, so that neither an incident nor a machine at rest makes its entity deaf: see `reach`. With
    `outliers: full` that holds of suspects alone, which teach as if they lay `suspect_z`·σ above the mean at most. Reference observations count in
    full.
    Until the entity showed `warmup_observations` scores, mean and variance are those of a mixture with the prior, whose share falls in a
    straight line, and σ is the wider the larger that share. What an entity's own statistics learn does not depend on the prior.
    The tail probability is the entity's own, see Tail and WindowTail. The threshold said is what this very score would have had to exceed.
    """

    is_checkpointable = True

    def __init__(self, settings: ThresholdSettings, prior: ScorePrior = UNKNOWN, window: WindowTail | None = None) -> None:
        """window: whose quantile stands in for z."""
        self._suspect_z, self._prior = settings.suspect_z, prior
        self._reference_observations = settings.reference_observations
        self._own_after = min(settings.warmup_observations, settings.reference_observations or settings.warmup_observations)
        half_life = math.inf if settings.reference_observations else settings.half_life
        is_bounded = settings.outliers == "bounded" and not settings.reference_observations
        self._log_score = Ewma(PREFIX, half_life, deviation_floor=_DEVIATION_FLOOR, is_bounded=is_bounded)
        self._window = window
        self._tail = window or Tail(f"{PREFIX}.tail", settings.half_life, prior)
        self._recent = RecentAverage(settings.span, _LOG_MIN)
        self._holding = Holding(settings, _LOG_MIN)
        self._is_remembering = bool(self._recent.columns() or self._holding.columns())

    def columns(self) -> tuple[Column, ...]:
        """Mean and variance of the log score, the weight learned so far, the tail, and what holds scores back."""
        return (*self._log_score.columns(), _LEARNED, *self._tail.columns(), *self._recent.columns(), *self._holding.columns())

    def judge(self, rows: Rows, score: Tensor) -> Judgement:
        """See Threshold; reads rows["parameter.z"]."""
        mean, deviation = self._usual(rows)
        most = rows["parameter.z"] if self._window is None else self._window.quantile(rows)
        limit, least = (deviation * most).add_(mean), self._holding.limit(rows)
        average = self._average(rows, score)
        deviations = (average - mean).div_(deviation)
        is_suspect = deviations > self._suspect_z
        tail = (self._tail.known(rows, deviations), deviations)
        if least is not None:
            limit, deviations = torch.maximum(limit, least), torch.where(average > least, deviations, HELD_BACK)
        told = deviations if self._window is None else torch.full_like(score, torch.nan)
        return Judgement(self._needed(rows, limit), deviations > most, is_suspect, tail, told)

    def least(self, rows: Rows) -> Tensor | None:
        """What a score must exceed not to be held back, float64 [n]; None where none is."""
        least = self._holding.limit(rows)
        return None if least is None else self._needed(rows, least)

    def tail_probability(self, *tail: Tensor) -> Tensor:
        """See Threshold."""
        return self._tail.probability(*tail)

    def learn(self, rows: Rows, score: Tensor, weight: Tensor, judgement: Judgement) -> None:
        """See Threshold."""
        average = self._average(rows, score)
        mean, most = rows[self._log_score.mean], self._log_score.deviation(rows).mul_(self._suspect_z)
        if self._is_remembering:
            is_judged = rows[JUDGED] > 0
            self._holding.learn(rows, average, average <= mean, is_judged)
            self._recent.learn(rows, average, is_judged)
        taught = torch.where(weight < 1, average.minimum(most.add_(mean)), average)
        learned = rows[_LEARNED.name]
        seen = learned.double()
        known, deviations = judgement.tail
        self._tail.learn(rows, known, deviations, weight, may_teach(rows), seen)
        if self._reference_observations:
            weight = weight * (rows[OBSERVATIONS.name] < self._reference_observations)
        self._log_score.learn(rows, taught, weight, seen / _YOUTH)
        learned.add_(weight)

    def _usual(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Mean and deviation that a log score is held against, new or not to be changed."""
        mean, deviation = rows[self._log_score.mean], self._log_score.deviation(rows)
        share = (rows[_LEARNED.name].double() / self._own_after).clamp_(max=1.0)
        is_own = share == 1
        if bool(is_own.all()):
            return mean, deviation
        apart = mean - self._prior.mean
        variance = share * deviation * deviation + (1 - share) * (self._prior.variance + share * apart * apart)
        mixed = variance.sqrt().clamp_(min=_DEVIATION_FLOOR) * (1 + WARMUP_MARGIN * (1 - share))
        return torch.where(is_own, mean, self._prior.mean + share * apart), torch.where(is_own, deviation, mixed)

    def _needed(self, rows: Rows, average: Tensor) -> Tensor:
        """The score that brings the average there, as far as one can."""
        return self._recent.needed(rows, average, rows[_LEARNED.name]).clamp(_LOG_MIN, _LOG_MAX).exp_().sub_(OFFSET)

    def _average(self, rows: Rows, score: Tensor) -> Tensor:
        return self._recent.after(rows, log_of(score), rows[_LEARNED.name])
