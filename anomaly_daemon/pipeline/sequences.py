"""A range of the log as one sequence of features per entity: what `train` fits on, read by the service's own stages."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir

import numpy as np
from numpy.typing import NDArray

from anomaly_daemon.domain.columns import LAST_SEEN_US
from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.domain.ports import Source
from anomaly_daemon.domain.records import Observations, Offset, Partition, Reason, Record
from anomaly_daemon.model.corpus import EntitySequence
from anomaly_daemon.pipeline.decode import Decoder
from anomaly_daemon.pipeline.features import FeatureTransforms
from anomaly_daemon.pipeline.time_range import Moment, parse_moment, refuse_inverted
from anomaly_daemon.pipeline.topic_reader import TopicReader
from anomaly_daemon.state.segments import lay_out
from anomaly_daemon.state.table import Table

_ENTITIES_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class Range:
    """From `start` to before `end`: offsets of each partition, or event times; None = open."""

    start_offset: Offset | None = None
    end_offset: Offset | None = None
    start_us: int | None = None
    end_us: int | None = None

    def holds(self, record: Record) -> bool:
        """Whether a record's offset lies in the range."""
        return (self.start_offset is None or record.offset >= self.start_offset) and (self.end_offset is None or record.offset < self.end_offset)


def parse_range(start: str | None, end: str | None) -> Range:
    """A range from what a person typed: offsets or ISO 8601 times. Raises InputError."""
    first, last = parse_moment("--from", start) or Moment(), parse_moment("--to", end) or Moment()
    refuse_inverted(first, last)
    return Range(first.offset, last.offset, first.time_us, last.time_us)


class SequenceReader:
    """Collects features per entity, batch by batch, with the transforms' own state per entity.

    read: observations in the range; outside: those before or after it by event time; rejections: records by why they are none.
    """

    def __init__(self, decoder: Decoder, transforms: FeatureTransforms) -> None:
        self._decoder, self._transforms = decoder, transforms
        columns = (LAST_SEEN_US, *transforms.columns())
        self._table = Table(columns, resident_max=_ENTITIES_MAX, entities_max=_ENTITIES_MAX, device="cpu", spill=Path(gettempdir()))
        self._parts: dict[tuple[str, Partition], list[tuple[NDArray[np.float32], NDArray[np.float64]]]] = {}
        self.read = self.outside = 0
        self.rejections: Counter[Reason] = Counter()

    def add(self, records: list[Record], wanted: Range) -> None:
        """Take what lies in the range; records must come in offset order per partition."""
        observations, rejections = self._decoder.decode([record for record in records if wanted.holds(record)])
        self.rejections.update(rejection.reason for rejection in rejections)
        inside = (observations.times_us >= (wanted.start_us if wanted.start_us is not None else np.iinfo(np.int64).min)) & (
            observations.times_us < (wanted.end_us if wanted.end_us is not None else np.iinfo(np.int64).max)
        )
        places = np.flatnonzero(inside).tolist()
        self.read += len(places)
        self.outside += len(inside) - len(places)
        for partition, group in itertools.groupby(places, key=lambda place: observations.records[place].partition):
            self._add(partition, observations, np.array(list(group)))

    def sequences(self) -> list[EntitySequence]:
        """One per entity and partition, by name: partitions arrive in any order, and the model must not depend on it."""
        return [
            EntitySequence(entity, np.concatenate([values for values, _ in parts]), np.concatenate([gaps for _, gaps in parts]))
            for (entity, _), parts in sorted(self._parts.items())
        ]

    def _add(self, partition: Partition, observations: Observations, places: NDArray[np.int64]) -> None:
        self._table.begin()
        entities = [observations.entities[place] for place in places]
        slots = self._table.admit(partition, entities)
        if len(slots) < len(entities):
            raise InputError(f"more than {_ENTITIES_MAX} entities in {partition}: train on fewer, with --entities or a shorter range")
        layout = lay_out(slots)
        order = places[layout.order]
        host = self._table.gather_host(layout.slots)
        times_us = observations.times_us[order]
        values, gaps_s = self._transforms.transform(layout, times_us, observations.readings[order], observations.categories[order], host)
        host[LAST_SEEN_US.name][layout.rank] = times_us
        self._table.scatter_host(layout.slots, host)
        by_entity = np.argsort(layout.rank, kind="stable")
        edges = np.cumsum(np.bincount(layout.rank))[:-1]
        for rank, rows in enumerate(np.split(by_entity, edges)):
            entity = observations.entities[order[rank]]
            self._parts.setdefault((entity, partition), []).append((values[rows], gaps_s[rows]))


def read_sequences(source: Source, reader: SequenceReader, wanted: Range, progress: Callable[[int, int], None]) -> list[EntitySequence]:
    """Read every partition of a source without a group from its start to where it ends now.

    progress: called with (records read, offsets to read). Raises InputError when there is nothing in the range, LogUnavailable.
    """
    topic, read = TopicReader(source, wanted.start_offset or 0, wanted.end_offset), 0
    for records in topic.to_end():
        read += len(records)
        progress(read, topic.total)
        reader.add(records, wanted)
    sequences = reader.sequences()
    if not sequences:
        raise InputError(f"no usable record in the range: {_why_none(reader, topic.total)}")
    return sequences


def _why_none(reader: SequenceReader, records: int) -> str:
    """Where the records went, and what to look at."""
    if not records:
        return "it holds no record at all; check --from, --to and the topic"
    reasons = ", ".join(f"{count} {reason.value}" for reason, count in reader.rejections.most_common())
    remedy = "check the `record` settings against a record" if reader.rejections else "check --from and --to"
    return f"{reader.outside} before or after it, {reader.rejections.total()} rejected{f' ({reasons})' if reasons else ''}; {remedy}"
