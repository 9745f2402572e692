"""`load`: writes files or standard input into a topic of either log, one after the other as given, each row one record."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path

from anomaly_daemon.adapters.clock import SystemClock
from anomaly_daemon.adapters.dump_format import decode_message, is_dumped, whole_record_of
from anomaly_daemon.adapters.file_columns import NO_COLUMNS, RowColumns
from anomaly_daemon.adapters.file_names import STANDARD_INPUT, InputFile, find_files
from anomaly_daemon.adapters.file_rows import check_files, is_json_lines, read_rows
from anomaly_daemon.domain.errors import InputError, TopicError
from anomaly_daemon.domain.ports import Clock, Topics
from anomaly_daemon.domain.records import Message
from anomaly_daemon.settings import PARTITIONS_MAX

# Interleaving keeps every file open at once; systems commonly allow 1024.
INTERLEAVED_FILES_MAX = 512
_DAY_S = 86_400.0
STANDARD_INPUT_NAMES = ("-", str(STANDARD_INPUT))
_SUFFIXES = {"csv": ".csv", "jsonl": ".jsonl", "dump": ".jsonl"}
_PROGRESS_RECORDS = 1000
_PLACES_MAX = 10


@dataclass(slots=True)
class Loaded:
    """What went into the topic. untimed: rows whose time column could not be read; they bear the time of loading. oldest_ms: of the others."""

    records: int = 0
    untimed: int = 0
    oldest_ms: int | None = None


@dataclass(slots=True)
class LeftOut:
    """Dead letters that were cut. places: where the whole records of the first of them are."""

    records: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, place: str) -> None:
        """One more."""
        self.records += 1
        if self.records <= _PLACES_MAX:
            self.places.append(place)

    def __str__(self) -> str:
        places = ", ".join(self.places) + (", …" if self.records > _PLACES_MAX else "")
        return (
            f"{self.records} dead letters are not loaded, for they were cut; the whole records are at {places}: dump and mend those, or give a line "
            "its whole value and take the header dead_letter.cut out of it"
        )


def run(options: argparse.Namespace) -> int:
    """Load all files; nothing is written when one of them cannot be opened, standard input does not begin as it should, or the topic is missing.

    A row that cannot be read later on ends the loading: what stands before it is written. Dead letters that were cut are left out, and refused
    at the end.
    """
    from anomaly_daemon.settings import load
    from anomaly_daemon.wiring import open_topics

    settings = load(options.config, options.assignments)
    if options.limit is not None and options.limit < 1:
        raise InputError(f"--limit {options.limit}: load at least one row of each file")
    partitions = checked_partitions(options.partitions, settings.topics.partitions)
    columns = RowColumns(key=options.key_column, time=options.time_column)
    if options.format == "dump" and columns != NO_COLUMNS:
        raise InputError("--format dump: the lines hold their own keys and times; leave --key-column and --time-column out")
    files = _inputs(options.files, options.format)
    check_files([file for file in files if file.path != STANDARD_INPUT], columns)
    left_out = LeftOut()
    streams = [islice(_begun(_messages(file, options.topic, options.format, columns, left_out), file), options.limit) for file in files]
    messages = interleaved(streams) if options.interleave else chain.from_iterable(streams)
    with closing(open_topics(settings)) as topics, _progress(f"loading {len(files)} files") as advance:
        is_made = options.create or settings.topics.create_topics
        ensure_topic(topics, options.topic, partitions if is_made else None)
        loaded = append(topics, messages, advance)
        short_lived = why_short_lived(topics, options.topic, loaded.oldest_ms, SystemClock())
    without = f", without {left_out.records} that were cut" if left_out.records else ""
    print(f"loaded {loaded.records} records from {len(files)} files into {options.topic}{without}")
    if options.time_column and loaded.untimed:
        print(f"{loaded.untimed} of them have no readable {options.time_column}: they bear the time of loading", file=sys.stderr)
    if short_lived:
        print(short_lived, file=sys.stderr)
    if left_out.records:
        raise InputError(str(left_out))
    return 0


def why_short_lived(topics: Topics, topic: str, oldest_ms: int | None, clock: Clock) -> str | None:
    """What to tell of records that are older than their topic keeps any: they are deleted within minutes, read or not."""
    if oldest_ms is None or (kept_s := topics.kept_s(topic)) is None or oldest_ms / 1000 >= clock.now_us() / 1e6 - kept_s:
        return None
    return (
        f"WARNING: {topic} keeps a record for {kept_s / _DAY_S:g} days after its timestamp, and there are older ones among these: they are deleted "
        "soon, read or not; raise retention.ms of the topic and write them again, or have the topic made: --create --set topics.retention=36500d"
    )


def checked_partitions(wanted: int | None, default: int) -> int:
    """Partitions of a topic that is made. Raises InputError for a number that cannot be."""
    if wanted is not None and not 1 <= wanted <= PARTITIONS_MAX:
        raise InputError(f"--partitions {wanted}: choose 1 to {PARTITIONS_MAX}")
    return default if wanted is None else wanted


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
            if message.timestamp_ms is None:
                loaded.untimed += 1
            elif loaded.oldest_ms is None or message.timestamp_ms < loaded.oldest_ms:
                loaded.oldest_ms = message.timestamp_ms
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


def _inputs(names: Sequence[str], form: str) -> list[InputFile]:
    """The files as given, each once, read as `form` says whatever they are called. Raises InputError."""
    found: dict[Path, InputFile] = {}
    for name in names:
        if name in STANDARD_INPUT_NAMES:
            found.setdefault(STANDARD_INPUT, InputFile(STANDARD_INPUT, "", _SUFFIXES.get(form, ".jsonl")))
            continue
        for file in find_files([name]):
            found.setdefault(file.path, replace(file, suffix=_SUFFIXES[form]) if form in _SUFFIXES else file)
    return list(found.values())


def _messages(file: InputFile, topic: str, form: str, columns: RowColumns, left_out: LeftOut) -> Iterator[Message]:
    """What the rows become; lines that `dump` wrote are known by the first two, unless columns are asked for. Raises InputError."""
    rows = read_rows(file, columns)
    begun = list(islice(rows, 2))
    may_be_dump = form == "auto" and columns == NO_COLUMNS and is_json_lines(file)
    are_dumped = [form == "dump" or (may_be_dump and is_dumped(row.value)) for row in begun]
    if are_dumped == [False, True]:
        raise InputError(f"{file.path}: row 0 is no line that `dump` wrote, row 1 is; mend row 0, or say --format jsonl to load lines as they are")
    is_dump = any(are_dumped)
    for number, row in enumerate(chain(begun, rows)):
        if not is_dump:
            yield Message(topic, row.key, row.value, timestamp_ms=row.timestamp_ms)
            continue
        try:
            message = decode_message(row.value, topic)
        except InputError as error:
            raise InputError(f"{file.path}: row {number}: {error}") from error
        if (place := whole_record_of(message)) is None:
            yield message
        else:
            left_out.add(place)


def _begun(messages: Iterator[Message], file: InputFile) -> Iterator[Message]:
    """The same; of standard input, which can be read but once, the first is read now."""
    return chain(list(islice(messages, 1)), messages) if file.path == STANDARD_INPUT else messages


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
