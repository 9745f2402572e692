"""What a report says of the run itself and no file holds: its caller tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """What no file holds: counts of the run, in records.

    range: which records, in words. consumed = scored + dead_lettered + dropped. rejections: reason → records.
    seconds: how long it took; None where nobody measured it. notes: sentences for the reader, such as that it was interrupted.
    """

    range: str
    consumed: int
    scored: int
    dead_lettered: int
    dropped: int
    rejections: Mapping[str, int] = field(default_factory=dict)
    seconds: float | None = None
    notes: tuple[str, ...] = ()
