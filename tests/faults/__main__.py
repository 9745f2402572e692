"""`python -m tests.faults [PART…] [--full] [--seed N]`: breaks what the daemon rests on and prints what became of it."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator

from anomaly_daemon.telemetry import logging
from tests.ending import end_when_told
from tests.faults import bad_input, bounds, dead_letters, embedded_log, files, on_kafka, read_only
from tests.faults.verdict import Verdict

PARTS: dict[str, Callable[[bool, int], Iterator[Verdict]]] = {
    "log": embedded_log.run,
    "read-only": read_only.run,
    "input": bad_input.run,
    "kafka": on_kafka.run,
    "dead-letters": dead_letters.run,
    "files": files.run,
    "bounds": bounds.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--full", action="store_true", help="the full sizes; some hours in all")
    parser.add_argument("--seed", type=int, default=0, help="the same seed breaks the same things (default 0)")
    options = parser.parse_args()
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    logging.configure("error", "json")
    has_failed = False
    print(f"seed {options.seed}\n{'broken':<64} {'times':>9}  {'verdict':<12} told")
    for part in options.parts or PARTS:
        began_s = time.monotonic()
        for verdict in PARTS[part](options.full, options.seed):
            print(verdict.line(), flush=True)
            for failure in verdict.failures[:3]:
                print(f"    {failure}", flush=True)
            has_failed |= bool(verdict.failures)
        print(f"{part}: {time.monotonic() - began_s:.0f} s", flush=True)
    return int(has_failed)


if __name__ == "__main__":
    end_when_told()
    sys.exit(main())
