"""`python -m tests.chaos`: break things, look at what is left, print a table.

Scenarios run one after the other on one real broker; a scenario whose verdict differs prints the command that breaks the
same things again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.cluster import Cluster
from tests.chaos.conduct import HEADINGS, Row, conduct
from tests.chaos.scenarios import SCENARIOS
from tests.chaos.table import table


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where every verdict is equal and every recovery quick enough, else 1."""
    options = _parser().parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory(prefix="anomaly-daemon-chaos-") as folder:
        cluster = Cluster(Path(folder))
        try:
            for name in options.scenarios or SCENARIOS:
                row = conduct(cluster, SCENARIOS[name], options.seed, is_slice=options.slice, mutant=options.mutant)
                rows.append(row)
                print("  ".join(row.cells), flush=True)
                _tell(row, is_slice=options.slice)
        finally:
            cluster.close()
    print("\n" + table(HEADINGS, [row.cells for row in rows]))
    return 0 if all(row.is_equal and row.is_quick for row in rows) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description="Break things on a real Kafka and compare with a run that nobody harmed."
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", choices=[[], *SCENARIOS], help=f"of {', '.join(SCENARIOS)}; all by default")
    parser.add_argument("--seed", type=int, default=1, help="of the fault points and the input")
    parser.add_argument("--slice", action="store_true", help="a part of the faults, in minutes")
    parser.add_argument("--mutant", help="plant this defect")
    return parser


def _tell(row: Row, *, is_slice: bool) -> None:
    if row.is_equal:
        return
    for difference in row.differences:
        print(f"    {difference}")
    print(f"  again: python -m tests.chaos {row.scenario} --seed {row.seed}{' --slice' if is_slice else ''}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
