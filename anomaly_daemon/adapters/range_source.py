"""Part of what a source holds, as if it were all there is: what `replay` reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anomaly_daemon.domain.errors import InputError, LogUnavailable
from anomaly_daemon.domain.ports import Clock, Source
from anomaly_daemon.domain.records import Batch, Bounds, ChangeKind, Offset, Partition, Record
from anomaly_daemon.pipeline.time_range import Moment, TimesOf, spelled, timestamps_ms

_FIRST_POLL_S = 0.5
_FIRST_POLLS_MAX = 60
_SLEEP_MAX_S = 0.2


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets of one partition: read from `warm_up`, reported from `start`, up to before `end`; `earliest` is what the log retains."""

    earliest: Offset
    warm_up: Offset
    start: Offset
    end: Offset


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for: None at either end is what the log retains; warm_up None begins where reporting does."""

    start: Moment | None = None
    end: Moment | None = None
    warm_up: Moment | None = None


class RangeSource:
    """A `Source` without a group, over the range alone; nothing is ever committed to the log.

    reported: per partition what stands in place of the committed offset: where reporting begins, moved on by the sink.
    is_from_checkpoint: state may begin at any checkpoint, so everything retained before the range is in reach.
    speed: multiple of real time by the records' time, which times_ms tells; None: flat out.
    is_by_event_time: a moment is an event time, looked for as in a book whose pages are nearly in order, for a log knows only its own stamps.
    Raises InputError where the range is empty, inverted or not retained.
    """

    def __init__(
        self,
        source: Source,
        wanted: Wanted,
        clock: Clock,
        *,
        is_from_checkpoint: bool = False,
        speed: float | None = None,
        times_ms: TimesOf = timestamps_ms,
        is_by_event_time: bool = False,
    ) -> None:
        self._source, self._clock, self._speed, self._times_ms = source, clock, speed, times_ms
        self._is_from_checkpoint = is_from_checkpoint
        self._first: Batch | None = _first_poll(source)
        assigned = [partition for change in self._first.changes for partition in change.partitions]
        self.spans: Mapping[Partition, Span] = _resolve(source, sorted(assigned), wanted, times_ms if is_by_event_time else None)
        self.reported = {partition: span.start for partition, span in self.spans.items()}
        self._held: list[tuple[int, Record]] = []
        self._done: set[Partition] = set()
        self._began: tuple[float, int] | None = None

    def poll(self, timeout_s: float) -> Batch:
        """See Source; at a speed, records come when their time has come, some held back until then."""
        if self._held:
            return Batch(self._due(timeout_s))
        if self._first is not None:
            batch, self._first = self._first, None
            return batch
        batch = self._source.poll(timeout_s)
        records = self._inside(batch.records)
        if self._speed is None or not records:
            return Batch(records, batch.changes)
        self._held = list(zip(self._times_ms(records), records, strict=True))
        return Batch(self._due(timeout_s), batch.changes)

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, Offset]:
        """Up to where is reported."""
        return {partition: self.reported[partition] for partition in partitions}

    def bounds(self, partitions: Sequence[Partition]) -> dict[Partition, Bounds]:
        """Where reading begins, and the range's end."""
        spans = {partition: self.spans[partition] for partition in partitions}
        return {partition: Bounds(span.earliest if self._is_from_checkpoint else span.warm_up, span.end) for partition, span in spans.items()}

    def offsets_at(self, partitions: Sequence[Partition], time_ms: int) -> dict[Partition, Offset]:
        """See Source."""
        return self._source.offsets_at(partitions, time_ms)

    def positions(self) -> dict[Partition, Offset]:
        """See Source; never beyond the range, and not beyond what is held back."""
        held: dict[Partition, Offset] = {}
        for _, record in self._held:
            held.setdefault(record.partition, record.offset)
        return {partition: min(held.get(partition, offset), self.spans[partition].end) for partition, offset in self._source.positions().items()}

    def seek(self, partition: Partition, offset: Offset) -> None:
        """See Source."""
        self._held = [held for held in self._held if held[1].partition != partition]
        self._done.discard(partition)
        self._source.seek(partition, offset)

    def close(self) -> None:
        """See Source."""
        self._source.close()

    def _inside(self, records: Sequence[Record]) -> Sequence[Record]:
        """What lies in the range; a partition read beyond it is read no further."""
        beyond = {partition for partition, offset in self._source.positions().items() if offset > self.spans[partition].end} - self._done
        for partition, bounds in self._source.bounds(sorted(beyond)).items() if beyond else ():
            self._source.seek(partition, bounds.end)
        self._done |= beyond
        if not self._done:
            return records
        return [record for record in records if record.offset < self.spans[record.partition].end]

    def _due(self, timeout_s: float) -> list[Record]:
        """Those held back whose time has come; after waiting, none where that is further off than the timeout."""
        assert self._speed is not None
        now_s = self._clock.monotonic_s()
        if self._began is None:
            self._began = now_s, self._held[0][0]
        began_s, began_ms = self._began
        reached_ms = began_ms + (now_s - began_s) * 1e3 * self._speed
        due = next((place for place, (time_ms, _) in enumerate(self._held) if time_ms > reached_ms), len(self._held))
        if not due:
            ahead_s = (self._held[0][0] - reached_ms) / 1e3 / self._speed
            self._clock.sleep(min(ahead_s, timeout_s, _SLEEP_MAX_S))
        records = [record for _, record in self._held[:due]]
        del self._held[:due]
        return records


def _first_poll(source: Source) -> Batch:
    """What assigns every partition: without a group that is the first thing a source brings."""
    for _ in range(_FIRST_POLLS_MAX):
        batch = source.poll(_FIRST_POLL_S)
        if any(change.kind is ChangeKind.ASSIGNED for change in batch.changes):
            return batch
    raise LogUnavailable(f"the log assigned no partition within {_FIRST_POLL_S * _FIRST_POLLS_MAX:g} s; is it up?")


def _resolve(source: Source, partitions: Sequence[Partition], wanted: Wanted, times_ms: TimesOf | None) -> dict[Partition, Span]:
    retained = source.bounds(partitions)
    starts, ends, warm_ups = (_offsets(source, retained, moment, times_ms) for moment in (wanted.start, wanted.end, wanted.warm_up))
    spans = {}
    for partition in partitions:
        bounds = retained[partition]
        start, end = starts.get(partition, bounds.earliest), ends.get(partition, bounds.end)
        if wanted.start is not None and wanted.start.offset is not None and start < bounds.earliest:
            raise InputError(f"--from {start}: {partition} retains offsets {bounds.earliest} to before {bounds.end}; begin with one of these")
        # A partition that is shorter than others gives what it has.
        end = max(bounds.earliest, min(end, bounds.end))
        start = min(start, end)
        warm_up = min(start, max(bounds.earliest, warm_ups.get(partition, start)))
        spans[partition] = Span(bounds.earliest, warm_up, start, end)
    if not any(span.end > span.start for span in spans.values()):
        kept = ", ".join(f"{partition} {bounds.earliest} to before {bounds.end}" for partition, bounds in list(retained.items())[:4])
        asked = f"from {spelled(wanted.start) or 'the earliest'} to {spelled(wanted.end) or 'the end'}"
        raise InputError(f"no record {asked}; retained offsets: {kept}{' …' if len(retained) > 4 else ''}. Widen --from and --to, or load records")
    return spans


def _offsets(source: Source, retained: Mapping[Partition, Bounds], moment: Moment | None, times_ms: TimesOf | None) -> dict[Partition, Offset]:
    if moment is None:
        return {}
    if moment.offset is not None:
        return dict.fromkeys(retained, moment.offset)
    assert moment.time_us is not None
    time_ms = -(-moment.time_us // 1000)
    if times_ms is None:
        return source.offsets_at(list(retained), time_ms)
    return {partition: _offset_by_event_time(source, partition, bounds, time_ms, times_ms) for partition, bounds in retained.items()}


def _offset_by_event_time(source: Source, partition: Partition, bounds: Bounds, time_ms: int, times_ms: TimesOf) -> Offset:
    """Where event times reach that time, by halving; exact where they rise with the offsets."""
    low, high = bounds.earliest, bounds.end
    while low < high:
        middle = (low + high) // 2
        found = next(((record, time) for record, time in _read_at(source, partition, middle, high, times_ms) if time), None)
        if found is None or found[1] >= time_ms:
            high = middle
        else:
            low = found[0].offset + 1
    source.seek(partition, bounds.end)
    return low


def _read_at(source: Source, partition: Partition, offset: Offset, end: Offset, times_ms: TimesOf) -> list[tuple[Record, int]]:
    """Some records from an offset on, each with its time; none where the log brings none before `end`."""
    source.seek(partition, offset)
    for _ in range(_FIRST_POLLS_MAX):
        records = [one for one in source.poll(_FIRST_POLL_S).records if one.partition == partition and offset <= one.offset < end]
        if records:
            return list(zip(records, times_ms(records), strict=True))
        if source.positions().get(partition, offset) >= end:
            break
    return []
