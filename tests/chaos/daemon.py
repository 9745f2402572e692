"""The product's own `run` in this process, with named points at its seams: python -m tests.chaos.daemon --at after_produce:17 -- run -c FILE.

Nothing in the product knows of this: the seams are wrapped from outside, once, before the verb starts.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from signal import SIGHUP
from typing import Any

from kafka import KafkaConsumer, KafkaProducer

from anomaly_daemon import cli
from anomaly_daemon.adapters.checkpoint_store import FsspecCheckpointStore
from anomaly_daemon.adapters.checkpointers import WRITER, BackgroundCheckpoints
from anomaly_daemon.adapters.kafka_sink import KafkaSink
from anomaly_daemon.adapters.kafka_source import KafkaSource
from anomaly_daemon.adapters.sqlite_append import Appender
from anomaly_daemon.adapters.sqlite_sink import SqliteSink
from anomaly_daemon.adapters.sqlite_source import SqliteSource
from anomaly_daemon.domain.records import Batch, Checkpoint
from anomaly_daemon.pipeline.rule_book import RuleBook
from anomaly_daemon.state import checkpoint as checkpoint_bytes
from anomaly_daemon.thresholds.judge import Judge
from tests.chaos.acts import Act, Point
from tests.chaos.mutants import MUTANTS


class Passings:
    """Counts how often each point was passed, does what is due there, and notes commits and acts with their time in a timeline.

    reload_from: what replaces the settings file, `settings_file`, when a SIGHUP is due.
    """

    def __init__(self, acts: Sequence[Act], timeline: Path | None, settings_file: Path | None, reload_from: Path | None) -> None:
        self._due = {(act.point, act.passing): act for act in acts}
        self._counts: Counter[Point] = Counter()
        self._lock = threading.Lock()
        self._timeline = None if timeline is None else os.open(timeline, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._settings_file, self._reload_from = settings_file, reload_from
        self._consumer: KafkaConsumer | None = None

    def connected(self, consumer: KafkaConsumer) -> None:
        """The one that the daemon reads with now."""
        self._consumer = consumer

    def passed(self, point: Point) -> None:
        with self._lock:
            self._counts[point] += 1
            act = self._due.get((point, self._counts[point]))
        if act is not None:
            self._note(str(act))
            self._do(act)
        elif point is Point.AFTER_COMMIT:
            self._note(point.value)

    def _do(self, act: Act) -> None:
        if act.is_silence:
            assert self._consumer is not None
            # It stands where it is and is asked for no more, as in the client's issues 3106 and 3131.
            self._consumer.pause(min(self._consumer.assignment()))
            return
        if act.signal is None:
            shift_clock(act.clock_s)
            return
        if act.signal is SIGHUP and self._reload_from is not None and self._settings_file is not None:
            os.replace(self._reload_from, self._settings_file)
        os.kill(os.getpid(), act.signal)
        time.sleep(act.pause_s)

    def _note(self, text: str) -> None:
        if self._timeline is not None:
            os.write(self._timeline, f"{time.monotonic():.6f} {os.getpid()} {text}\n".encode())


def shift_clock(seconds: float) -> None:
    """The wall clock of this process jumps; the monotonic one goes on."""
    now_s, now_ns = time.time, time.time_ns
    time.time = lambda: now_s() + seconds
    time.time_ns = lambda: now_ns() + round(seconds * 1e9)


def wrap(owner: Any, name: str, *, before: Callable[[], None] | None = None, after: Callable[[Any], None] | None = None) -> None:
    """Call `before` ahead of a method, `after` with what it returned."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        if before is not None:
            before()
        result = original(*arguments, **options)
        if after is not None:
            after(result)
        return result

    setattr(owner, name, wrapped)


def install(passings: Passings) -> None:
    """Put the points where they belong, on Kafka and on the embedded log: a daemon uses one of them."""

    def pass_by(point: Point) -> Callable[..., None]:
        return lambda *_: passings.passed(point)

    def polled(batch: Batch) -> None:
        if batch.records:
            passings.passed(Point.AFTER_POLL)

    wrap(Judge, "judge", after=pass_by(Point.MID_BATCH))
    for source, sink in ((KafkaSource, KafkaSink), (SqliteSource, SqliteSink)):
        wrap(source, "poll", after=polled)
        wrap(source, "seek", after=pass_by(Point.IN_RECOVERY))
        wrap(sink, "commit", after=pass_by(Point.AFTER_COMMIT))
    wrap(KafkaSource, "_connected", after=passings.connected)
    wrap(KafkaProducer, "flush", after=pass_by(Point.AFTER_PRODUCE))
    wrap(KafkaProducer, "send_offsets_to_transaction", after=pass_by(Point.AFTER_OFFSETS))
    wrap(KafkaProducer, "commit_transaction", before=pass_by(Point.BEFORE_COMMIT))
    wrap(Appender, "append", after=pass_by(Point.AFTER_PRODUCE))
    wrap(SqliteSink, "_move_forward", after=pass_by(Point.AFTER_OFFSETS))
    wrap(SqliteSink, "_move_forward", after=pass_by(Point.BEFORE_COMMIT))
    wrap(BackgroundCheckpoints, "load", after=pass_by(Point.IN_RECOVERY))
    # Once before the last checkpoints are handed over, once while they are written.
    wrap(BackgroundCheckpoints, "flush", before=pass_by(Point.IN_DRAIN))
    _install_in_checkpoint(passings)
    _install_in_reload(passings)


def _install_in_checkpoint(passings: Passings) -> None:
    """With a part of the bytes handed to the file, and with all of them there, before older ones are removed."""
    whole = checkpoint_bytes.pieces

    def pieces(checkpoint: Checkpoint) -> Iterator[bytes | memoryview]:
        for number, piece in enumerate(whole(checkpoint)):
            yield piece
            if number == 1:
                passings.passed(Point.IN_CHECKPOINT)

    checkpoint_bytes.pieces = pieces
    wrap(FsspecCheckpointStore, "_entries", before=lambda: passings.passed(Point.IN_CHECKPOINT) if _is_writing() else None)


def _is_writing() -> bool:
    return threading.current_thread().name == WRITER


def _install_in_reload(passings: Passings) -> None:
    """Before the cut is noted, after each partition's note, and after all of them."""
    cutting = threading.Event()

    def begin() -> None:
        passings.passed(Point.IN_RELOAD)
        cutting.set()

    def end(_: object) -> None:
        cutting.clear()
        passings.passed(Point.IN_RELOAD)

    wrap(RuleBook, "cut", before=begin, after=end)
    wrap(FsspecCheckpointStore, "save_rules", after=lambda _: passings.passed(Point.IN_RELOAD) if cutting.is_set() else None)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tests.chaos.daemon", description="The daemon, with something to happen to it.")
    parser.add_argument("--at", type=Act.parse, action="append", default=[], metavar="POINT:N[:SIGNAL|:+SECONDSs|:SILENCE]", help="repeatable")
    parser.add_argument("--timeline", type=Path, help="where commits and acts are noted with their monotonic time")
    parser.add_argument("--settings-file", type=Path, help="what a SIGHUP's settings replace")
    parser.add_argument("--reload-from", type=Path, help="settings that take the file's place just before a SIGHUP")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="a planted defect")
    parser.add_argument("command", nargs="+", help="after --: the verb and its arguments")
    options = parser.parse_args(arguments)
    if options.mutant is not None:
        MUTANTS[options.mutant].plant()
    install(Passings(options.at, options.timeline, options.settings_file, options.reload_from))
    return cli.main(options.command)


if __name__ == "__main__":
    sys.exit(main())
