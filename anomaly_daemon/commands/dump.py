"""`dump`: writes a topic of either log into a file or to standard output, one JSON line a record."""

from __future__ import annotations

import argparse
import gzip
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

from anomaly_daemon.adapters.dump_format import encode_record
from anomaly_daemon.domain.errors import InputError, LogUnavailable
from anomaly_daemon.domain.ports import Clock, Source
from anomaly_daemon.domain.records import Bounds, ChangeKind, Offset, Partition, Record

POLL_S = 0.5
SILENCE_MAX_S = 30.0


def run(options: argparse.Namespace) -> int:
    """Dump the range; a file appears under its name only when it is whole."""
    from anomaly_daemon.adapters.clock import SystemClock
    from anomaly_daemon.settings import load
    from anomaly_daemon.wiring import open_source

    settings = load(options.config, options.assignments)
    if options.first < 0 or (options.end is not None and options.end < options.first):
        raise InputError(f"--from {options.first} --to {options.end}: give offsets from 0 on, the first not after the end")
    with closing(open_source(settings, topics=(options.topic,))) as source, _opened(options.output) as stream:
        records = 0
        for record in records_between(source, options.first, options.end, SystemClock()):
            stream.write(encode_record(record) + b"\n")
            records += 1
    if options.output is not None:
        print(f"dumped {records} records of {options.topic} into {options.output}")
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
    """Standard output, or a file that takes its name when all is written. Raises InputError where it cannot be."""
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
                    yield packed  # type: ignore[misc]
            else:
                yield raw
        part.replace(path)
    except OSError as error:
        raise InputError(f"--output {path}: cannot be written: {error.strerror or error}; choose another place or make room") from error
    finally:
        part.unlink(missing_ok=True)
