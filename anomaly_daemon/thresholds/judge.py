"""From evidence to verdicts: each channel over its own usual level, fused, thresholded, and only then learned from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anomaly_daemon.domain.columns import FROZEN, OBSERVATIONS, RESTARTED, Column
from anomaly_daemon.domain.records import Phase
from anomaly_daemon.settings import Threshold as ThresholdSettings
from anomaly_daemon.state.segments import Layout
from anomaly_daemon.statistics.ewma import Ewma
from anomaly_daemon.statistics.log_error import log_of
from anomaly_daemon.statistics.ordered import summed
from anomaly_daemon.statistics.score_prior import UNKNOWN, ScorePrior
from anomaly_daemon.thresholds.base import GIVEN, JUDGED, Judgement, Rows, Threshold
from anomaly_daemon.thresholds.registry import build

ERROR_MAX = 1e30  # an infinite error counts as this one: nothing non-finite enters state
_QUANTILE_99 = 2.326  # of the standard normal distribution
_PRIOR_OBSERVATIONS = 16
_DEVIATION_FLOOR = 0.01  # of a log error: a channel that never varies is still not measured to better than a per cent
_LEARNED = "calibration.learned"
SHOWN_AFTER = 16
"""Records of an entity from which one may be suspect and so teach little. An entity unlike those that training saw shows itself by then."""

MODEL = "model"
"""Beside the columns: which model's priors an entity starts from, int64; absent where there is but one."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What is said of each row, in layout order; N rows, on the device of the evidence.

    anomaly_score, threshold: float64 in [0, 1], on one scale: s / (1 + s) of the fused score s and of its threshold.
    tail_probability: float64 in [1e-4, 1]. is_anomaly: bool. grade: float64 in [0, 1]. phase: int8 (`Phase`).
    deviations: float64, see Judgement; NaN too where nothing could be anomalous, in a silent warm-up or without evidence.
    parts: float64 [N, C], what each channel added to the fused score, at least 0; in the order of `Judge.channels`.
    Where no channel had anything to say, anomaly_score and tail_probability are NaN and is_anomaly is False.
    """

    anomaly_score: Tensor
    tail_probability: Tensor
    threshold: Tensor
    is_anomaly: Tensor
    grade: Tensor
    phase: Tensor
    deviations: Tensor
    parts: Tensor


@dataclass(frozen=True, slots=True)
class _Evidence:
    """The evidence of a micro-batch, made ready for its steps; N rows, C channels.

    error, log_error: float64 [N, C], 0 and log(1e-6) where the channel has nothing to say. calibrates: float64 [N, C],
    1 where it is new. judged: float64 [N], 0 where no channel says anything. may_alarm: bool [N], judged and not in a silent warm-up.
    is_shown: bool [N], after the entity's first SHOWN_AFTER records; is_live: after warm-up.
    """

    error: Tensor
    log_error: Tensor
    calibrates: Tensor
    judged: Tensor
    may_alarm: Tensor
    is_shown: Tensor
    is_live: Tensor

    def stepwise(self) -> tuple[Tensor, ...]:
        """The columns that a step reads, in the order it takes them."""
        return self.error, self.log_error, self.calibrates, self.judged, self.may_alarm, self.is_shown


class Judge:
    """Fuses the channels and judges, entity by entity, each row by what was learned before it.

    priors: of each model, per channel the mean and variance of log(error + 1e-6), from the artifact; a new entity starts from them.
    half_life: observations after which what a channel's errors taught counts half; None: they teach nothing, the priors stay.
    score_prior: of the fused score, for every entity until it showed its own.
    """

    def __init__(
        self,
        settings: ThresholdSettings,
        priors: Sequence[Mapping[str, tuple[float, float]]],
        half_life: float | None,
        score_prior: ScorePrior = UNKNOWN,
    ) -> None:
        """Raises SettingsError when the threshold's method or parameters do not exist."""
        self._threshold = build(settings, score_prior)
        self.channels = tuple(sorted(priors[0]))  # an artifact's order of keys must not decide what a column means
        self._priors = torch.tensor([[one[channel] for channel in self.channels] for one in priors], dtype=torch.float64)  # [models, C, 2]
        means, variances = self._priors[0].T.numpy()
        self._is_calibrated = half_life is not None
        prior, shape = (means, variances), (len(self.channels),)
        self._calibration = Ewma(
            "calibration", half_life or math.inf, prior, _PRIOR_OBSERVATIONS, shape, _DEVIATION_FLOOR, is_bounded=self._is_calibrated
        )
        self._warmup_observations, self._suspect_learning = settings.warmup_observations, settings.suspect_learning
        self.judges_in_warmup = settings.judges_in_warmup
        self._names = (OBSERVATIONS.name, *(column.name for column in self.columns()), *GIVEN)

    @property
    def is_checkpointable(self) -> bool:
        """Whether the columns are all its state; if not, it is rebuilt from the log and entities must keep their slots."""
        return self._threshold.is_checkpointable

    def columns(self) -> tuple[Column, ...]:
        """The channels' calibration and whatever the threshold keeps; `observations` is the pipeline's own."""
        return (*self._calibration.columns(), Column(_LEARNED, "float32", (len(self.channels),)), *self._threshold.columns())

    @torch.inference_mode()
    def judge(self, layout: Layout, rows: Rows, evidence: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> Verdicts:
        """Judge N rows of B entities, step by step, learning each after its verdict and counting it in `observations`.

        rows:     [B, …], changed in place; with parameter.z, parameter.level (float64) and slot (int64) beside the columns, and where there
                  are any FROZEN, entities of which no live row teaches, and RESTARTED, of which nothing is an anomaly before they are live.
        evidence: channel → float64 [N] in layout order, an error ≥ 0, NaN = nothing to say.
        fresh:    channel → bool [N], whether that error is new at the row; only then the channel calibrates on it.
        """
        self._begin(rows)
        prepared = self._prepare(layout, rows, evidence, fresh)
        suspect = prepared.judged.new_tensor(self._suspect_learning)
        widths = layout.widths.tolist()
        steps = zip(widths, *(torch.split(column, widths) for column in prepared.stepwise()), strict=True)
        parts, scores, judgements, flags = [], [], [], []
        frozen = rows.get(FROZEN)
        active: dict[str, Tensor] = {}
        n_active = -1
        for n, error, log_error, calibrates, judged, may_alarm, is_shown in steps:
            if n != n_active:
                active, n_active = {name: rows[name][:n] for name in self._names}, n
            part = self._weigh(active, error)
            score = summed(part)
            active[JUDGED] = judged
            judgement = self._threshold.judge(active, score)
            is_anomaly = judgement.is_anomaly & may_alarm
            weight = torch.where(judgement.is_suspect & may_alarm & is_shown, suspect, judged)
            if frozen is not None:
                active[FROZEN] = frozen[:n] & may_alarm
                weight = torch.where(active[FROZEN], 0.0, weight)
            self._threshold.learn(active, score, weight, judgement)
            if self._is_calibrated:
                self._calibrate(active, log_error, calibrates.mul_(weight.unsqueeze(1)))
            active[OBSERVATIONS.name].add_(1)
            parts.append(part)
            scores.append(score)
            judgements.append(judgement)
            flags.append(is_anomaly)
        return _verdicts(self._threshold, prepared, parts, scores, judgements, flags)

    def _begin(self, rows: Rows) -> None:
        """An entity never seen starts from the priors of its model; those of the first are what its columns hold."""
        if len(self._priors) > 1:
            start = self._priors.to(rows[MODEL].device)[rows[MODEL]]
            is_first = (rows[OBSERVATIONS.name] == 0)[:, None]
            for place, name in enumerate((self._calibration.mean, self._calibration.variance)):
                rows[name].copy_(torch.where(is_first, start[..., place], rows[name]))

    def _prepare(self, layout: Layout, rows: Rows, evidence: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> _Evidence:
        error = torch.stack([evidence[channel] for channel in self.channels], 1)
        is_known = ~torch.isnan(error)
        error = torch.where(is_known, error, 0.0).clamp_(0.0, ERROR_MAX)
        calibrates = torch.stack([fresh[channel] for channel in self.channels], 1) & is_known
        is_judged = is_known.any(1)
        observations = rows[OBSERVATIONS.name]
        rank, step = (torch.from_numpy(index).to(observations.device) for index in (layout.rank, layout.step))
        number = observations[rank] + step
        is_shown, is_live = number >= SHOWN_AFTER, number >= self._warmup_observations
        may_alarm = is_judged if self.judges_in_warmup else is_judged & is_live
        if RESTARTED in rows:
            may_alarm = may_alarm & (is_live | ~rows[RESTARTED][rank])
        return _Evidence(error, log_of(error), calibrates.to(torch.float64), is_judged.to(torch.float64), may_alarm, is_shown, is_live)

    def _weigh(self, rows: Rows, error: Tensor) -> Tensor:
        """What each channel says, log1p(error / level), error and level [n, C]; level: the .99 quantile of a normal distribution of log errors."""
        level = torch.add(rows[self._calibration.mean], self._calibration.deviation(rows), alpha=_QUANTILE_99).exp_()
        return torch.log1p(error / level)

    def _calibrate(self, rows: Rows, log_error: Tensor, weight: Tensor) -> None:
        """Learn the channels' levels, all [n, C]."""
        learned = rows[_LEARNED]
        self._calibration.learn(rows, log_error, weight, learned.double())
        learned.add_(weight)


def _verdicts(
    judged_by: Threshold,
    prepared: _Evidence,
    parts: Sequence[Tensor],
    scores: Sequence[Tensor],
    judgements: Sequence[Judgement],
    flags: Sequence[Tensor],
) -> Verdicts:
    none = prepared.judged[:0]  # so that no rows give no verdicts
    score, is_anomaly = torch.cat([none, *scores]), torch.cat([none > 0, *flags])
    threshold = torch.cat([none, *(judgement.threshold for judgement in judgements)])
    tails = [torch.cat(column) for column in zip(*(judgement.tail for judgement in judgements), strict=True)]
    tail = judged_by.tail_probability(*tails) if tails else none
    is_judged = prepared.judged > 0
    nothing = score.new_tensor(float("nan"))
    deviations = torch.cat([none, *(judgement.deviations for judgement in judgements)])
    return Verdicts(
        anomaly_score=torch.where(is_judged, score / (1 + score), nothing),
        tail_probability=torch.where(is_judged, tail, nothing),
        threshold=threshold / (1 + threshold),
        is_anomaly=is_anomaly,
        grade=torch.where(is_anomaly, (1 - threshold / score).clamp_(min=0.0), 0.0),
        phase=torch.where(prepared.is_live, Phase.LIVE.value, Phase.WARMUP.value).to(torch.int8),
        deviations=torch.where(prepared.may_alarm, deviations, nothing),
        parts=torch.cat([prepared.error[:0], *parts]),
    )
