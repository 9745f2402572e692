"""`python -m tests.chaos`: break things on a real Kafka, look at what is left, print a table.

In full each scenario has an input and a verdict of its own; in a slice those that can share one harm one group, one after
the other. Where a verdict differs, the command that breaks the same things again is printed. The seed decides on what is
broken and on the input; how far the daemons are by then is the machine's.

With `--bootstrap` the same daemons are harmed on a cluster of the user's, but for what harms the brokers or the way to them. How
long recoveries take there is told, not judged: its settings decide.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.chaos.cluster import Cluster, OwnCluster, ReplicatedCluster
from tests.chaos.conduct import HEADINGS, Row, conduct, conduct_alone
from tests.chaos.mutants import MUTANTS
from tests.chaos.scenarios import ALONE, REPLICATED, SHARING
from tests.chaos.scenarios.scenario import Alone, Scenario
from tests.chaos.table import table
from tests.ending import end_when_told
from tests.kafka.broker import ToolsMissingError, answers

_SHOWN = 120


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where every verdict is equal and every recovery quick enough, or every mutant caught; else 1."""
    options = _parser().parse_args(arguments)
    sharing = [one for one in SHARING if not (options.bootstrap and one.wants_own_broker)]
    replicated = [] if options.bootstrap else REPLICATED
    known = [one.name for one in (*sharing, *replicated, *ALONE)]
    if unknown := [name for name in options.scenarios if name not in known]:
        where = " on a cluster of yours" if options.bootstrap else ""
        print(f"python -m tests.chaos: no scenario {', '.join(unknown)}{where}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    if options.bootstrap and not answers(options.bootstrap):
        print(f"python -m tests.chaos: no broker answers at {options.bootstrap}; give one HOST:PORT that takes neither TLS nor SASL", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="anomaly-daemon-chaos-") as folder:
        try:
            cluster = Cluster(Path(folder), options.bootstrap) if options.bootstrap else OwnCluster(Path(folder))
        except ToolsMissingError as error:
            print(f"python -m tests.chaos: {error}", file=sys.stderr)
            return 2
        try:
            cluster.wishes = options.wishes
            with closing(cluster):
                if options.mutants:
                    return _catch(cluster, options.seed)
                rows = list(_rows(cluster, sharing, options))
            rows += _rows_of_several(Path(folder), replicated, options)
            print("\n" + table(HEADINGS, [row.cells for row in rows]))
        finally:
            if cluster.left:
                print(f"\nleft on {cluster.bootstrap}, remove by hand: {', '.join(cluster.left)}")
    return 0 if all(row.is_equal and (row.is_quick or options.bootstrap) for row in rows) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Break things on a real Kafka; compare with a run that nobody harmed.")
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(one.name for one in (*SHARING, *REPLICATED, *ALONE))}; all by default"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the fault points and the input")
    parser.add_argument("--slice", action="store_true", help="a part of the faults, all on one input: minutes in place of an hour")
    parser.add_argument("--mutants", action="store_true", help="plant known defects, one after the other: every one has to be found")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="wishes",
        metavar="KEY=VALUE",
        help="a setting of the daemons, such as kafka.commit_timeout=30s, in place of the harness's own short times",
    )
    parser.add_argument(
        "--bootstrap",
        metavar="HOST:PORT",
        help="a cluster of yours in place of a broker of the harness's own, by connections without TLS and SASL: topics and groups named chaos-… are "
        "made there, and removed at the end; default: an own broker, which takes Java 17 and Maven",
    )
    return parser


def _rows(cluster: Cluster, sharing: Sequence[Scenario[Any]], options: argparse.Namespace) -> Iterator[Row]:
    """Told as they come. Where none is named: all, in a slice all that share."""
    names, seed = options.scenarios, options.seed
    wanted = [one for one in sharing if not names or one.name in names]
    for group in [wanted] if options.slice and wanted else [[one] for one in wanted]:
        yield from _told(conduct(cluster, group, seed, is_slice=options.slice), options)
    for alone in ALONE:
        if _is_asked_for(alone, options):
            yield from _told([conduct_alone(cluster, alone, seed)], options)


def _is_asked_for(scenario: Scenario[Any] | Alone, options: argparse.Namespace) -> bool:
    """By its name, or by none: a slice is of those that share."""
    return scenario.name in options.scenarios or not (options.scenarios or options.slice)


def _rows_of_several(folder: Path, replicated: Sequence[Scenario[Any]], options: argparse.Namespace) -> Iterator[Row]:
    """Likewise, on brokers of their own; none in a slice."""
    for scenario in replicated:
        if _is_asked_for(scenario, options):
            with closing(ReplicatedCluster(folder)) as cluster:
                cluster.wishes = options.wishes
                yield from _told(conduct(cluster, [scenario], options.seed, is_slice=options.slice), options)


def _told(rows: list[Row], options: argparse.Namespace) -> list[Row]:
    for row in rows:
        print("  ".join(row.cells), flush=True)
    if not rows[0].is_equal:
        words = [*(row.scenario.name for row in rows), f"--seed {options.seed}"]
        words += ["--slice"] if options.slice else []
        words += [f"--set {wish}" for wish in options.wishes]
        words += [f"--bootstrap {options.bootstrap}"] if options.bootstrap else []
        print("".join(f"    {difference}\n" for difference in rows[0].verdict.differences), end="")
        print(f"  again: python -m tests.chaos {' '.join(words)}", flush=True)
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
    end_when_told()
    sys.exit(main())
