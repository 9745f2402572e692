"""How far a partition's event time has come, and which records may move it: timers run on nothing else.

A record whose time is far ahead of all others' would silence everybody at once. One that its own log timestamp gives the lie moves
nothing; where no timestamp tells, a leap has to be borne out before it counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

UNKNOWN_US: Final = int(np.iinfo(np.int64).min)
# Another entity bears a leap out at once; an entity that is alone on its partition does with this many records in a row.
LONE_RECORDS: Final = 3


class Leap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A time that is ahead of the watermark by too much and not borne out yet: whose, the earliest said, and in how many records."""

    entity: str
    time_us: int
    records: int


class Watermark:
    """The largest trusted event time of one partition; None until one is borne out."""

    def __init__(self, time_us: int | None = None, leap: Leap | None = None) -> None:
        self.time_us, self.leap = time_us, leap

    def advance(
        self, times_us: NDArray[np.int64], is_trusted: NDArray[np.bool_] | None, entities: Sequence[str], leap_us: int | None
    ) -> NDArray[np.int64]:
        """The watermark after each of the next records, int64 [n], never falling; UNKNOWN_US while there is none.

        times_us, is_trusted: [n]; None: all are. leap_us: how far a record may move it by itself; None: any.
        """
        if not len(times_us):
            return times_us
        now = UNKNOWN_US if self.time_us is None else self.time_us
        moving = times_us if is_trusted is None else np.where(is_trusted, times_us, now)
        marks = np.maximum.accumulate(np.maximum(moving, now))
        if leap_us is None:
            self.leap = None
        elif self.leap is not None or self.time_us is None or np.diff(marks, prepend=now).max() > leap_us:
            trusted = [True] * len(times_us) if is_trusted is None else is_trusted.tolist()
            found = [self._step(*one, leap_us) for one in zip(times_us.tolist(), trusted, entities, strict=True)]
            return np.array(found, np.int64)
        self.time_us = int(marks[-1]) if marks[-1] != UNKNOWN_US else None
        return np.asarray(marks)

    def _step(self, time_us: int, is_trusted: bool, entity: str, leap_us: int) -> int:
        """The watermark after one record. Whoever is near it gives the lie to a leap that waits."""
        if is_trusted:
            if not self._is_near(time_us, leap_us):
                self._weigh(time_us, entity)
            else:
                self.leap = None
            if self.time_us is not None and self._is_near(time_us, leap_us):
                self.time_us = max(self.time_us, time_us)
        return UNKNOWN_US if self.time_us is None else self.time_us

    def _is_near(self, time_us: int, leap_us: int) -> bool:
        return self.time_us is not None and time_us <= self.time_us + leap_us

    def _weigh(self, time_us: int, entity: str) -> None:
        """Take note of a leap, or let it count, by the earliest time that was said."""
        waiting = self.leap
        earliest_us = time_us if waiting is None else min(waiting.time_us, time_us)
        is_other = waiting is not None and waiting.entity != entity
        records = 1 if waiting is None else waiting.records + 1
        if is_other or records >= LONE_RECORDS:
            self.time_us, self.leap = earliest_us, None
        else:
            self.leap = Leap(entity, earliest_us, records)
