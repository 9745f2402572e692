"""`load`: writes files into a topic of either log, each row one record."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain, islice

from anomaly_daemon.adapters.dump_format import decode_message
from anomaly_daemon.adapters.file_names import InputFile, find_files
from anomaly_daemon.adapters.file_rows import RowColumns, check_files, read_lines, read_rows
from anomaly_daemon.domain.errors import InputError, TopicError
from anomaly_daemon.domain.ports import Topics
from anomaly_daemon.domain.records import Message

# Interleaving keeps every file open at once; systems commonly allow 1024.
INTERLEAVED_FILES_MAX = 512
_PROGRESS_RECORDS = 1000


@dataclass(slots=True)
class Loaded:
    """What went into the topic. untimed: rows whose time column could not be read; they bear the time of loading."""

    records: int = 0
    untimed: int = 0


def run(options: argparse.Namespace) -> int:
    """Load all files; nothing is written when one of them cannot be opened or the topic is missing."""
    from anomaly_daemon.settings import load
    from anomaly_daemon.wiring import open_topics

    settings = load(options.config, options.assignments)
    if options.limit is not None and options.limit < 1:
        raise InputError(f"--limit {options.limit}: load at least one row of each file")
    files = find_files(options.files)
    columns = RowColumns(key=options.key_column, time=options.time_column)
    if options.format == "auto":
        check_files(files, columns)
    elif columns != RowColumns():
        raise InputError("--format dump: the lines hold their own keys and times; leave --key-column and --time-column out")
    streams = [islice(_messages(file, options.topic, options.format, columns), options.limit) for file in files]
    messages = interleaved(streams) if options.interleave else chain.from_iterable(streams)
    with closing(open_topics(settings)) as topics, _progress(f"loading {len(files)} files") as advance:
        is_made = options.create or settings.topics.create_topics
        partitions = options.partitions if options.partitions is not None else settings.topics.partitions
        ensure_topic(topics, options.topic, partitions if is_made else None)
        loaded = append(topics, messages, advance)
    print(f"loaded {loaded.records} records from {len(files)} files into {options.topic}")
    if options.time_column and loaded.untimed:
        print(f"{loaded.untimed} of them have no readable {options.time_column}: they bear the time of loading", file=sys.stderr)
    return 0


def ensure_topic(topics: Topics, topic: str, partitions: int | None) -> None:
    """The topic exists; made with so many partitions where it is missing. Raises TopicError when it is and `partitions` is None."""
    if topic in topics.partitions([topic]):
        return
    if partitions is None:
        raise TopicError(f"no topic {topic}; make it with --create, and --partitions where {topic} needs other than topics.partitions")
    topics.create(topic, partitions)


def append(topics: Topics, messages: Iterable[Message], advance: Callable[[int], None]) -> Loaded:
    """Append them all, telling `advance` now and then how many more went; what was written."""
    loaded = Loaded()

    def counted() -> Iterator[Message]:
        for message in messages:
            loaded.records += 1
            loaded.untimed += message.timestamp_ms is None
            if loaded.records % _PROGRESS_RECORDS == 0:
                advance(_PROGRESS_RECORDS)
            yield message

    topics.append(counted())
    return loaded


def interleaved(streams: Sequence[Iterator[Message]]) -> Iterator[Message]:
    """The first of each stream, then the second of each, until all have ended. Raises InputError for more files than may be open at once."""
    if len(streams) > INTERLEAVED_FILES_MAX:
        raise InputError(
            f"--interleave: {len(streams)} files are more than can be open at once ({INTERLEAVED_FILES_MAX}); load them in several turns"
        )
    going_on = list(streams)
    while going_on:
        ended = []
        for stream in going_on:
            message = next(stream, None)
            if message is None:
                ended.append(stream)
            else:
                yield message
        going_on = [stream for stream in going_on if stream not in ended]


def _messages(file: InputFile, topic: str, file_format: str, columns: RowColumns) -> Iterator[Message]:
    if file_format == "dump":
        for number, line in enumerate(read_lines(file)):
            try:
                yield decode_message(line, topic)
            except InputError as error:
                raise InputError(f"{file.path}: row {number}: {error}") from error
    else:
        for row in read_rows(file, columns):
            yield Message(topic, row.key, row.value, timestamp_ms=row.timestamp_ms)


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int], None]]:
    """Counts records on standard error while it is a terminal; the end is not known beforehand."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn(title), TextColumn("{task.completed:,.0f} records"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=None)
        yield lambda records: progress.advance(task, records)
