"""Any anomaly estimator or statistic of river as a threshold: one Python object per entity, slower than a slab."""

from __future__ import annotations

import bisect
from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor

from anomaly_daemon.domain.columns import OBSERVATIONS, Column
from anomaly_daemon.settings import Threshold as ThresholdSettings
from anomaly_daemon.statistics.window import TAIL_PROBABILITY_MIN
from anomaly_daemon.thresholds.base import Judgement, Rows
from anomaly_daemon.thresholds.estimators import Estimator, factory

_READINGS_KEPT = 256


@dataclass(slots=True)
class _Readings:
    """The last readings, by time and by size: a reading's rank among them is its tail probability."""

    by_time: deque[float] = field(default_factory=deque)
    by_size: list[float] = field(default_factory=list)

    def tail_probability(self, reading: float) -> float:
        as_high = len(self.by_size) - bisect.bisect_left(self.by_size, reading)
        return max(TAIL_PROBABILITY_MIN, (1 + as_high) / (1 + len(self.by_size)))

    def add(self, reading: float) -> None:
        if len(self.by_time) == _READINGS_KEPT:
            del self.by_size[bisect.bisect_left(self.by_size, self.by_time.popleft())]
        self.by_time.append(reading)
        bisect.insort(self.by_size, reading)


@dataclass(slots=True)
class _Seat:
    """An entity's estimator, its reading of the score judged last, and those of the scores it learned."""

    estimator: Estimator
    reading: float = 0.0
    readings: _Readings = field(default_factory=_Readings)


class RiverThreshold:
    """`river:MODULE.CLASS` with `threshold.parameters` as keyword arguments, fed the fused score s.

    Supervised detectors (GaussianScorer) take s as y; the others take {"score": s / (1 + s)}, in [0, 1) as HalfSpaceTrees
    needs it. A detector's reading is held against `level`, a filter classifies it itself; a statistic (Quantile,
    RollingQuantile, Max, …) is the threshold by itself, with q = 1 − tail and window_size = window unless given. `seed` is 0
    unless given. The tail probability is the reading's rank among the last 256. Suspect scores, at weight below 1, are not
    learned. Raises SettingsError when the class or its parameters do not exist, or it cannot judge single numbers.
    """

    is_checkpointable = False

    def __init__(self, settings: ThresholdSettings) -> None:
        self._make = factory(settings)
        self._seats: dict[int, _Seat] = {}

    def columns(self) -> tuple[Column, ...]:
        """None: an estimator is a Python object, kept by rows["slot"], as bounded as the table, and begun anew where `observations` is 0."""
        return ()

    def judge(self, rows: Rows, score: Tensor) -> Judgement:
        """See Threshold; reads rows["slot"], rows["observations"] and rows["parameter.level"]."""
        opinions, tails = [], []
        observations, levels = rows[OBSERVATIONS.name].tolist(), rows["parameter.level"].tolist()
        for slot, seen, one, level in zip(rows["slot"].tolist(), observations, score.tolist(), levels, strict=True):
            if seen == 0 or slot not in self._seats:
                self._seats[slot] = _Seat(self._make())
            seat = self._seats[slot]
            opinion = seat.estimator.judge(one, level)
            seat.reading = opinion.reading
            opinions.append(opinion)
            tails.append(seat.readings.tail_probability(opinion.reading))
        is_anomaly = torch.tensor([opinion.is_anomaly for opinion in opinions], dtype=torch.bool, device=score.device)
        return Judgement(score.new_tensor([opinion.threshold for opinion in opinions]), is_anomaly, score.new_tensor(tails))

    def learn(self, rows: Rows, score: Tensor, weight: Tensor, _judgement: Judgement) -> None:
        """See Threshold; of the scores just judged those at weight 1 are learned."""
        for slot, one, share in zip(rows["slot"].tolist(), score.tolist(), weight.tolist(), strict=True):
            if share == 1:
                seat = self._seats[slot]
                seat.readings.add(seat.reading)
                seat.estimator.learn(one)
