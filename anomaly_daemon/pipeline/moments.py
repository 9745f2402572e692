"""A batch in its partitions' time: the watermark after each record, the faults of its clock, and who falls silent by it.

All decoded records count, also those of entities that nobody asked for: a replay of some entities then tells the same of them as live did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anomaly_daemon.domain.records import Alert, Observations, Partition, Record
from anomaly_daemon.incidents.alerts import AlertContext
from anomaly_daemon.incidents.notices import notice_alert, silence_notice
from anomaly_daemon.incidents.tracks import Tracks
from anomaly_daemon.pipeline.pieces import runs
from anomaly_daemon.pipeline.quality import Finding, Inspector, Place


@dataclass(frozen=True, slots=True)
class Moments:
    """marks_us: int64 [n], the watermark of its partition after each record. findings: by record, of those whose clock or reading is at fault."""

    marks_us: NDArray[np.int64]
    findings: Mapping[Place, list[Finding]]


def pass_time(observations: Observations, tracks: Mapping[Partition, Tracks], inspector: Inspector) -> Moments:
    """Move the watermarks on over the batch."""
    ahead_us = inspector.ahead_us(observations)
    marks_us = np.empty_like(observations.times_us)
    first = 0
    for partition, end in runs(observations.records):
        here, watermark = slice(first, end), tracks[partition].watermark
        limits_us = [limit for limit in (tracks[partition].silence_us, inspector.late_us) if limit is not None]
        trusted = None if ahead_us is None else ahead_us[here] <= 0
        times_us, entities = observations.times_us[here], observations.entities[here]
        marks_us[here] = watermark.advance(times_us, trusted, entities, min(limits_us, default=None))
        first = end
    return Moments(marks_us, inspector.find(observations, marks_us, ahead_us))


def listen(
    observations: Observations,
    moments: Moments,
    left: Sequence[tuple[Record, str]],
    tracks: Mapping[Partition, Tracks],
    context: AlertContext,
    is_wanted: Callable[[str], bool] | None,
) -> list[Alert]:
    """The alerts of entities that fall silent or return, by partition run and position.

    left: the entities that the table forgot in this batch, each with the record that it made room for.
    """
    alerts: list[Alert] = []
    first = 0
    for partition, end in runs(observations.records):
        here, silence = slice(first, end), tracks[partition].silence
        first = end
        if not silence.is_on:
            continue
        offsets = [record.offset for record in observations.records[here]]
        forgotten = [
            (offsets.index(one.offset), entity) for one, entity in left if one.partition == partition and offsets[0] <= one.offset <= offsets[-1]
        ]
        turns = silence.advance(moments.marks_us[here], offsets, observations.entities[here], forgotten)
        for turn in turns:
            if is_wanted is None or is_wanted(turn.entity):
                notice = silence_notice(turn, offsets[turn.position], context.detector_id, partition)
                alerts.append(notice_alert(notice, context, partition))
    return alerts
