"""How often normal records are as improbable as they are said to be: observed over nominal exceedance of `tail_probability`.

    python -m tests.benchmarks.quality.exceedance SET --data DIR [-c FILE] [--set key=value]
    python -m tests.benchmarks.quality.exceedance simulated [--seed N] [--set key=value]

SET: trained on the first half of each stream's training rows, replayed over all of them, counted on the later half. simulated: pumps
(configs/demo.yaml) and cards (configs/transactions.yaml) without faults, trained on the first part, counted on the rest. No anomaly is known
to be in what is counted; in real training parts some may be. Exceedances come in runs, since neighbours are alike: beside each ratio stands the
range in which it would lie 95 times in 100 if runs, not records, came independently of each other (Leadbetter 1983, "Extremes and Local
Dependence in Stationary Sequences"), and a ratio is told only where RUNS_MIN runs or more are to be expected.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from anomaly_daemon.cli import main as run_verb
from anomaly_daemon.evaluation.scores import read_scores
from tests.benchmarks.quality.streams import CONFIGS, copy_streams, judge, train

LEVELS = (1e-2, 1e-3, 1e-4)
LOW, HIGH = 0.7, 1.4
RUNS_MIN = 5.0  # runs of exceedances expected, below which a ratio tells nothing
RUN_GAP_ROWS = 30  # records at most this far apart are of one run

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Simulated:
    """What is simulated without faults: days of so many entities, the first `trained_days` of them trained on and not counted."""

    kind: str
    config: Path
    topic: str
    entities: int
    days: int
    trained_days: int
    assignments: tuple[str, ...] = ()


SIMULATED = (
    Simulated("sensors", CONFIGS.parent / "demo.yaml", "readings", 16, 16, 4, ("training.epochs=10",)),
    Simulated("transactions", CONFIGS.parent / "transactions.yaml", "payments", 1000, 60, 20),
)


@dataclass(frozen=True, slots=True)
class Exceedance:
    """Of n records the share, over its level, of those said to be as improbable as the level or more; and its 95 % range.

    runs: in which the observed came. runs_expected: if they had come as often as the level says, each run as long.
    """

    level: float
    records: int
    observed: int
    runs: int
    runs_expected: float
    ratio: float
    low: float
    high: float

    @property
    def is_told(self) -> bool:
        """Whether there were enough records to tell."""
        return self.runs_expected >= RUNS_MIN

    def line(self) -> str:
        """One row of the table."""
        verdict = ("met" if LOW <= self.ratio <= HIGH else "MISSED") if self.is_told else "too few to tell"
        counts = f"{self.records:10,d}{self.observed:8d}{self.runs:6d}{self.runs_expected:10.1f}{self.ratio:8.2f}"
        return f"  {self.level:7.0e}{counts}   {self.low:5.2f} to {self.high:5.2f}   {verdict}"


def exceedances(tails: Floats) -> list[Exceedance]:
    """By level, from the highest. tails: [n] probabilities; NaN, of what was not judged, does not count."""
    known = tails[~np.isnan(tails)]
    found = []
    length = 1.0
    for level in LEVELS:
        rows = np.flatnonzero(known <= level)
        runs = int(np.count_nonzero(np.diff(rows, prepend=-RUN_GAP_ROWS - 1) > RUN_GAP_ROWS))
        seen = len(rows) / max(1, runs)
        length = seen if runs >= RUNS_MIN else max(length, seen)  # so few do not show that they are shorter than at the level before
        expected = len(known) * level
        low = chi2.ppf(0.025, 2 * runs) / 2 if runs else 0.0
        high = chi2.ppf(0.975, 2 * runs + 2) / 2
        ratios = (len(rows) / expected, low * length / expected, high * length / expected)
        found.append(Exceedance(level, len(known), len(rows), runs, expected / length, *ratios))
    return found


def of_set(config: Path, data: Path, folder: Path, assignments: Sequence[str]) -> Floats:
    """Tail probabilities over the later halves of a set's training rows, stream after stream."""
    trained = copy_streams(data, folder, is_normal=True)
    train(config, folder, assignments)
    judge(config, folder, folder / "scores.parquet", assignments)
    table = read_scores(folder / "scores.parquet", ("timestamp", "tail_probability"))
    return np.concatenate([table.column(entity, "tail_probability")[rows:] for entity, rows in trained.items()])


def of_simulated(scenario: Simulated, folder: Path, assignments: Sequence[str], seed: int) -> Floats:
    """Tail probabilities of what came after the part trained on."""
    given = ["logging.level=error", *scenario.assignments, *assignments]
    common = ["-c", str(scenario.config), *(word for one in given for word in ("--set", one))]
    until = f"2026-01-{1 + scenario.trained_days:02d}"
    simulated = ["--entities", str(scenario.entities), "--duration", f"{scenario.days}d", "--seed", str(seed), "--faults-per-entity-per-day", "0"]
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as said:
        for command in (
            ["simulate", scenario.kind, *common, "--topic", scenario.topic, "--create", *simulated],
            ["train", *common, "--to", until],
            ["replay", *common, "--warm-up", "2026-01-01", "--from", until, "--export", f"{scenario.kind}.parquet"],
        ):
            code = run_verb(command)
            assert code == 0, f"{command[0]} ended with {code}: {said.getvalue()}"
    return np.asarray(read_scores(folder / f"{scenario.kind}.parquet", ("timestamp", "tail_probability")).columns["tail_probability"])


def main() -> None:
    """A table for a set, or for each simulation."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.quality.exceedance", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", help="names configs/benchmarks/SET.yaml, or `simulated`")
    parser.add_argument("--data", type=Path, help="folder of the streams and their dataset.json")
    parser.add_argument("-c", "--config", type=Path, help="other settings than configs/benchmarks/SET.yaml")
    parser.add_argument("--seed", type=int, default=1, help="of what is simulated")
    parser.add_argument("--set", action="append", default=[], dest="assignments", metavar="key=value", help="as the product takes it")
    options = parser.parse_args()
    if (options.set != "simulated") == (options.data is None):
        parser.error("--data goes with a set, and only with one")
    found: Mapping[str, Floats]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.data is None:
            found = {one.kind: of_simulated(one, folder, options.assignments, options.seed) for one in SIMULATED}
        else:
            config = options.config or CONFIGS / f"{options.set}.yaml"
            found = {options.set: of_set(config, options.data, folder, options.assignments)}
    for name, tails in found.items():
        print(f"{name}\n    level   records  beyond  runs  expected   ratio   95 % of ratio    goal {LOW:g} to {HIGH:g}")
        print("\n".join(one.line() for one in exceedances(tails)))


if __name__ == "__main__":
    main()
