"""What a scenario came to: one line of the table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verdict:
    """broken: what was harmed. times: how often. failures: what should not have been, empty where all held. told: figures for a person."""

    broken: str
    times: int
    failures: tuple[str, ...] = ()
    told: str = ""

    def line(self) -> str:
        held = f"FAILED ({len(self.failures)})" if self.failures else "held" if self.times else "left out"
        return f"{self.broken:<64} {self.times:>9}  {held:<12} {self.told}"

    def check(self) -> None:
        """Raises AssertionError with the first failures."""
        assert not self.failures, f"{self.broken}: {len(self.failures)} of {self.times}:\n" + "\n".join(self.failures[:5])
