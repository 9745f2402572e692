"""`dump`: writes a topic of either log into a file or to standard output, one JSON line a record."""

from __future__ import annotations

import argparse
import gzip
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import IO

from anomaly_daemon.adapters.dump_format import encode_record
from anomaly_daemon.domain.errors import InputError, StopAtOnce
from anomaly_daemon.pipeline.topic_reader import TopicReader
from anomaly_daemon.telemetry import logging


def run(options: argparse.Namespace) -> int:
    """Dump the range; a file appears under its name only when it is whole."""
    from anomaly_daemon.settings import load
    from anomaly_daemon.wiring import open_source

    settings = load(options.config, options.assignments)
    logging.configure("warning", settings.logging.format)
    if options.first < 0 or (options.end is not None and options.end < options.first):
        raise InputError(f"--from {options.first} --to {options.end}: give offsets from 0 on, the first not after the end")
    output = None if options.output in (Path("-"), Path("/dev/stdout")) else options.output
    with closing(open_source(settings, topics=(options.topic,))) as source, _opened(output) as stream:
        records = 0
        for record in chain.from_iterable(TopicReader(source, options.first, options.end).to_end()):
            stream.write(encode_record(record) + b"\n")
            records += 1
    if output is not None:
        print(f"dumped {records} records of {options.topic} into {output}")
    return 0


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
