"""A source without a group, read to where it ends and on from there: by `train`, `dump`, `incidents` and `diff`."""

from __future__ import annotations

from collections.abc import Iterator

from anomaly_daemon.domain.errors import LogUnavailable
from anomaly_daemon.domain.ports import Source
from anomaly_daemon.domain.records import ChangeKind, Offset, Partition, Record

POLL_S = 0.5
# A log that brings nothing for this many polls before its end is told, not waited for.
SILENT_POLLS_MAX = 60


class TopicReader:
    """Every record of a source's partitions with first ≤ offset < end that is retained, once each, in the order they come.

    total: how many offsets there are to the end; of partitions that have come.
    """

    def __init__(self, source: Source, first: Offset = 0, end: Offset | None = None) -> None:
        self._source, self._first, self._end = source, first, end
        self._next: dict[Partition, Offset] = {}
        self._ends: dict[Partition, Offset] = {}
        self._later: list[Record] = []
        self._silent_polls = self.total = 0

    def poll(self) -> list[Record]:
        """What comes within one poll. A partition that the source lost and found again goes on where it was."""
        batch = self._source.poll(POLL_S)
        for record in batch.records:
            self._next[record.partition] = record.offset + 1
        assigned = [partition for change in batch.changes if change.kind is ChangeKind.ASSIGNED for partition in change.partitions]
        for partition, bounds in self._source.bounds(assigned).items() if assigned else ():
            start = max(bounds.earliest, self._first, self._next.get(partition, 0))
            if partition not in self._ends:
                self._ends[partition] = max(start, bounds.end if self._end is None else min(bounds.end, self._end))
                self.total += self._ends[partition] - start
            self._next[partition] = start
            self._source.seek(partition, start)
        self._silent_polls = 0 if batch.records or batch.changes else self._silent_polls + 1
        records, self._later = [*self._later, *batch.records], []
        return [record for record in records if self._end is None or record.offset < self._end]

    def to_end(self) -> Iterator[list[Record]]:
        """What comes, poll by poll, up to where the partitions ended when they came. Raises LogUnavailable when the log falls silent before."""
        while self._silent_polls < SILENT_POLLS_MAX:
            records = self.poll()
            self._later = [record for record in records if record.offset >= self._ends[record.partition]]
            yield [record for record in records if record.offset < self._ends[record.partition]]
            positions = self._source.positions()
            if self._ends and all(positions.get(partition, 0) >= end for partition, end in self._ends.items()):
                return
        raise LogUnavailable(
            f"the log brought nothing for {SILENT_POLLS_MAX * POLL_S:g} s before the end of the topic; look whether it is up, and ask again"
        )
