"""Who has fallen silent: an entity is once its partition's watermark has moved on too far since its last record.

Everything is told in the watermark's time, so an entity whose clock is behind, or whose records come late, is heard when it comes. Whoever
was heard longest ago is due first, so the entities wait in a queue and nothing is looked at but its front; one that is silent has left it.
Memory: an entry for each entity that the partition remembers, in memory whether its state is spilled or not; whoever forgets one says so.
"""

from __future__ import annotations

import bisect
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from anomaly_daemon.domain.records import Offset
from anomaly_daemon.incidents.watermark import UNKNOWN_US

Event = Literal["silent", "returned", "expired", "forgotten"]
_NEVER_US: Final = 1 << 62


class Heard(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The last record of an entity: the watermark after it, and its offset."""

    time_us: int
    offset: Offset


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """What a checkpoint keeps of an entity."""

    entity: str
    heard: Heard
    is_silent: bool


@dataclass(frozen=True, slots=True)
class SilenceTurn:
    """An entity falls silent, or its silence is over.

    position: of the record at which it is known. now_us: the watermark after that record. heard: the entity's last record before.
    event:    expired: silent for the entity's time to live; forgotten: to make room for others. Neither is expected any more.
    """

    event: Event
    entity: str
    position: int
    now_us: int
    heard: Heard


@dataclass(slots=True)
class _Queue:
    """The entities that may be silent for equally long, each half in the order in which they were last heard. after_us None: for ever."""

    after_us: int | None
    waiting: OrderedDict[str, Heard] = field(default_factory=OrderedDict)
    silent: OrderedDict[str, Heard] = field(default_factory=OrderedDict)

    @property
    def limit_us(self) -> int:
        return _NEVER_US if self.after_us is None else self.after_us


class Silence:
    """Who is waited for, and who is silent, on one partition."""

    def __init__(self, ttl_us: int, limits_us: Sequence[int | None], profile_of: Callable[[str], int]) -> None:
        """limits_us: by profile, None where nobody is waited for. ttl_us: who is silent for longer is not expected any more."""
        self._ttl_us = ttl_us
        self._queues: dict[int | None, _Queue] = {}
        self.take_rules(limits_us, profile_of)

    @property
    def open_count(self) -> int:
        """Entities silent now."""
        return sum(len(queue.silent) for queue in self._queues.values())

    @property
    def is_on(self) -> bool:
        """Whether anybody is waited for, or silent still."""
        return self._limits_us != (None,) or self.open_count > 0

    def take_rules(self, limits_us: Sequence[int | None], profile_of: Callable[[str], int]) -> None:
        """Other limits from the next record on. Who is silent stays so until it returns; who was not waited for is from its next record on."""
        entries = self.entries()
        self._limits_us, self._profile_of = tuple(limits_us), profile_of
        self._queues = {limit_us: _Queue(limit_us) for limit_us in limits_us}
        self.restore(entries)

    def entries(self) -> list[Entry]:
        """The state, in the order of the last records."""
        found = [
            Entry(entity, heard, is_silent)
            for queue in self._queues.values()
            for is_silent, half in ((False, queue.waiting), (True, queue.silent))
            for entity, heard in half.items()
        ]
        return sorted(found, key=lambda entry: entry.heard.offset)

    def restore(self, entries: Iterable[Entry]) -> None:
        """Take over what `entries` gave."""
        for queue in self._queues.values():
            queue.waiting.clear()
            queue.silent.clear()
        for entry in entries:
            self._put(entry.entity, entry.heard, is_silent=entry.is_silent)

    def advance(
        self, marks_us: NDArray[np.int64], offsets: Sequence[Offset], entities: Sequence[str], forgotten: Sequence[tuple[int, str]]
    ) -> list[SilenceTurn]:
        """Take the next records of the partition, in log order; what they make known, by position.

        marks_us: int64 [n], the watermark after each. forgotten: position and entity, before the record at that position.
        """
        unknown = int(np.searchsorted(marks_us, UNKNOWN_US, side="right"))
        if unknown:  # nobody is waited for before the watermark is known
            later = [(max(position - unknown, 0), entity) for position, entity in forgotten]
            turns = self.advance(marks_us[unknown:], offsets[unknown:], entities[unknown:], later)
            return [replace(turn, position=turn.position + unknown) for turn in turns]
        if not len(marks_us):
            return []
        last = dict(zip(entities, range(len(entities)), strict=True))
        events = self._concerned(marks_us, entities, last, forgotten)
        marks = marks_us.tolist()
        ends = [(Heard(marks[position], offsets[position]), entity, False) for entity, position in _by_last(last) if entity not in events]
        found: list[SilenceTurn] = []
        for entity, happened in events.items():
            heard, is_silent = self._take(entity)
            turns, heard, is_silent = self._walk(entity, heard, is_silent, happened, marks, offsets)
            found += turns
            if heard is not None:
                ends.append((heard, entity, is_silent))
        if events:
            ends.sort(key=lambda end: end[0].offset)
        for heard, entity, is_silent in ends:
            self._put(entity, heard, is_silent=is_silent)
        return sorted(found, key=lambda turn: (turn.position, turn.heard.offset))

    def _concerned(
        self, marks_us: NDArray[np.int64], entities: Sequence[str], last: Mapping[str, int], forgotten: Sequence[tuple[int, str]]
    ) -> dict[str, list[tuple[int, bool]]]:
        """The entities that more happens to than being heard in time: positions at which each is heard (True) or forgotten (False), rising."""
        end_us = int(marks_us[-1])
        due: set[str] = set()
        is_close = False
        for queue in self._queues.values():
            waited = set(_until(queue.waiting, end_us - queue.limit_us))
            is_close = is_close or not waited.isdisjoint(last) or end_us - int(marks_us[0]) > queue.limit_us
            due |= waited - last.keys()
            due |= queue.silent.keys() & last.keys()
            due.update(_until(queue.silent, end_us - self._ttl_us))
        if is_close:
            due |= self._gapped(marks_us, entities, last)
        events: dict[str, list[tuple[int, bool]]] = {entity: [] for entity in due}
        for position, entity in forgotten:
            events.setdefault(entity, []).append((position, False))
        if not events.keys().isdisjoint(last):
            for position, entity in enumerate(entities):
                if entity in events:
                    events[entity].append((position, True))
        return {entity: sorted(happened) for entity, happened in events.items()}

    def _gapped(self, marks_us: NDArray[np.int64], entities: Sequence[str], last: Mapping[str, int]) -> set[str]:
        """Of the entities heard in the run, those that are silent somewhere in it."""
        codes = {entity: code for code, entity in enumerate(last)}
        code = np.fromiter(map(codes.__getitem__, entities), np.int64, len(entities))
        queues = [self._queue_of(entity) for entity in last]
        limit_us = np.array([queue.limit_us for queue in queues])
        position = np.argsort(code, kind="stable")
        owner = code[position]
        heard_us = marks_us[position]
        is_first = np.diff(owner, prepend=-1) != 0
        own_us = heard_us[is_first].tolist()
        before_us = np.roll(heard_us, 1)
        before_us[is_first] = [
            queue.waiting[one].time_us if one in queue.waiting else own for queue, one, own in zip(queues, last, own_us, strict=True)
        ]
        now_us = np.where(position > 0, marks_us[position - 1], UNKNOWN_US // 2)
        is_gap = now_us - before_us > limit_us[owner]
        is_ended = int(marks_us[-1]) - marks_us[np.fromiter(last.values(), np.int64, len(last))] > limit_us
        is_due = is_ended | (np.bincount(owner, is_gap, len(last)) > 0)
        return {entity for entity, is_one in zip(last, is_due.tolist(), strict=True) if is_one}

    def _walk(
        self, entity: str, heard: Heard | None, is_silent: bool, happened: list[tuple[int, bool]], marks: list[int], offsets: Sequence[Offset]
    ) -> tuple[list[SilenceTurn], Heard | None, bool]:
        """One entity's way through the run: its turns, and how it stands after it."""
        limit_us = self._queue_of(entity).limit_us
        turns: list[SilenceTurn] = []

        def tell(event: Event, position: int) -> None:
            assert heard is not None
            turns.append(SilenceTurn(event, entity, position, marks[position], heard))

        for position, is_heard in [*happened, (len(marks), None)]:
            if heard is not None and not is_silent:
                passed = bisect.bisect_right(marks, heard.time_us + limit_us, hi=position)
                if passed < position:
                    is_silent = True
                    tell("silent", passed)
            if heard is not None and is_silent:
                passed = bisect.bisect_right(marks, heard.time_us + self._ttl_us, hi=position)
                if passed < position:
                    tell("expired", passed)
                    heard, is_silent = None, False
            if is_heard is None:
                break
            if is_silent:
                tell("returned" if is_heard else "forgotten", position)
            heard, is_silent = Heard(marks[position], offsets[position]) if is_heard else None, False
        return turns, heard, is_silent

    def _queue_of(self, entity: str) -> _Queue:
        return self._queues[self._limits_us[0] if len(self._limits_us) == 1 else self._limits_us[self._profile_of(entity)]]

    def _take(self, entity: str) -> tuple[Heard | None, bool]:
        """How the entity stood; it is in no queue any more."""
        queue = self._queue_of(entity)
        silent = queue.silent.pop(entity, None)
        return (silent, True) if silent is not None else (queue.waiting.pop(entity, None), False)

    def _put(self, entity: str, heard: Heard, *, is_silent: bool) -> None:
        """To the end of its queue, where it was heard last of all."""
        queue = self._queue_of(entity)
        half = queue.silent if is_silent else queue.waiting
        if is_silent or queue.after_us is not None:
            half[entity] = heard
            half.move_to_end(entity)


def _until(half: Mapping[str, Heard], time_us: int) -> Iterator[str]:
    """Those last heard before this time."""
    return itertools.takewhile(lambda entity: half[entity].time_us < time_us, half)


def _by_last(last: Mapping[str, int]) -> list[tuple[str, int]]:
    """Entity and position, in the order of the last records."""
    return sorted(last.items(), key=lambda one: one[1])
