from __future__ import annotations


class ClockByHand:
    """Time passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.longest_sleep_s = 0.0

    def monotonic_s(self) -> float:
        return self.seconds

    def now_us(self) -> int:
        return round(self.seconds * 1e6)

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.longest_sleep_s = max(self.longest_sleep_s, seconds)
