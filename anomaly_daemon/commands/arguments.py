"""What each verb takes on the command line, one function a verb: nothing heavy is imported, so that `--help` answers at once."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def check(parser: argparse.ArgumentParser) -> None:
    """Arguments of `check`."""
    parser.add_argument("--offline", action="store_true", help="leave the log out")
    parser.add_argument("--acls", action="store_true", help="Kafka: print the commands that grant what `run` needs and nothing more, and stop")
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
    parser.add_argument("--watch", action="store_true", help="reload when a settings file changes, as SIGHUP does")
    parser.add_argument("--until-end", action="store_true", help="stop where the topics end now, instead of serving on")
    parser.add_argument(
        "--export",
        metavar="FILE",
        type=Path,
        help="also write the scores of the records that this run commits to a Parquet file: whole when the run ends, until then FILE.part, which "
        "is of no use after a kill; any past range: replay --export",
    )
    parser.add_argument("--force", action="store_true", help="let --export replace a file that already holds something")


def replay(parser: argparse.ArgumentParser) -> None:
    """Arguments of `replay`."""
    parser.add_argument("--source", metavar="URL", help="another log, or file:///path/*.csv.gz (default: the log of the settings)")
    parser.add_argument("--topic", metavar="TOPIC", action="append", default=[], help="read this topic; repeatable (default: input.topics)")
    when = "an event time in ISO 8601, or an offset of every partition"
    parser.add_argument("--from", metavar="WHEN", dest="start", help=f"where reporting begins: {when} (default: the earliest retained)")
    parser.add_argument("--to", metavar="WHEN", dest="end", help="where to stop before (default: the end as it is now)")
    parser.add_argument("--warm-up", metavar="WHEN", help="judge from here on, so that state is warm at --from, and report nothing of it")
    parser.add_argument(
        "--start-from",
        choices=("nothing", "checkpoint"),
        default="nothing",
        help="checkpoint: the state that the daemon saved last before --from (default: nothing)",
    )
    parser.add_argument("--artifact", metavar="DIR", type=Path, help="another model than model.artifact")
    parser.add_argument("--entities", metavar="PATTERN", help="only entities whose name fits, such as 'pump-*'")
    parser.add_argument("--speed", metavar="X", type=_speed, help="multiple of real time, such as 60x (default: flat out)")
    parser.add_argument("--export", metavar="FILE", type=Path, help="write the scores, a row per record, as Parquet")
    parser.add_argument("--alerts", metavar="FILE", type=Path, help="write the alerts, one body a line, as JSON Lines")
    parser.add_argument("--labels", metavar="FILE", type=Path, help="measure against labels: CSV, Parquet or NAB's windows")
    parser.add_argument("--measures", metavar="FILE", type=Path, help="write the measures as JSON (default: beside --export, .measures.json)")
    parser.add_argument("--report", metavar="FILE", type=Path, help="write a page to look at, one self-contained HTML file")
    parser.add_argument("--force", action="store_true", help="replace files that are there already")


def _speed(text: str) -> float:
    try:
        speed = float(text.removesuffix("x"))
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: give a multiple of real time above 0, such as 60x")
    return speed


def diff(parser: argparse.ArgumentParser) -> None:
    """Arguments of `diff`."""
    side = "an export (Parquet), alerts (JSON Lines, or what `dump` wrote), or the word live: what was published, by the settings of -c"
    parser.add_argument("before", metavar="BEFORE", help=side)
    parser.add_argument("after", metavar="AFTER", help="the same")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="json: one object")
    parser.add_argument("--limit", metavar="N", type=int, help="show so many changes (default: 100 in the table, all in JSON)")
    parser.add_argument("--fail-on-change", action="store_true", help="exit code 1 where any incident differs or may, for use in a pipeline")
    parser.add_argument("--report", metavar="FILE", type=Path, help="write a page to look at, one self-contained HTML file")
    parser.add_argument("--force", action="store_true", help="let --report replace a file that is there already")


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
        "files",
        metavar="FILE",
        nargs="+",
        help="CSV, JSON Lines or Parquet, gzipped or not; a folder, a quoted pattern such as 'folder/**/*.csv.gz' (its files by name), or - for "
        "standard input; several are taken as given",
    )
    parser.add_argument("--topic", metavar="TOPIC", required=True, help="where the records go")
    parser.add_argument("--create", action="store_true", help="make the topic when it is missing")
    parser.add_argument("--partitions", metavar="N", type=int, default=None, help="of a topic that is made (default: topics.partitions)")
    parser.add_argument("--key-column", metavar="COLUMN", help="field that becomes the record's key (default: the file's name; none from -)")
    parser.add_argument("--time-column", metavar="COLUMN", help="ISO 8601 or epoch field that becomes the record's timestamp (default: now)")
    parser.add_argument("--limit", metavar="ROWS", type=int, default=None, help="rows of each file at most")
    parser.add_argument("--interleave", action="store_true", help="first row of every file, then the second of every file, and so on")
    parser.add_argument(
        "--format",
        choices=("auto", "csv", "jsonl", "dump"),
        default="auto",
        help="auto: by the file's name, standard input as jsonl; lines that `dump` wrote, known by the first, keep key, time, headers and partition",
    )


def dump(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dump`."""
    parser.add_argument("--topic", metavar="TOPIC", required=True, help="what is written")
    parser.add_argument("--from", metavar="OFFSET", dest="first", type=int, default=0, help="first offset of every partition (default: all retained)")
    parser.add_argument("--to", metavar="OFFSET", dest="end", type=int, default=None, help="offset to stop before (default: the end as it is now)")
    parser.add_argument(
        "--output", metavar="FILE", type=Path, default=None, help="file, gzipped where its name ends in .gz; - is standard output (default)"
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


def tune(parser: argparse.ArgumentParser) -> None:
    """Arguments of `tune`."""
    parser.add_argument("--scores", metavar="FILE", type=Path, required=True, help="an export of `replay --export`; the longer, the better")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--budget", metavar="RATE", help="incidents wanted at most: 5/day, 2/week, or '0.1/day per entity' on average")
    target.add_argument("--labels", metavar="FILE", type=Path, help="what was truly anomalous: intervals, points, records or NAB's windows")
    parser.add_argument("--objective", choices=("event_f1",), default=None, help="with --labels: what is made as high as can be (default: event_f1)")
    parser.add_argument("--miss-cost", metavar="X", type=float, default=None, help="with --labels: of an event missed, instead of an objective")
    parser.add_argument("--false-alarm-cost", metavar="Y", type=float, default=None, help="with --labels: of a false alarm, in the same money")
    parser.add_argument(
        "--method", choices=("ewma", "spot", "quantile", "static", "all"), help="compare the present method with this one (default: keep it)"
    )
    parser.add_argument("--split", metavar="X", type=float, default=0.6, help="share of the time that is chosen on; the rest tells (default 0.6)")
    parser.add_argument("--output", metavar="FILE", type=Path, help="write the settings patch: -c settings.yaml -c FILE merges it")
    parser.add_argument("--report", metavar="FILE", type=Path, help="write a page with the table and the trade-off")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="json: everything, with the incidents promised")
    parser.add_argument("--force", action="store_true", help="let --output and --report replace files that hold something")


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
    "replay": replay,
    "diff": diff,
    "incidents": incidents,
    "load": load,
    "dump": dump,
    "simulate": simulate,
    "tune": tune,
    "demo": demo,
}
