"""Says in the log that records are rejected: of the first at once, then once a minute how many for each reason.

Where one lies is said, what is in it is not: that stands in the dead letters, which not everybody who reads logs may read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import structlog

from anomaly_daemon.domain.ports import Clock
from anomaly_daemon.domain.records import Rejection

log = structlog.get_logger(__name__)

_EVERY_S = 60.0


class RejectionLog:
    """Bounded: a count for each reason, and the place of one record."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counts: Counter[str] = Counter()
        self._first = ""
        self._next_s = 0.0

    def note(self, rejections: Iterable[Rejection]) -> None:
        """Those of a batch that is committed."""
        for rejection in rejections:
            self._first = self._first or f"{rejection.record.partition} offset {rejection.record.offset}"
            self._counts[rejection.reason.value] += 1

    def tell(self, is_last: bool = False) -> None:
        """What was noted since it was told last, where that is a minute ago or nothing follows."""
        if not self._counts or (self._clock.monotonic_s() < self._next_s and not is_last):
            return
        log.warning(
            "records_rejected",
            records=self._counts.total(),
            reasons=dict(self._counts),
            first=self._first,
            remedy="dump output.dead_letter_topic: each as it came, and why; where it is most of them, see record and features in the settings",
        )
        self._counts.clear()
        self._first, self._next_s = "", self._clock.monotonic_s() + _EVERY_S
