"""What another threshold method would have said: the exported evidence, judged anew by the product's own Judge, entity by entity from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from anomaly_daemon.domain.columns import LAST_SEEN_US, OBSERVATIONS
from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.domain.records import Observations, Partition, Record
from anomaly_daemon.evaluation.notes import ExportNotes
from anomaly_daemon.evaluation.scores import NO_CODE, ScoreFile
from anomaly_daemon.evaluation.tuning.choice import followers, lowest, sensitivity_of
from anomaly_daemon.evaluation.tuning.rows import KeptRows, RowKeeper, Sensitivity, level_values
from anomaly_daemon.pipeline.pieces import pieces
from anomaly_daemon.settings import Settings
from anomaly_daemon.state.segments import lay_out
from anomaly_daemon.state.table import Table
from anomaly_daemon.thresholds.judge import Judge, Verdicts

if TYPE_CHECKING:
    from anomaly_daemon.pipeline.rules import Rules

COMPARED: Final = ("ewma", "spot", "quantile", "static")
_BATCH_ROWS: Final = 16_384
_NOTHING: Final = np.zeros((0, 0))


def check_rejudgeable(file: ScoreFile, notes: ExportNotes) -> None:
    """Raises InputError where the evidence does not tell what another method would have learned."""
    if notes.priors is None and notes.decode_every is not None:
        raise InputError(f"{file.path}: another --method cannot be judged from it: models of their own served some entities; leave --method out")
    why = None
    if not isinstance(notes.priors, dict) or set(file.channels) != set(notes.priors) or notes.decode_every is None:
        why = "it does not note the evidence channels and their priors as this version does"
    elif notes.started_from != "nothing" or any(one.warm_up_from is not None and one.warm_up_from != one.start for one in notes.partitions.values()):
        why = "records before its first one had taught the detector already (it started from a checkpoint, or after a warm-up range)"
    if why is not None:
        raise InputError(
            f"{file.path}: another --method cannot be judged from it: {why}; "
            "export anew with `anomaly-daemon replay --export` from nothing, without --warm-up, or leave --method out"
        )


def rejudge(file: ScoreFile, notes: ExportNotes, settings: Settings, rules: Rules) -> KeptRows:
    """The kept rows as the method of `settings` judges them. Raises as `check_rejudgeable` and `keep_rows` do, and what the method refuses."""
    check_rejudgeable(file, notes)
    sensitivity = sensitivity_of(settings.threshold.method)
    ttl_us = int(settings.engine.entity_ttl * 1e6)
    keeper = RowKeeper(file, lowest(settings, sensitivity), followers(settings), ttl_us)
    with closing(_Judging(notes, settings, rules, ttl_us)) as judging:
        for batch in file.batches(("topic", "partition", "offset", "entity", "timestamp", *file.channels), _BATCH_ROWS):
            keeper.take(batch, judging.values(file, batch, sensitivity))
    return keeper.finish()


class _Judging:
    """Judges an export batch by batch; its table holds what the judge keeps of every entity."""

    def __init__(self, notes: ExportNotes, settings: Settings, rules: Rules, ttl_us: int) -> None:
        assert isinstance(notes.priors, dict)
        assert notes.decode_every is not None
        self._judge = Judge(
            settings.threshold,
            [{channel: (prior[0], prior[1]) for channel, prior in notes.priors.items()}],
            settings.calibration_half_life,
            notes.score_prior,
        )
        self._rules, self._ttl_us, self._decode_every = rules, ttl_us, notes.decode_every
        columns = (OBSERVATIONS, LAST_SEEN_US, *self._judge.columns())
        resident_max = settings.engine.resident_max if self._judge.is_checkpointable else settings.engine.entities_max
        spill = settings.engine.spill_directory or Path(gettempdir())
        self._table = Table(columns, resident_max=resident_max, entities_max=settings.engine.entities_max, device="cpu", spill=spill)
        self._names = (OBSERVATIONS.name, *(column.name for column in self._judge.columns()))

    def close(self) -> None:
        """Let go of the spill file."""
        self._table.close()

    def values(self, file: ScoreFile, batch: dict[str, NDArray[Any]], sensitivity: Sensitivity) -> NDArray[np.float64]:
        """[rows] as `keep_rows` holds against the sensitivity."""
        there = np.flatnonzero(batch["entity"] != NO_CODE)
        values = np.full(len(batch["entity"]), np.nan)
        if not len(there):
            return values
        topics, words = file.words["topic"], file.words["entity"]
        partitions = {key: Partition(topics[key[0]], key[1]) for key in set(zip(batch["topic"].tolist(), batch["partition"].tolist(), strict=True))}
        places = zip(batch["topic"][there].tolist(), batch["partition"][there].tolist(), batch["offset"][there].tolist(), strict=True)
        records = [Record(partitions[topic, number], offset, 0, None, None) for topic, number, offset in places]
        entities = [words[code] for code in batch["entity"][there].tolist()]
        observations = Observations(records, entities, batch["timestamp"][there], _NOTHING, _NOTHING.astype(np.int64))
        evidence = {channel: batch[channel][there] for channel in file.channels}
        done = 0
        for piece, slots in pieces(observations, self._table, self._ttl_us, lambda _, __: None):
            part = slice(done, done + len(slots))
            own = {channel: column[part] for channel, column in evidence.items()}
            values[there[part]] = self._judged(piece, slots, own, sensitivity)
            done += len(slots)
        return values

    def _judged(
        self, piece: Observations, slots: NDArray[np.int64], evidence: dict[str, NDArray[np.float64]], sensitivity: Sensitivity
    ) -> NDArray[np.float64]:
        """[rows of the piece] in log order."""
        import torch

        layout = lay_out(slots)
        rows, host = self._table.gather(layout.slots, self._names), self._table.gather_host(layout.slots)
        profile = np.array([self._rules.profiles.index(piece.entities[position]) for position in layout.order[: len(layout.slots)]], np.int64)
        given = {f"parameter.{name}": torch.from_numpy(by_profile[profile]) for name, by_profile in self._rules.parameters.items()}
        known = {channel: torch.from_numpy(column[layout.order]) for channel, column in evidence.items()}
        count = rows[OBSERVATIONS.name].numpy()[layout.rank] + layout.step + 1
        is_rebuilt = torch.from_numpy(count % self._decode_every == 0)
        fresh = {channel: is_rebuilt if channel == "reconstruction" else ~column.isnan() for channel, column in known.items()}
        rows = {**rows, **given, "slot": torch.from_numpy(layout.slots)}
        verdicts = self._judge.judge(layout, rows, known, fresh)
        host[LAST_SEEN_US.name][layout.rank] = piece.times_us[layout.order]
        self._table.scatter(layout.slots, rows, self._names)
        self._table.scatter_host(layout.slots, host)
        found = np.empty(len(slots))
        found[layout.order] = _held(verdicts, sensitivity, self._judge.judges_in_warmup)
        return found


def _held(verdicts: Verdicts, sensitivity: Sensitivity, judges_in_warmup: bool) -> NDArray[np.float64]:
    """[rows] of verdicts, in their order: what is held against the sensitivity, NaN where a record was not judged."""
    if sensitivity == "z":
        return np.asarray(verdicts.deviations.numpy())
    score = verdicts.anomaly_score.numpy()
    if sensitivity == "level":
        return level_values(verdicts.deviations.numpy(), score)
    is_judged = (judges_in_warmup | (verdicts.phase.numpy() == 1)) & ~np.isnan(score)
    return np.where(is_judged, verdicts.is_anomaly.numpy().astype(np.float64), np.nan)


def under(settings: Settings, method: str) -> Settings:
    """The settings with this method, and without what holds scores back where it does not heed that."""
    threshold = settings.threshold.model_copy(update={"method": method})
    if not threshold.holds_back:
        threshold = threshold.model_copy(update={key: type(threshold).model_fields[key].default for key in threshold.HOLDING})
    return settings.model_copy(update={"threshold": threshold})


def compared(wanted: str | None, own: str) -> Sequence[str]:
    """The methods to compare with the present one."""
    if wanted is None or wanted == own:
        return ()
    return [method for method in COMPARED if method != own] if wanted == "all" else [wanted]
