"""One batch, from records to its output: decode, admit, transform, observe, judge, turn incidents, write alerts.

Deterministic and free of effects outside its own state: what comes out depends on the settings, the artifact and the
log's prefix per partition. There is no undo: a batch whose commit fails is undone by recovering from the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from anomaly_daemon.channels.models import Models
from anomaly_daemon.domain.columns import FROZEN, LAST_SEEN_US, OBSERVATIONS, RESTARTED, Column
from anomaly_daemon.domain.records import (
    Alert,
    Batch,
    BatchOutput,
    Checkpoint,
    Message,
    Observations,
    Offset,
    Partition,
    Record,
    Rejection,
    ScoredBatch,
    Scores,
)
from anomaly_daemon.incidents.alerts import AlertContext, alert_message
from anomaly_daemon.incidents.tracks import Tracks
from anomaly_daemon.pipeline.announce import Announcer, MicroBatch
from anomaly_daemon.pipeline.budget import Budgets
from anomaly_daemon.pipeline.dead_letters import dead_letter_message
from anomaly_daemon.pipeline.decode import Decoder
from anomaly_daemon.pipeline.features import FeatureTransforms
from anomaly_daemon.pipeline.moments import listen, pass_time
from anomaly_daemon.pipeline.pieces import at, next_offsets, only, pieces
from anomaly_daemon.pipeline.portion import Portion, undone_by_recovery
from anomaly_daemon.pipeline.quality import Finding, Inspector, Place, inspect
from anomaly_daemon.pipeline.rules import Rules, governed
from anomaly_daemon.pipeline.scored import in_order, joined, scores_of
from anomaly_daemon.state.segments import Layout, lay_out
from anomaly_daemon.state.snapshot import Snapshot
from anomaly_daemon.state.table import HostRows, Rows, Table
from anomaly_daemon.thresholds.judge import MODEL, Judge

RECENT = Column("recent", "int64", is_host=True)


def pipeline_columns(transforms: FeatureTransforms, models: Models, judge: Judge, inspector: Inspector) -> tuple[Column, ...]:
    """All that is kept per entity, each by whoever needs it."""
    return (OBSERVATIONS, LAST_SEEN_US, RECENT, *transforms.columns(), *models.columns, *judge.columns(), *inspector.columns())


@dataclass(frozen=True, slots=True)
class Settled:
    """What a piece came to. opened: of each incident of readings that opened, its partition. incident_ids: by record, None outside of any."""

    scores: Scores
    alerts: list[Alert]
    opened: list[Partition]
    incident_ids: list[str | None]


@dataclass(frozen=True, slots=True)
class Stages:
    """What a batch passes through, in order."""

    decoder: Decoder
    transforms: FeatureTransforms
    table: Table
    models: Models
    judge: Judge
    inspector: Inspector


class Processor:
    """The state of every partition at hand, and the one function that advances it."""

    def __init__(
        self,
        stages: Stages,
        rules: Rules,
        context: AlertContext,
        *,
        alerts_topic: str,
        dead_letter_topic: str,
        dead_letter_bytes_max: int,
        entity_ttl_s: float,
        window_points: int,
        now_us: Callable[[], int] | None = None,
        is_wanted: Callable[[str], bool] | None = None,
    ) -> None:
        """is_wanted: the entities that are judged; the records of others are dropped. None: all."""
        self._stages, self._rules = stages, rules
        self._announcer = Announcer(
            stages.models, stages.transforms.told, stages.judge.channels, context, window_points, stages.judge.judges_in_warmup
        )
        self._alerts_topic, self._dead_letter_topic, self._dead_letter_bytes_max = alerts_topic, dead_letter_topic, dead_letter_bytes_max
        self._ttl_us, self._now_us = int(entity_ttl_s * 1e6), now_us
        self._forgotten = self._suppressed = 0
        self._is_wanted = is_wanted
        self.dropped_entity: str | None = None
        self._tracks: dict[Partition, Tracks] = {}
        self._budgets = Budgets()
        self.portion = Portion()
        self._rules_of: dict[Partition, Rules] = {}
        self._left: list[tuple[Record, str]] = []
        self._gathered = (OBSERVATIONS.name, *stages.models.gathered, *(column.name for column in stages.judge.columns()))

    @property
    def table(self) -> Table:
        """Where the entities are."""
        return self._stages.table

    @property
    def channels(self) -> tuple[str, ...]:
        """The evidence of every score, in the order of its columns."""
        return self._stages.judge.channels

    @property
    def incidents_open(self) -> int:
        """Incidents open over all partitions."""
        return sum(tracks.open_count for tracks in self._tracks.values())

    @property
    def budget_z(self) -> float | None:
        """The z at which alerts per day are met now, mean over the partitions; None where none has a budget."""
        return self._budgets.z

    def take_counts(self) -> tuple[int, int]:
        """Entities forgotten for want of room, and incidents that a cooldown kept from opening, since the last call."""
        suppressed = sum(tracks.suppressed_total for tracks in self._tracks.values())
        counts = self._forgotten, max(0, suppressed - self._suppressed)
        self._forgotten, self._suppressed = 0, suppressed
        return counts

    def take_shortages(self) -> int:
        """How often since the last call the device had no memory for a micro-batch, or for more entities."""
        return self.portion.take_halved() + self._stages.table.take_refused()

    def process(self, batch: Batch, emit_from: Mapping[Partition, Offset]) -> BatchOutput:
        """Advance the state over the batch and collect its effects.

        emit_from: per partition, the committed offset; records before it are processed for their state only.
        """
        everyone, rejections = self._stages.decoder.decode(batch.records)
        ends = next_offsets(batch.records)
        for partition in ends:  # only now, for between its restoring and its next record a partition may change rules
            rules = self._rules_of[partition]
            self._budgets.allow(partition, rules.alerts_per_day, float(rules.parameters["z"][0]))
        moments = pass_time(everyone, self._tracks, self._stages.inspector)
        observations = everyone
        dropped: list[Record] = []
        if self._is_wanted is not None:
            observations, others = only(everyone, self._is_wanted)
            dropped = others.records
            self.dropped_entity = others.entities[0] if others.entities else self.dropped_entity
        alerts: list[Alert] = []
        incident_ids: list[str | None] = []
        scores: list[Scores] = []
        self._left.clear()
        for whole, whole_slots in pieces(observations, self._stages.table, self._ttl_us, self._forget):
            for piece, slots in self._budgets.steps(whole, whole_slots):
                settled = self._settle(piece, slots, moments.findings, emit_from)
                self._budgets.count(piece, settled.scores, settled.opened)
                scores.append(settled.scores)
                alerts += settled.alerts
                incident_ids += settled.incident_ids
        alerts += listen(everyone, moments, self._left, self._tracks, self._announcer.context, self._is_wanted)
        alerts.sort(key=lambda alert: (alert.partition, alert.offset))
        self.portion.grow()

        def is_new(partition: Partition, offset: Offset) -> bool:
            return offset >= emit_from.get(partition, 0)

        announced = tuple(alert for alert in alerts if is_new(alert.partition, alert.offset))
        refused = tuple(one for one in rejections if is_new(one.record.partition, one.record.offset))
        return BatchOutput(
            messages=self._messages(announced, refused),
            next_offsets={partition: offset for partition, offset in ends.items() if offset > emit_from.get(partition, 0)},
            lease=batch.lease,
            alerts=announced,
            rejections=refused,
            scored=ScoredBatch(observations, joined(scores, self.channels), incident_ids, tuple(rejections), dropped),
        )

    def begin(self, partition: Partition) -> None:
        """Start a partition from nothing."""
        self.drop(partition)
        self._rules_of[partition] = self._rules
        detector_id, rules = self._announcer.context.detector_id, self._rules
        self._tracks[partition] = Tracks(detector_id, partition, rules.profiles, rules.incidents, rules.regimes, self._ttl_us)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Start a partition from a checkpoint. Raises CheckpointInvalid when it does not fit, or its incidents or its budget cannot be read."""
        self._stages.table.check(checkpoint)
        self.begin(checkpoint.partition)
        self._tracks[checkpoint.partition].restore(checkpoint.incidents, checkpoint.watermark_us)
        self._budgets.restore(checkpoint.partition, checkpoint.budget)
        self._stages.table.install(checkpoint.partition, checkpoint.entities, checkpoint.columns)

    def drop(self, partition: Partition) -> None:
        """Let go of a partition's state."""
        self._stages.table.drop(partition)
        self._tracks.pop(partition, None)
        self._budgets.drop(partition)
        self._rules_of.pop(partition, None)

    def snapshot(self, partition: Partition, offset: Offset, fingerprint: str) -> Checkpoint:
        """A copy of a partition's state, true after every record before `offset`."""
        checkpoint, rows = self.open_snapshot(partition, offset, fingerprint)
        rows.copy(len(rows.entities))
        self.close_snapshot(partition)
        return checkpoint

    def open_snapshot(self, partition: Partition, offset: Offset, fingerprint: str) -> tuple[Checkpoint, Snapshot]:
        """The same, its columns to be filled by copying the snapshot's rows while batches go on; then `close_snapshot`."""
        rows, tracks, budget = self._stages.table.open_snapshot(partition), self._tracks[partition], self._budgets.to_bytes(partition)
        return Checkpoint(partition, offset, fingerprint, rows.entities, rows.columns, tracks.to_bytes(), tracks.watermark.time_us, budget), rows

    def close_snapshot(self, partition: Partition) -> None:
        """The partition's snapshot is whole, or no longer wanted."""
        self._stages.table.close_snapshot(partition)

    def govern(self, partition: Partition, rules: Rules) -> None:
        """Go on with a partition under these rules; recurrent state and learned statistics stay as they are."""
        self._rules_of[partition] = rules
        self._tracks[partition].take_rules(rules.profiles, rules.incidents, rules.regimes)

    def apply(self, rules: Rules, context: AlertContext, window_points: int) -> None:
        """What alerts say of the detector from now on, and the rules of partitions that come; `govern` tells those at hand."""
        self._rules = rules
        self._announcer = replace(self._announcer, context=context, window_points=window_points)

    def close(self) -> None:
        """Let go of the spill file."""
        self._stages.table.close()

    def _forget(self, newcomer: Record, entity: str) -> None:
        self._tracks[newcomer.partition].forget(entity)
        self._left.append((newcomer, entity))
        self._forgotten += 1

    def _settle(
        self, piece: Observations, slots: NDArray[np.int64], findings_at: Mapping[Place, list[Finding]], emit_from: Mapping[Partition, Offset]
    ) -> Settled:
        """A piece in one micro-batch, or in more where a lasting change is decided on: what that does to an entity begins with its next record.

        Which record decides is known only once the piece is judged, so it is judged again without those that must wait; nobody else notices.
        In more, too, where the device has not the memory for so many records at once.
        """
        done: list[Settled] = []
        order: list[NDArray[np.int64]] = []
        todo = np.arange(len(slots))
        while len(todo):
            now = todo[: self.portion.rows_max]
            try:
                while True:
                    part = piece if len(now) == len(slots) else at(piece, now.tolist())
                    found = self._advance(part, slots[now], findings_at, emit_from)
                    if not isinstance(found, list):
                        break
                    now = np.delete(now, found)
            except torch.OutOfMemoryError as error:  # no column of the table has changed yet; estimators beside it may have learned
                self.portion.halve(len(now), error)
                if not self._stages.judge.is_checkpointable:
                    raise
                continue
            done.append(found)
            order.append(now)
            todo = np.setdiff1d(todo, now, assume_unique=True)
        if len(done) == 1:
            return done[0]
        back = np.argsort(np.concatenate(order))
        ids = [incident_id for part in done for incident_id in part.incident_ids]
        return Settled(
            in_order(joined([part.scores for part in done], self.channels), back),
            sorted((alert for part in done for alert in part.alerts), key=lambda alert: (alert.partition, alert.offset)),
            [partition for part in done for partition in part.opened],
            [ids[place] for place in back.tolist()],
        )

    def _advance(
        self, observations: Observations, slots: NDArray[np.int64], findings_at: Mapping[Place, list[Finding]], emit_from: Mapping[Partition, Offset]
    ) -> Settled | list[int]:
        """One micro-batch: every stage once, in order. Or the places of records that must wait for what a change does.

        Nothing has changed then, nor where the device runs out of memory (torch.OutOfMemoryError). Raises NoRoom where it does so later.
        """
        stages = self._stages
        table, layout = stages.table, lay_out(slots)
        rows, host = table.gather(layout.slots, self._gathered), table.gather_host(layout.slots)
        entities = [observations.entities[position] for position in layout.order[: len(layout.slots)]]
        owners = [observations.records[position].partition for position in layout.order[: len(layout.slots)]]
        profile, parameters = governed(self._rules_of, owners, entities)
        parameters["z"] = parameters["z"] * self._budgets.factors(owners)
        for name, parameter in parameters.items():
            rows[f"parameter.{name}"] = torch.from_numpy(parameter).to(rows[OBSERVATIONS.name].device)
        rows["slot"] = torch.from_numpy(layout.slots)
        if any(tracks.readings.regimes.by_entity for tracks in self._tracks.values()):
            known = [(self._tracks[owner].readings.regimes, entity) for owner, entity in zip(owners, entities, strict=True)]
            device = rows[OBSERVATIONS.name].device
            rows[FROZEN] = torch.tensor([one.is_frozen(entity) for one, entity in known]).to(device)
            rows[RESTARTED] = torch.tensor([one.is_restarted(entity) for one, entity in known]).to(device)
        times_us = observations.times_us[layout.order]
        values, gaps_s = stages.transforms.transform(
            layout, times_us, observations.readings[layout.order], observations.categories[layout.order], host
        )
        model = stages.models.of(entities)
        observed = stages.models.observe(model, layout, rows, table, values, gaps_s)
        rows[MODEL] = torch.from_numpy(model).to(rows[OBSERVATIONS.name].device)
        verdicts = stages.judge.judge(layout, rows, observed.error, observed.fresh)
        stuck = stages.inspector.stuck(layout, times_us, observations.readings, rows[OBSERVATIONS.name], host)
        _note_last_seen(layout, times_us, host)
        micro = MicroBatch(observations, layout, entities, owners, profile, host[RECENT.name], observed, verdicts)
        with undone_by_recovery():
            return self._conclude(micro, rows, host, stuck, findings_at, emit_from)

    def _conclude(
        self,
        micro: MicroBatch,
        rows: Rows,
        host: HostRows,
        stuck: Mapping[int, list[Finding]],
        findings_at: Mapping[Place, list[Finding]],
        emit_from: Mapping[Partition, Offset],
    ) -> Settled | list[int]:
        """What a judged micro-batch leads to: incidents, alerts, and its rows in the table. Or the places of those that must wait, and no change."""
        table, layout = self._stages.table, micro.layout
        machines = {partition: tracks.readings for partition, tracks in self._tracks.items()}
        announced = self._announcer.announce(micro, machines, emit_from)
        if announced.waiting:
            return announced.waiting
        alerts = announced.alerts + inspect(micro, findings_at, stuck, self._tracks, self._announcer.context)
        self._stages.models.remember(micro.observed)
        table.scatter(layout.slots, rows, self._gathered)
        table.scatter_host(layout.slots, host)
        table.reset(layout.slots[announced.restarted])
        return Settled(scores_of(layout, micro.observed, micro.verdicts), alerts, announced.opened, announced.incident_ids)

    def _messages(self, alerts: Sequence[Alert], rejections: Sequence[Rejection]) -> tuple[Message, ...]:
        now_us = self._now_us() if self._now_us is not None and alerts else None
        return (
            *(alert_message(alert, self._alerts_topic, now_us) for alert in alerts),
            *(dead_letter_message(rejection, self._dead_letter_topic, self._dead_letter_bytes_max) for rejection in rejections),
        )


def _note_last_seen(layout: Layout, times_us: NDArray[np.int64], host: dict[str, NDArray[np.int64]]) -> None:
    """The event time of each entity's last row becomes its last seen."""
    last_seen = host[LAST_SEEN_US.name]
    last_seen[layout.rank] = times_us  # rows of an entity stand in order: its last one wins
