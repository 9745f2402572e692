"""Faults of records as records: a clock that is ahead, records that come late, readings that cannot be or stand still.

A record at fault is judged like any other; its faults go through trigger, recovery and cooldown on a track of their own.
A reading that no double can hold is no observation at all: it is a dead letter, and no fault of its entity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from anomaly_daemon.domain.columns import Column
from anomaly_daemon.domain.records import Alert, Fault, FeatureReading, Observations, Offset, Partition, Record, Transition
from anomaly_daemon.incidents.alerts import AlertContext, rfc3339
from anomaly_daemon.incidents.incident import Judged, Turn
from anomaly_daemon.incidents.notices import GRADE, Notice, notice_alert
from anomaly_daemon.incidents.tracks import Tracks
from anomaly_daemon.incidents.wording import lasting, spoken
from anomaly_daemon.pipeline.announce import MicroBatch
from anomaly_daemon.pipeline.fields import number_features
from anomaly_daemon.pipeline.stuck import Stuck
from anomaly_daemon.settings import Quality, RecordSchema
from anomaly_daemon.state.segments import Layout
from anomaly_daemon.state.table import HostRows

Place = tuple[Partition, Offset]
_STUCK_KINDS: Final = ("number", "asinh", "log")
_OVER: Final = {
    Fault.CLOCK_SKEW: "its clock is right again",
    Fault.LATE: "its records come in time again",
    Fault.STUCK: "its readings move again",
    Fault.OUT_OF_RANGE: "its readings are possible again",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault of one record. feature, actual, lower, upper: of the reading at fault, None where it is the clock's."""

    fault: Fault
    words: str
    feature: str | None = None
    actual: float | None = None
    lower: float | None = None
    upper: float | None = None


class Inspector:
    """Looks for faults, as the settings say."""

    def __init__(self, quality: Quality, record: RecordSchema, warmup_observations: int) -> None:
        features = number_features(record)
        self._names = [feature.name for feature in features]
        limits = [(-np.inf, np.inf) if feature.possible is None else feature.possible for feature in features]
        self._lower, self._upper = (np.array([limit[side] for limit in limits], np.float64) for side in (0, 1))
        self._is_bounded = any(feature.possible is not None for feature in features)
        has_clock = record.time.path is not None
        self._clock_ahead_us = None if quality.clock_ahead is None or not has_clock else round(quality.clock_ahead * 1e6)
        self.late_us = None if quality.late is None else round(quality.late * 1e6)
        watched = [place for place, one in enumerate(features) if one.kind in _STUCK_KINDS and not one.context]
        self._stuck = None if quality.stuck_after is None or not watched else Stuck(round(quality.stuck_after * 1e6), watched, warmup_observations)

    def columns(self) -> tuple[Column, ...]:
        """What is kept per entity."""
        return () if self._stuck is None else self._stuck.columns()

    def ahead_us(self, observations: Observations) -> NDArray[np.int64] | None:
        """[n] how far each event time is ahead of the record's own timestamp beyond what is allowed, above 0 where it is; None: not watched."""
        if self._clock_ahead_us is None:
            return None
        stamps_us = np.array([record.timestamp_ms for record in observations.records], np.int64) * 1000
        return np.where(stamps_us > 0, observations.times_us - stamps_us - self._clock_ahead_us, 0)

    def find(self, observations: Observations, marks_us: NDArray[np.int64], ahead_us: NDArray[np.int64] | None) -> dict[Place, list[Finding]]:
        """The faults of clocks and of impossible readings. marks_us: [n] the watermark after each record."""
        found: dict[Place, list[Finding]] = {}

        def add(position: int, finding: Finding) -> None:
            record = observations.records[position]
            found.setdefault((record.partition, record.offset), []).append(finding)

        if ahead_us is not None and (ahead_us > 0).any():
            for position in np.flatnonzero(ahead_us > 0).tolist():
                ahead = spoken(int(ahead_us[position]) + (self._clock_ahead_us or 0))
                add(position, Finding(Fault.CLOCK_SKEW, f"its clock is {ahead} ahead"))
        if self.late_us is not None:
            for position in np.flatnonzero(marks_us > observations.times_us + self.late_us).tolist():
                behind = spoken(int(marks_us[position] - observations.times_us[position]))
                add(position, Finding(Fault.LATE, f"its records come {behind} late"))
        if self._is_bounded:
            readings = observations.readings
            for position, column in np.argwhere((readings < self._lower) | (readings > self._upper)).tolist():
                name, reading = self._names[column], float(readings[position, column])
                lower, upper = float(self._lower[column]), float(self._upper[column])
                words = f"{name} {reading:.4g} cannot be: it lies outside {lower:g} to {upper:g}"
                add(position, Finding(Fault.OUT_OF_RANGE, words, name, reading, lower, upper))
        return found

    def stuck(
        self, layout: Layout, times_us: NDArray[np.int64], readings: NDArray[np.float64], observations: Tensor, host: HostRows
    ) -> dict[int, list[Finding]]:
        """Readings that stand still, by the observation's place in the micro-batch.

        times_us: in the order of the layout; readings: in log order. observations: [B], of each entity before this micro-batch.
        """
        if self._stuck is None:
            return {}
        found: dict[int, list[Finding]] = {}
        seen = observations.cpu().numpy()[layout.rank] + layout.step
        for row, column, since_us in self._stuck.find(layout, times_us, readings[layout.order], seen, host):
            name, position = self._names[column], int(layout.order[row])
            reading = float(readings[position, column])
            words = f"{name} stands at {reading:.6g} since {rfc3339(since_us)} ({spoken(int(times_us[row]) - since_us)})"
            found.setdefault(position, []).append(Finding(Fault.STUCK, words, name, reading))
        return found


def inspect(
    micro: MicroBatch,
    findings_at: Mapping[Place, list[Finding]],
    stuck: Mapping[int, list[Finding]],
    tracks: Mapping[Partition, Tracks],
    context: AlertContext,
) -> list[Alert]:
    """Advance the quality track over a micro-batch; its alerts by entity."""
    if not findings_at and not stuck and all(one.is_quality_calm for one in tracks.values()):
        return []
    layout, records = micro.layout, micro.observations.records
    by_position = {
        position: found
        for position, record in enumerate(records)
        if (found := [*findings_at.get((record.partition, record.offset), ()), *stuck.get(position, ())])
    }
    faulty = {micro.observations.entities[position] for position in by_position}
    alerts: list[Alert] = []
    for rank, (owner, entity) in enumerate(zip(micro.owners, micro.entities, strict=True)):
        if entity not in faulty and not tracks[owner].is_at_fault(entity):
            continue
        rows = (layout.starts[: np.count_nonzero(layout.widths > rank)] + rank).tolist()
        positions = layout.order[rows].tolist()
        seen = [_judged(records[one], int(micro.observations.times_us[one]), by_position.get(one, ())) for one in positions]
        found_at = {records[one].offset: by_position.get(one, []) for one in positions}
        turns = tracks[owner].advance_quality(entity, int(micro.profile[rank]), seen).turns
        alerts += [notice_alert(_notice(turn, found_at[turn.at.offset]), context, owner) for turn in turns]
    return alerts


def _judged(record: Record, time_us: int, findings: Sequence[Finding]) -> Judged:
    faults = tuple(dict.fromkeys(one.fault for one in findings))
    return Judged(record.offset, time_us, bool(faults), True, 0.0, 1.0, 0.0, GRADE if faults else 0.0, faults=faults)


def _notice(turn: Turn, findings: Sequence[Finding]) -> Notice:
    """What a turn of the quality track says; a close's own record is without fault."""
    is_closed = turn.transition is Transition.CLOSED
    words = [_OVER[fault] for fault in turn.faults] if is_closed else [one.words for one in findings]
    readings = [one for one in findings if one.feature is not None]
    features = tuple(
        FeatureReading(one.feature or "", one.actual, None, _bound(one.lower), _bound(one.upper), 1 / len(readings), imputed=False)
        for one in readings
    )
    faults, counted = ", ".join(fault.value for fault in turn.faults), f"{turn.anomalies} of {turn.observations} records"
    reasons = [f"{faults}: {counted}"]
    if turn.ends_at_us is not None:
        words = [f"{'; '.join(words)} after {counted} at fault"]
        reasons = [f"{reasons[0]}, {lasting(turn.starts_at_us, turn.ends_at_us, rfc3339(turn.starts_at_us))}"]
        reasons.append(f"closed because {turn.recovery} records are without fault (incidents.recovery)")
    return Notice(
        transition=turn.transition,
        kind="data_quality",
        track="quality",
        incident_id=turn.incident_id,
        sequence=turn.sequence,
        entity=turn.entity,
        offset=turn.at.offset,
        time_us=turn.at.time_us,
        since_us=turn.since_us,
        starts_at_us=turn.starts_at_us,
        ends_at_us=turn.ends_at_us,
        first_offset=turn.first_offset,
        last_offset=turn.last_offset,
        observations=turn.observations,
        message=f"{turn.entity}: {'; '.join(words)}.",
        reasons=tuple(reasons),
        features=features,
        suppressed=turn.suppressed,
        suppression_rule=turn.suppression_rule,
    )


def _bound(limit: float | None) -> float | None:
    return limit if limit is not None and np.isfinite(limit) else None
