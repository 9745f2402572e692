"""Before an artifact serves: its engine and judge over the history it was trained on, to see what scores they usually give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_daemon.channels.models import Models
from anomaly_daemon.domain.columns import OBSERVATIONS
from anomaly_daemon.domain.records import Partition
from anomaly_daemon.model.artifact import Artifact
from anomaly_daemon.model.corpus import EntitySequence, split
from anomaly_daemon.settings import Settings
from anomaly_daemon.settings import Threshold as ThresholdSettings
from anomaly_daemon.state.segments import lay_out
from anomaly_daemon.state.table import Table
from anomaly_daemon.statistics.log_error import log_of
from anomaly_daemon.statistics.score_prior import UNKNOWN, ScorePrior, prior_of
from anomaly_daemon.thresholds.base import JUDGED
from anomaly_daemon.thresholds.ewma import EwmaThreshold
from anomaly_daemon.thresholds.judge import MODEL, SHOWN_AFTER, Judge

ROWS_MAX, STEPS_MAX = 100_000, 15_000
_BATCH_ROWS = 4096
_PARTITION = Partition("rehearsal", 0)

Floats = NDArray[np.float64]


def rehearse(
    artifact: Artifact, sequences: Sequence[EntitySequence], settings: Settings, priors: Sequence[Mapping[str, tuple[float, float]]], device: str
) -> ScorePrior:
    """What the fused score is on the entities trained on: while young, and on the parts that were held out.

    Of many entities some, evenly, so that about ROWS_MAX rows are judged, and of each the newest STEPS_MAX. priors: see Judge.
    """
    threshold = settings.threshold.model_copy(update={"method": "ewma", "parameters": {}, "reference_observations": None, "recovery": 0.0})
    newest = [EntitySequence(one.entity, one.values[-STEPS_MAX:], one.gaps_s[-STEPS_MAX:]) for one in sequences if len(one.values)]
    rows = sum(len(one.values) for one in newest)
    chosen = sorted(newest[:: max(1, round(rows / ROWS_MAX))], key=lambda one: -len(one.values))
    if not chosen:
        return UNKNOWN
    scores = _scores(artifact, chosen, settings, Judge(threshold, priors, settings.calibration_half_life), device)
    logs = log_of(torch.from_numpy(scores))
    young = logs[:, : threshold.warmup_observations].numpy()
    young = young[~np.isnan(young)]
    prior = prior_of(young, ())
    deviations = _deviations(threshold, prior, torch.from_numpy(scores)).numpy()
    held_out = [own[split(len(one.values), settings.training).training : len(one.values)] for own, one in zip(deviations, chosen, strict=True)]
    return prior_of(young, [later[~np.isnan(later)] for later in held_out])


def _scores(artifact: Artifact, sequences: Sequence[EntitySequence], settings: Settings, judge: Judge, device: str) -> Floats:
    """[entities, steps] fused scores, NaN where there was none; the sequences are the longest first."""
    models = Models(artifact, settings, device)
    columns = (OBSERVATIONS, *models.columns, *judge.columns())
    table = Table(columns, resident_max=len(sequences), entities_max=len(sequences), device=device, spill=Path(gettempdir()))
    names = (OBSERVATIONS.name, *models.gathered, *(column.name for column in judge.columns()))
    entities = [one.entity for one in sequences]
    found = np.full((len(sequences), len(sequences[0].values)), np.nan)
    with closing(table):
        slots = table.admit(_PARTITION, entities)
        number = np.zeros(int(slots.max()) + 1, np.int64)
        number[slots] = np.arange(len(slots))
        for entity, step in _batches([len(one.values) for one in sequences]):
            layout = lay_out(slots[entity])
            entity, step = entity[layout.order], step[layout.order]
            rows = table.gather(layout.slots, names)
            values = np.stack([sequences[one].values[at] for one, at in zip(entity.tolist(), step.tolist(), strict=True)])
            gaps_s = np.array([sequences[one].gaps_s[at] for one, at in zip(entity.tolist(), step.tolist(), strict=True)])
            model = models.of([entities[one] for one in number[layout.slots].tolist()])
            observed = models.observe(model, layout, rows, table, values, gaps_s)
            given = {name: torch.ones(len(layout.slots), dtype=torch.float64, device=device) for name in ("parameter.z", "parameter.level")}
            rows |= {"slot": torch.from_numpy(layout.slots), MODEL: torch.from_numpy(model).to(device)} | given
            verdicts = judge.judge(layout, rows, observed.error, observed.fresh)
            models.remember(observed)
            table.scatter(layout.slots, rows, names)
            score = verdicts.anomaly_score.cpu().numpy()
            found[entity, step] = score / (1 - score)
    return found


def _batches(lengths: Sequence[int]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Entity and step of each row, a few steps of all entities at a time. lengths: falling."""
    steps = max(1, _BATCH_ROWS // len(lengths))
    for first in range(0, lengths[0], steps):
        step, entity = np.meshgrid(np.arange(first, min(first + steps, lengths[0])), np.arange(len(lengths)), indexing="ij")
        is_there = step < np.array(lengths)
        yield entity[is_there], step[is_there]


@torch.inference_mode()
def _deviations(settings: ThresholdSettings, prior: ScorePrior, scores: Tensor) -> Tensor:
    """[entities, steps] by how many deviations each score is above its entity's mean, as the threshold judges under this prior."""
    threshold = EwmaThreshold(settings, prior)
    rows = {column.name: torch.from_numpy(column.fresh(len(scores))) for column in threshold.columns()}
    rows["parameter.z"] = torch.full((len(scores),), settings.z, dtype=torch.float64)
    found = torch.full_like(scores, torch.nan)
    for step, score in enumerate(scores.unbind(1)):
        is_judged = ~score.isnan()
        known = torch.where(is_judged, score, 0.0)
        rows |= {JUDGED: is_judged.double(), OBSERVATIONS.name: torch.full((len(scores),), step)}
        judgement = threshold.judge(rows, known)
        is_suspect = judgement.is_suspect & (step >= SHOWN_AFTER)
        weight = torch.where(is_suspect, settings.suspect_learning, 1.0).double() * is_judged
        found[:, step] = torch.where(is_judged, judgement.deviations, torch.nan)
        threshold.learn(rows, known, weight, judgement)
    return found
