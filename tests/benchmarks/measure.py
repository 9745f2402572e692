"""One measured value and what it should reach."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


def peak_mib() -> float:
    """The most memory this process ever held. Of getrusage a child's figure begins with its parent's."""
    found = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


@dataclass(frozen=True)
class Measure:
    """`better` says on which side of the goal a value should lie."""

    name: str
    value: float
    goal: float
    unit: str
    better: Literal["higher", "lower"]

    @property
    def is_reached(self) -> bool:
        return self.value >= self.goal if self.better == "higher" else self.value <= self.goal

    def line(self) -> str:
        return f"  {self.name:36s} {self.value:14,.3f}  goal {self.goal:>11,g} {self.unit:10s} {'reached' if self.is_reached else 'NOT REACHED'}"

    def entry(self) -> dict[str, object]:
        return {"value": self.value, "goal": self.goal, "unit": self.unit, "better": self.better}
