"""The clock of the machine, for waiting and telemetry; tests put one of their own in its place."""

from __future__ import annotations

import time


class SystemClock:
    """`Clock` on the operating system's monotonic and wall clocks."""

    def monotonic_s(self) -> float:
        """Seconds on a clock that never goes back."""
        return time.monotonic()

    def now_us(self) -> int:
        """Microseconds since 1970 UTC."""
        return time.time_ns() // 1000

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)
