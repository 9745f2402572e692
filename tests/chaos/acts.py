"""What a launched daemon does to itself at the n-th passing of a named point: a signal, a clock that jumps, a partition that falls silent.

Text on its command line.
"""

from __future__ import annotations

import enum
import signal
from dataclasses import dataclass
from typing import Self

_SILENCE = "SILENCE"


class Point(enum.Enum):
    """Where in a daemon's life something can happen, in the order of a batch."""

    IN_RECOVERY = "in_recovery"
    AFTER_POLL = "after_poll"
    MID_BATCH = "mid_batch"
    AFTER_PRODUCE = "after_produce"
    AFTER_OFFSETS = "after_offsets"
    BEFORE_COMMIT = "before_commit"
    AFTER_COMMIT = "after_commit"
    IN_CHECKPOINT = "in_checkpoint"
    IN_DRAIN = "in_drain"
    IN_RELOAD = "in_reload"


@dataclass(frozen=True, slots=True)
class Act:
    """At the `passing`-th passing of a point: a signal to the daemon itself, its wall clock set off by so many seconds, or a silence.

    pause_s: how long the thread that passed rests after the signal, while the others go on.
    is_silence: the client no longer asks the broker for the first of its partitions, and says nothing of it.
    """

    point: Point
    passing: int
    signal: signal.Signals | None = signal.SIGKILL
    clock_s: float = 0.0
    pause_s: float = 0.0
    is_silence: bool = False

    def __str__(self) -> str:
        if self.is_silence:
            return f"{self.point.value}:{self.passing}:{_SILENCE}"
        what = f"{self.clock_s:+g}s" if self.signal is None else self.signal.name.removeprefix("SIG")
        return f"{self.point.value}:{self.passing}:{what}" + (f":{self.pause_s:g}s" if self.pause_s else "")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of `POINT:N`, `POINT:N:SIGNAL`, `POINT:N:STOP:2s`, `POINT:N:+3600s` or `POINT:N:SILENCE`. Raises ValueError."""
        point, passing, *rest = text.split(":")
        what = rest[0] if rest else "KILL"
        if what == _SILENCE:
            return cls(Point(point), int(passing), None, is_silence=True)
        if what[0] in "+-":
            return cls(Point(point), int(passing), None, float(what.removesuffix("s")))
        return cls(Point(point), int(passing), signal.Signals[f"SIG{what}"], pause_s=float(rest[1].removesuffix("s")) if rest[1:] else 0.0)
