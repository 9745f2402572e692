"""`python -m tests.chaos`: break things on a real Kafka, look at what is left, print a table.

In full each scenario has an input and a verdict of its own; in a slice those that can share one harm one group, one after
the other. Where a verdict differs, the command that breaks the same things again is printed. The seed decides on what is
broken and on the input; how far the daemons are by then is the machine's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from tests.chaos.cluster import Cluster
from tests.chaos.conduct import HEADINGS, Row, conduct, conduct_alone
from tests.chaos.mutants import MUTANTS
from tests.chaos.scenarios import ALONE, NAMES, SHARING
from tests.chaos.table import table

_SHOWN = 120


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where every verdict is equal and every recovery quick enough, or every mutant caught; else 1."""
    options = _parser().parse_args(arguments)
    if unknown := [name for name in options.scenarios if name not in NAMES]:
        print(f"python -m tests.chaos: no scenario {', '.join(unknown)}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="anomaly-daemon-chaos-") as folder, closing(Cluster(Path(folder))) as cluster:
        if options.mutants:
            return _catch(cluster, options.seed)
        rows = list(_rows(cluster, options.scenarios, options.seed, is_slice=options.slice))
    print("\n" + table(HEADINGS, [row.cells for row in rows]))
    return 0 if all(row.is_equal and row.is_quick for row in rows) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Break things on a real Kafka; compare with a run that nobody harmed.")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--seed", type=int, default=1, help="of the fault points and the input")
    parser.add_argument("--slice", action="store_true", help="a part of the faults, all on one input: minutes in place of an hour")
    parser.add_argument("--mutants", action="store_true", help="plant known defects, one after the other: every one has to be found")
    return parser


def _rows(cluster: Cluster, names: Sequence[str], seed: int, *, is_slice: bool) -> Iterator[Row]:
    """Told as they come. Where none is named: all, in a slice all that share."""
    sharing = [one for one in SHARING if not names or one.name in names]
    for group in [sharing] if is_slice and sharing else [[one] for one in sharing]:
        yield from _told(conduct(cluster, group, seed, is_slice=is_slice), seed, is_slice=is_slice)
    for alone in ALONE:
        if alone.name in names or not (names or is_slice):
            yield from _told([conduct_alone(cluster, alone, seed)], seed)


def _told(rows: list[Row], seed: int, *, is_slice: bool = False) -> list[Row]:
    for row in rows:
        print("  ".join(row.cells), flush=True)
    if not rows[0].is_equal:
        names = " ".join(row.scenario.name for row in rows)
        print("".join(f"    {difference}\n" for difference in rows[0].verdict.differences), end="")
        print(f"  again: python -m tests.chaos {names} --seed {seed}{' --slice' if is_slice else ''}", flush=True)
    return rows


def _catch(cluster: Cluster, seed: int) -> int:
    """A mutant counts as caught where its effects differ, not where it only stopped."""
    caught = []
    for name, mutant in MUTANTS.items():
        scenarios = [replace(one, faults_in_slice=mutant.faults) for one in SHARING if one.name == mutant.scenario]
        verdict = conduct(cluster, scenarios, seed, is_slice=True, mutant=name)[0].verdict
        told = verdict.differences[0].splitlines()[0][:_SHOWN] if verdict.differences else "no difference"
        caught.append((name, mutant.scenario, "caught" if verdict.differences and verdict.records else "MISSED", told))
        print("  ".join(caught[-1]), flush=True)
    print("\n" + table(("mutant", "scenario", "verdict", "the first difference"), caught))
    return 0 if all(row[2] == "caught" for row in caught) else 1


if __name__ == "__main__":
    sys.exit(main())
