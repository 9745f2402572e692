"""Alerts per day asked for, and what opened: three simulated weeks of fifty pumps through `train` and `replay`, as a user would run them.

`python -m tests.benchmarks.budget [SEED …]` prints, for each budget, incidents a day over those asked for: of all days after the pumps' warm-up,
of those after the first two more, and of each week. About a minute a budget on a quiet core.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from anomaly_daemon.cli import main as run_verb
from anomaly_daemon.incidents.incident import OF_READINGS
from anomaly_daemon.settings import parse_instant_us
from anomaly_daemon.simulation.stream import parse_iso_us
from tests.benchmarks.measure import Measure

CONFIG = Path(__file__).parents[2] / "configs" / "demo.yaml"
BUDGETS = (1, 5, 40)
PUMPS, INTERVAL, DAYS, WARM_UP_DAYS, TRANSIENT_DAYS = 50, "2m", 22, 1, 2
START = "2026-01-01T00:00:00Z"
FACTOR_GOAL = 1.5
_DAY_US = 86_400_000_000
_A_DAY = 720


def measure(seed: int = 1) -> list[Measure]:
    """The farther of met over asked and asked over met, after the transient."""
    found = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        shape = {"threshold.warmup_observations": _A_DAY, "model.scale_observations": _A_DAY, "logging.level": "error"}
        places = {"log": f"sqlite:///{folder}/topics.db", "model.artifact": folder / "model"}
        settings = ["-c", str(CONFIG), *(word for key, value in (places | shape).items() for word in ("--set", f"{key}={value}"))]
        scenario = ["--entities", str(PUMPS), "--interval", INTERVAL, "--duration", f"{DAYS}d", "--clean-share", "0.15", "--seed", str(seed)]
        _run("simulate", "sensors", *settings, "--topic", "readings", "--start", START, *scenario)
        _run("train", *settings, "--to", "2026-01-04")
        for budget in BUDGETS:
            alerts = folder / f"alerts-{budget}.jsonl"
            _run("replay", *settings, "--set", f"threshold.alerts_per_day={budget}", "--alerts", str(alerts))
            found.append(_met(budget, _opened(alerts)))
    return found


def _met(budget: int, days: NDArray[np.float64]) -> Measure:
    """days: [incidents], when each opened, days since the start."""

    def share(first: float, last: float = DAYS) -> float:
        return np.count_nonzero((days >= first) & (days < last)) / (last - first) / budget

    settled = share(WARM_UP_DAYS + TRANSIENT_DAYS)
    weeks = ", ".join(f"{share(first, first + 7):.2f}" for first in range(WARM_UP_DAYS, DAYS - 6, 7))
    print(f"  {budget:3d} a day: met {share(WARM_UP_DAYS):.2f} of them, after {TRANSIENT_DAYS} days {settled:.2f}; by week {weeks}", flush=True)
    return Measure(f"alerts_per_day_{budget}", max(settled, 1 / settled) if settled else np.inf, FACTOR_GOAL, "factor", "lower")


def _opened(alerts: Path) -> NDArray[np.float64]:
    """Days from the start to the opening of each incident that z decides on; silences and faults of records stand beside them."""
    told = (json.loads(line) for line in alerts.read_text().splitlines())
    times_us = [parse_instant_us(one["starts_at"]) for one in told if one["sequence"] == 1 and one["kind"] in OF_READINGS]
    return (np.array(times_us) - parse_iso_us(START)) / _DAY_US


def _run(*words: str) -> None:
    """A verb, its chatter kept back. Raises RuntimeError where it fails."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        code = run_verb(list(words))
    if code:
        raise RuntimeError(f"{' '.join(words)}: {told.getvalue()[-2000:]}")


if __name__ == "__main__":
    for number in map(int, sys.argv[1:] or ["1"]):
        print(f"seed {number}:", flush=True)
        for one in measure(number):
            print(one.line())
