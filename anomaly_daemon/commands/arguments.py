"""What each verb takes on the command line, one function a verb: nothing heavy is imported, so that `--help` answers at once."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def check(parser: argparse.ArgumentParser) -> None:
    """Arguments of `check`."""
    parser.add_argument("--offline", action="store_true", help="leave the log out")
    parser.add_argument("--reference", action="store_true", help="print every setting with its default and meaning, and stop")


def train(parser: argparse.ArgumentParser) -> None:
    """Arguments of `train`."""
    parser.add_argument(
        "--source", metavar="URL", help="sqlite:///topics.db, kafka://host:9092 or file:///path/*.csv.gz (default: the log of the settings)"
    )
    parser.add_argument("--topic", metavar="TOPIC", action="append", default=[], help="read this topic; repeatable (default: input.topics)")
    parser.add_argument("--from", metavar="WHEN", dest="start", help="first event time, ISO 8601, or first offset of each partition")
    parser.add_argument("--to", metavar="WHEN", dest="end", help="event time or offset to stop before")
    parser.add_argument("--entities", metavar="PATTERN", help="only entities whose name fits, such as 'pump-*'")
    parser.add_argument("--rows", metavar="N", type=int, help="only the first N observations of each entity in the range")
    parser.add_argument("--output", metavar="DIR", type=Path, help="folder of the artifact (default: model.artifact)")


def run(parser: argparse.ArgumentParser) -> None:
    """Arguments of `run`."""
    parser.add_argument("--until-end", action="store_true", help="stop where the topics end now, instead of serving on")
    parser.add_argument("--export", metavar="FILE", type=Path, help="also write each committed record's scores to a Parquet file")


def incidents(parser: argparse.ArgumentParser) -> None:
    """Arguments of `incidents`."""
    parser.add_argument("--format", choices=("table", "json"), default="table", help="json: one object per incident and line, without detected_at")
    parser.add_argument("--follow", action="store_true", help="then go on with every alert as it is published, until Ctrl-C")
    parser.add_argument("--entity", metavar="PATTERN", default="*", help="only entities like this: `pump-*`")
    parser.add_argument("--open", action="store_true", dest="is_open_only", help="only those that are still open")
    parser.add_argument("--from", metavar="TIME", dest="not_before", help="only those going on at this time or later, such as 2024-01-31T12:00")
    parser.add_argument("--limit", metavar="N", type=int, default=1000, help="the newest so many (default: 1000)")
    parser.add_argument("--plot", action="store_true", help="also draw the worst one (table only)")


def load(parser: argparse.ArgumentParser) -> None:
    """Arguments of `load`."""
    parser.add_argument(
        "files", metavar="FILE", nargs="+", help="CSV, JSON Lines or Parquet, gzipped or not; also a quoted pattern such as 'folder/**/*.csv.gz'"
    )
    parser.add_argument("--topic", metavar="TOPIC", required=True, help="where the records go")
    parser.add_argument("--create", action="store_true", help="make the topic when it is missing")
    parser.add_argument("--partitions", metavar="N", type=int, default=None, help="of a topic that is made (default: topics.partitions)")
    parser.add_argument("--key-column", metavar="COLUMN", help="field that becomes the record's key (default: the file's name)")
    parser.add_argument("--time-column", metavar="COLUMN", help="ISO 8601 or epoch field that becomes the record's timestamp (default: now)")
    parser.add_argument("--limit", metavar="ROWS", type=int, default=None, help="rows of each file at most")
    parser.add_argument("--interleave", action="store_true", help="first row of every file, then the second of every file, and so on")
    parser.add_argument(
        "--format", choices=("auto", "dump"), default="auto", help="auto: by the file's name; dump: lines that `dump` wrote, headers kept"
    )


def dump(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dump`."""
    parser.add_argument("--topic", metavar="TOPIC", required=True, help="what is written")
    parser.add_argument("--from", metavar="OFFSET", dest="first", type=int, default=0, help="first offset of every partition (default: all retained)")
    parser.add_argument("--to", metavar="OFFSET", dest="end", type=int, default=None, help="offset to stop before (default: the end as it is now)")
    parser.add_argument(
        "--output", metavar="FILE", type=Path, default=None, help="file, gzipped where its name ends in .gz (default: standard output)"
    )


def simulate(parser: argparse.ArgumentParser) -> None:
    """Arguments of `simulate`."""
    parser.add_argument("what", choices=("sensors", "transactions"), help="pumps with eight channels, or cards with payments")
    parser.add_argument("--entities", metavar="N", type=int, default=10, help="how many pumps or cards (default 10)")
    parser.add_argument("--start", metavar="TIME", default="2026-01-01T00:00:00Z", help="event time of the first (default 2026-01-01T00:00:00Z)")
    parser.add_argument("--duration", metavar="TIME", default="2d", help="event time covered (default 2d)")
    parser.add_argument("--interval", metavar="TIME", default="60s", help="sensors: between two records of a pump (default 60s)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="the same seed gives the same bytes (default 0)")
    parser.add_argument("--rate", metavar="R/s", default=None, help="records a second, such as 500/s (default: flat out)")
    parser.add_argument(
        "--faults-per-entity-per-day", metavar="X", type=float, default=None, help="anomalies after the clean part (default 1; transactions 0.1)"
    )
    parser.add_argument("--clean-share", metavar="X", type=float, default=0.5, help="of the duration, at its start, without anomalies (default 0.5)")
    parser.add_argument("--labels", metavar="FILE", type=Path, help="write what was planted to a CSV: entity, start, end, kind, channels")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--topic", metavar="TOPIC", help="append to this topic of the log of the settings")
    target.add_argument("--output", metavar="FILE", type=Path, help="write JSON Lines, gzipped where the name ends in .gz")
    parser.add_argument("--create", action="store_true", help="make the topic when it is missing, as topics.create_topics does")
    parser.add_argument("--partitions", metavar="N", type=int, default=None, help="of a topic that is made (default: topics.partitions)")


def demo(parser: argparse.ArgumentParser) -> None:
    """Arguments of `demo`."""
    parser.add_argument(
        "--directory", metavar="DIR", type=Path, help="work here and keep everything (default: a temporary folder, removed at the end)"
    )
    parser.add_argument("--entities", metavar="N", type=int, default=8, help="pumps (default 8)")
    parser.add_argument("--seed", metavar="N", type=int, default=7, help="of the simulation (default 7)")


ARGUMENTS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "check": check,
    "train": train,
    "run": run,
    "incidents": incidents,
    "load": load,
    "dump": dump,
    "simulate": simulate,
    "demo": demo,
}
