"""`simulate`: labelled synthetic sensors or transactions, into a topic or a file."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TextIO

from anomaly_daemon.domain.errors import InputError, StopAtOnce, TopicError

if TYPE_CHECKING:
    from anomaly_daemon.simulation.labels import Ledger
    from anomaly_daemon.simulation.stream import Chunk, Scenario
    from anomaly_daemon.simulation.writer import Output, Produced, Progress

ANOMALIES_PER_DAY = {"sensors": 1.0, "transactions": 0.1}
KEY_FIELD_OF_LINES = {"sensors": "entity", "transactions": None}
NOUNS = {"sensors": "pumps", "transactions": "cards"}


def run(options: argparse.Namespace) -> int:
    """Simulate to the end, or until Ctrl-C: then what was begun is finished, and the exit code is 130."""
    from anomaly_daemon.adapters.clock import SystemClock
    from anomaly_daemon.simulation.labels import Ledger
    from anomaly_daemon.simulation.writer import produce

    per_second = _rate(options.rate)
    scenario, chunks = _simulator(options)
    try:
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(contextlib.closing(_output(options, scenario.start_us)))
            ledger = Ledger(stack.enter_context(_open_labels(options.labels)) if options.labels else None)
            is_stopped = stack.enter_context(_stopped_by_interrupt())
            progress = stack.enter_context(_progress(scenario, f"simulating {scenario.entities} {NOUNS[options.what]}"))
            produced = produce(chunks, output, ledger, SystemClock(), per_second=per_second, is_stopped=is_stopped, progress=progress)
    except BrokenPipeError:
        raise
    except OSError as error:
        written = " or ".join(f"{name} {path}" for name, path in (("--output", options.output), ("--labels", options.labels)) if path is not None)
        raise StopAtOnce(f"{written}: cannot be written on: {error.strerror}; make room, or name a file elsewhere") from None
    print(_summary(options, scenario, produced, ledger))
    return 0 if produced.is_whole else 130


def _simulator(options: argparse.Namespace) -> tuple[Scenario, Iterable[Chunk]]:
    """The scenario asked for and its records to come. Raises InputError for what cannot be simulated."""
    from anomaly_daemon.simulation.sensors import SensorScenario, sensor_chunks
    from anomaly_daemon.simulation.stream import Scenario, parse_iso_us
    from anomaly_daemon.simulation.transactions import transaction_chunks

    try:
        start_us = parse_iso_us(options.start)
    except ValueError:
        raise InputError(f"--start {options.start}: write an ISO 8601 time such as 2026-01-01T00:00:00Z") from None
    rate = options.faults_per_entity_per_day
    scenario = Scenario(
        entities=options.entities,
        start_us=start_us,
        duration_us=_duration_us("--duration", options.duration),
        seed=options.seed,
        clean_share=options.clean_share,
        anomaly_rate=ANOMALIES_PER_DAY[options.what] if rate is None else rate,
    )
    if options.what == "transactions":
        return scenario, transaction_chunks(scenario)
    return scenario, sensor_chunks(SensorScenario(scenario, _duration_us("--interval", options.interval)))


def _duration_us(argument: str, text: str) -> int:
    from anomaly_daemon.settings import parse_duration_s

    try:
        return round(float(str(parse_duration_s(text))) * 1_000_000)
    except ValueError as error:
        raise InputError(f"{argument}: {error}") from None


def _rate(text: str | None) -> float | None:
    """Records a second of `500/s` or `500`; None for none."""
    if text is None:
        return None
    try:
        per_second = float(text.removesuffix("/s"))
    except ValueError:
        per_second = 0.0
    if not 0 < per_second < 1e9:
        raise InputError(f"--rate {text}: write records a second, such as 500/s")
    return per_second


def _output(options: argparse.Namespace, start_us: int) -> Output:
    from anomaly_daemon.simulation.writer import FileOutput, TopicOutput

    if options.output is not None:
        if options.create or options.partitions is not None:
            raise InputError("--create and --partitions go with --topic, not with --output")
        return FileOutput(options.output, KEY_FIELD_OF_LINES[options.what])
    from anomaly_daemon.adapters.clock import SystemClock
    from anomaly_daemon.commands.load import checked_partitions, why_short_lived
    from anomaly_daemon.settings import load
    from anomaly_daemon.wiring import open_topics

    settings = load(options.config, options.assignments)
    partitions = checked_partitions(options.partitions, settings.topics.partitions)
    topics = open_topics(settings)
    try:
        if options.topic not in topics.partitions([options.topic]):
            if not (options.create or settings.topics.create_topics):
                raise TopicError(f"{settings.log}: no topic {options.topic}; add --create, and --partitions N if you like, to make it")
            topics.create(options.topic, partitions)
        if told := why_short_lived(topics, options.topic, start_us // 1000, SystemClock()):
            print(told, file=sys.stderr)
    except BaseException:
        topics.close()
        raise
    return TopicOutput(topics, options.topic)


def _open_labels(path: Path) -> TextIO:
    try:
        return path.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise InputError(f"--labels {path}: cannot be written: {error.strerror}; name another file") from None


@contextlib.contextmanager
def _stopped_by_interrupt() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed; a second one ends the process in the usual way."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted.is_set
        return
    before = signal.getsignal(signal.SIGINT)

    def note(_signal: int, _frame: FrameType | None) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupted.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _progress(scenario: Scenario, title: str) -> Iterator[Progress | None]:
    """A bar over event time on standard error, where that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich import progress
    from rich.console import Console

    count = progress.TextColumn("{task.fields[records]:,} records")
    columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), progress.TaskProgressColumn(), count, progress.TimeRemainingColumn())
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=scenario.duration_us, records=0)
        yield lambda records, until_us: bar.update(task, completed=until_us - scenario.start_us, records=records)


def _summary(options: argparse.Namespace, scenario: Scenario, produced: Produced, ledger: Ledger) -> str:
    """What was written, what was planted in it, and up to when it is clean."""
    from anomaly_daemon.simulation.stream import iso_time

    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(ledger.kinds.items()))
    speed = produced.records / max(produced.seconds, 1e-9)
    written = f"{produced.records:,} records of {scenario.entities:,} {NOUNS[options.what]} to {options.topic or options.output}"
    lines = [
        f"{written} in {produced.seconds:.1f} s, {speed:,.0f} records/s",
        f"{ledger.kinds.total():,} anomalies planted{': ' + kinds if kinds else ''}",
    ]
    if scenario.start_us < scenario.clean_until_us < scenario.end_us:
        lines.append(f"clean until {iso_time(scenario.clean_until_us)}: train with --to {iso_time(scenario.clean_until_us)}")
    if not produced.is_whole:
        lines.append("stopped before the end: what was written is whole")
    return "\n".join(lines)
