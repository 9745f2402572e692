"""`dump`: writes a topic of either log into a file or to standard output, one JSON line a record."""

from __future__ import annotations

import argparse
import gzip
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import IO

from anomaly_daemon.adapters.dump_format import encode_record
from anomaly_daemon.domain.errors import InputError, LogUnavailable, StopAtOnce
from anomaly_daemon.domain.ports import Clock, Source
from anomaly_daemon.domain.records import Bounds, ChangeKind, Offset, Partition, Record
from anomaly_daemon.telemetry import logging

POLL_S = 0.5
SILENCE_MAX_S = 30.0


def run(options: argparse.Namespace) -> int:
    """Dump the range; a file appears under its name only when it is whole."""
    from anomaly_daemon.adapters.clock import SystemClock
    from anomaly_daemon.settings import load
    from anomaly_daemon.wiring import open_source

    settings = load(options.config, options.assignments)
    logging.configure("warning", settings.logging.format)
    if options.first < 0 or (options.end is not None and options.end < options.first):
        raise InputError(f"--from {options.first} --to {options.end}: give offsets from 0 on, the first not after the end")
    output = None if options.output in (Path("-"), Path("/dev/stdout")) else options.output
    with closing(open_source(settings, topics=(options.topic,))) as source, _opened(output) as stream:
        records = 0
        for record in records_between(source, options.first, options.end, SystemClock()):
            stream.write(encode_record(record) + b"\n")
            records += 1
    if output is not None:
        print(f"dumped {records} records of {options.topic} into {output}")
    return 0


def records_between(source: Source, first: Offset, end: Offset | None, clock: Clock) -> Iterator[Record]:
    """The retained records with first ≤ offset < end of every partition that the source is assigned, as the log stands now.

    Raises LogUnavailable when the log falls silent before the end.
    """
    ends: dict[Partition, Offset] = {}
    heard_s = clock.monotonic_s()
    while clock.monotonic_s() - heard_s < SILENCE_MAX_S:
        batch = source.poll(POLL_S)
        assigned = [partition for change in batch.changes if change.kind is ChangeKind.ASSIGNED for partition in change.partitions]
        for partition, bounds in source.bounds(assigned).items() if assigned else ():
            wanted = _clipped(bounds, first, end)
            source.seek(partition, wanted.earliest)
            ends[partition] = wanted.end
        for record in batch.records:
            if record.offset < ends[record.partition]:
                yield record
        positions = source.positions()
        if ends and all(positions.get(partition, 0) >= stop for partition, stop in ends.items()):
            return
        if batch.records or batch.changes:
            heard_s = clock.monotonic_s()
    raise LogUnavailable(f"the log brought nothing for {SILENCE_MAX_S:g} s before the end of the topic; look whether it is up, and dump again")


def _clipped(bounds: Bounds, first: Offset, end: Offset | None) -> Bounds:
    stop = bounds.end if end is None else min(end, bounds.end)
    return Bounds(max(first, bounds.earliest), stop)


@contextmanager
def _opened(path: Path | None) -> Iterator[IO[bytes]]:
    """Standard output, or a file that takes its name when all is written; a pipe or a device is written to as it is.

    Raises InputError where it cannot be opened, StopAtOnce where it cannot be written on.
    """
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    if path.is_dir():
        raise InputError(f"--output {path}: is a folder; name a file in it, such as {path / 'topic.jsonl.gz'}")
    is_special = path.exists() and not path.is_file()
    part = path if is_special else path.with_name(path.name + ".part")
    try:
        raw = part.open("wb")
    except OSError as error:
        raise InputError(f"--output {path}: cannot be written: {error.strerror}; choose another place") from error
    try:
        with raw, _packed(raw) if path.suffix == ".gz" else nullcontext(raw) as stream:
            yield stream
        if not is_special:
            part.replace(path)
    except OSError as error:
        raise StopAtOnce(f"--output {path}: cannot be written on: {error.strerror or error}; make room or choose another place") from error
    finally:
        if not is_special:
            part.unlink(missing_ok=True)


def _packed(raw: IO[bytes]) -> AbstractContextManager[IO[bytes]]:
    return gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0)  # type: ignore[return-value]  # a GzipFile writes like any binary file
