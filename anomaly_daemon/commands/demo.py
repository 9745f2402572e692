"""`demo`: simulate, train, run and incidents in a row on the embedded log, each told as the command that a person would type."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anomaly_daemon.domain.errors import InputError

if TYPE_CHECKING:
    from anomaly_daemon.simulation.labels import Comparison, Span
    from anomaly_daemon.simulation.stream import Label

SETTINGS_FILE = "demo.yaml"
LABELS_FILE = "labels.csv"
DAYS, CLEAN_DAYS = 4, 2
START = "2026-01-01T00:00:00Z"
CLEAN_UNTIL = "2026-01-03T00:00:00Z"
# Evidence of a fault may come this long after its end: the newest eight minutes are reconstructed together.
GRACE_MINUTES = 10


def run(options: argparse.Namespace) -> int:
    """0 when every step was; else the exit code of the first that was not."""
    settings_file = _settings_file(options.config)
    _check_numbers(options)
    steps = _steps(options)
    with _folder(options.directory) as folder, contextlib.chdir(folder):
        shutil.copyfile(settings_file, SETTINGS_FILE)
        print(f"$ cd {shlex.quote(str(folder))}    # settings: {SETTINGS_FILE}, a copy of {settings_file}")
        for title, arguments in steps:
            code = _step(options.main, title, arguments)
            if code != 0:
                where = "the folder is removed; --directory DIR keeps it" if options.directory is None else f"what there is so far is in {folder}"
                print(f"demo: this step ended with exit code {code}; {where}", file=sys.stderr)
                return code
        _conclude(options)
    if options.directory is not None:
        print(f"Everything is kept in {folder}: log, labels, model, checkpoints.")
    return 0


def _check_numbers(options: argparse.Namespace) -> None:
    """Raises InputError for what cannot be simulated."""
    from anomaly_daemon.domain.times import DAY_US
    from anomaly_daemon.simulation.stream import Scenario, parse_iso_us

    Scenario(entities=options.entities, start_us=parse_iso_us(START), duration_us=DAYS * DAY_US, seed=options.seed)


def _steps(options: argparse.Namespace) -> list[tuple[str, list[str]]]:
    """What is told of each step, and its command line."""
    common = ["-c", SETTINGS_FILE, *(word for assignment in options.assignments for word in ("--set", assignment))]
    pumps = ["--entities", str(options.entities), "--start", START, "--duration", f"{DAYS}d", "--seed", str(options.seed)]
    planting = ["--clean-share", f"{CLEAN_DAYS / DAYS:g}", "--faults-per-entity-per-day", "1", "--labels", LABELS_FILE]
    return [
        (
            f"{options.entities} pumps, {DAYS} days, one record a minute; after day {CLEAN_DAYS} faults are planted, told in {LABELS_FILE} alone.",
            ["simulate", "sensors", *common, "--topic", "readings", *pumps, *planting],
        ),
        ("Learn what is normal from the days without faults.", ["train", *common, "--to", CLEAN_UNTIL]),
        ("Go through the whole topic as the service would, and publish what is not.", ["run", *common, "--until-end"]),
        ("What was published, and a look at the worst.", ["incidents", *common, "--plot"]),
    ]


def _step(main: Callable[[Sequence[str]], int], title: str, arguments: Sequence[str]) -> int:
    """Run one verb in this process and leave no signal handler of it behind."""
    print(f"\n# {title}\n$ anomaly-daemon {shlex.join(arguments)}", flush=True)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        return int(main(arguments))
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def _settings_file(given: Sequence[Path]) -> Path:
    """The file of `-c`, else configs/demo.yaml of the checkout; absolute, for the demo changes folders."""
    if len(given) > 1:
        raise InputError("-c: the demo takes one settings file, the first of which it would copy; merge them")
    path = given[0] if given else Path(__file__).parents[2] / "configs" / SETTINGS_FILE
    if not path.is_file():
        raise InputError(f"{path}: no such file; run the demo from a checkout, or give its configs/{SETTINGS_FILE} with -c")
    return path.resolve()


@contextlib.contextmanager
def _folder(directory: Path | None) -> Iterator[Path]:
    """The folder to work in: the one given, new or empty, or a temporary one."""
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="anomaly-daemon-demo-") as name:
            yield Path(name)
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        is_empty = not any(directory.iterdir())
    except OSError as error:
        why = "is no folder" if isinstance(error, (FileExistsError, NotADirectoryError)) else f"cannot be used: {error.strerror}"
        raise InputError(f"--directory {directory}: {why}; name a new or an empty folder") from None
    if not is_empty:
        raise InputError(f"--directory {directory}: already holds something; name a new or an empty folder")
    yield directory.resolve()


def _conclude(options: argparse.Namespace) -> None:
    """How many planted faults were announced, by kind, how many announcements touch none, and where to go on."""
    from anomaly_daemon.simulation.labels import compare, read_labels

    labels = read_labels(Path(LABELS_FILE))
    comparison = compare(labels, _announced(options), GRACE_MINUTES * 60_000_000)
    print(f"\n{_verdict(labels, comparison)}")
    print(
        "\nNext: the README shows how to point it at a topic of your own (configs/sensors.yaml), and how to read an alert;\n"
        "in a folder kept with `anomaly-daemon demo --directory DIR` every line above that begins with $ can be typed again,\n"
        "but for simulate, which would append the same records once more."
    )


def _announced(options: argparse.Namespace) -> list[Span]:
    """The interval of every incident; one that is still open lasts to the end of the simulation."""
    from anomaly_daemon.commands.published import Wanted, read_incidents
    from anomaly_daemon.domain.times import DAY_US
    from anomaly_daemon.settings import load
    from anomaly_daemon.simulation.labels import Span
    from anomaly_daemon.simulation.stream import parse_iso_us
    from anomaly_daemon.wiring import open_source

    settings = load([Path(SETTINGS_FILE)], options.assignments)
    with contextlib.closing(open_source(settings, topics=(settings.output.alerts_topic,))) as source:
        incidents = read_incidents(source).listed(Wanted())
    open_until_us = parse_iso_us(START) + DAYS * DAY_US
    spans = []
    for alert in (incident.latest for incident in incidents):
        end_us = open_until_us if alert.ends_at is None else parse_iso_us(alert.ends_at.isoformat())
        spans.append(Span(alert.entity, parse_iso_us(alert.starts_at.isoformat()), end_us))
    return spans


def _verdict(labels: Sequence[Label], comparison: Comparison) -> str:
    """Counts, as they are."""
    kinds = sorted({label.kind for label in labels})
    found = {kind: sum(label.kind == kind for label in comparison.found) for kind in kinds}
    planted = {kind: sum(label.kind == kind for label in labels) for kind in kinds}
    by_kind = ", ".join(f"{kind} {found[kind]}/{planted[kind]}" for kind in kinds)
    false = len(comparison.false)
    return (
        f"Of {len(labels)} planted faults {len(comparison.found)} were announced, {len(comparison.missed)} were not: {by_kind}.\n"
        f"{false} incident{'' if false == 1 else 's'} touch{'es' if false == 1 else ''} no planted fault"
        f" (an incident counts for a fault that it overlaps, or follows within {GRACE_MINUTES} minutes)."
    )
