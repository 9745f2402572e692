"""From a simulator's chunks to a topic or a file, at a rate or as fast as it goes; stops between pieces, never inside one."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.domain.ports import Clock, Topics
from anomaly_daemon.domain.records import Message
from anomaly_daemon.simulation.labels import Ledger
from anomaly_daemon.simulation.stream import Chunk

PIECE_S = 0.1
PIECE_RECORDS_MAX = 8192
SLEEP_MAX_S = 0.2


Progress = Callable[[int, int], None]


class Output(Protocol):
    """Where records go."""

    def write(self, chunk: Chunk) -> None:
        """Append all records of the chunk, in order."""
        ...

    def close(self) -> None:
        """Finish what was written."""
        ...


class TopicOutput:
    """Into a topic: key, value and the event time as the record's own timestamp."""

    def __init__(self, topics: Topics, topic: str) -> None:
        self._topics = topics
        self._topic = topic

    def write(self, chunk: Chunk) -> None:
        """Append durably. Raises TopicError where the topic is missing, LogUnavailable where the log is."""
        columns = zip(chunk.keys, chunk.values, chunk.times_us, strict=True)
        self._topics.append(Message(self._topic, key, value, (), time_us // 1000) for key, value, time_us in columns)

    def close(self) -> None:
        """Let go of the log."""
        self._topics.close()


class FileOutput:
    """Into JSON Lines, gzipped where the name ends in .gz; the bytes depend on the records alone."""

    def __init__(self, path: Path, key_field: str | None) -> None:
        """key_field: the field that each line gets for the record's key; None where the value holds it already."""
        self._lead = None if key_field is None else b'{"' + key_field.encode() + b'":"'
        try:
            self._file: BinaryIO = path.open("wb")
        except OSError as error:
            raise InputError(f"--output {path}: cannot be written: {error.strerror}; name another file") from None
        self._lines: BinaryIO | gzip.GzipFile = self._file
        if path.suffix == ".gz":
            self._lines = gzip.GzipFile(filename="", mode="wb", compresslevel=3, fileobj=self._file, mtime=0)

    def write(self, chunk: Chunk) -> None:
        """Append one line a record."""
        if self._lead is None:
            lines = chunk.values
        else:
            lines = [b'%b%b",%b' % (self._lead, key, value[1:]) for key, value in zip(chunk.keys, chunk.values, strict=True)]
        if lines:
            self._lines.write(b"\n".join(lines) + b"\n")

    def close(self) -> None:
        """Finish the file; may be called twice."""
        self._lines.close()
        self._file.close()


@dataclass(frozen=True, slots=True)
class Produced:
    """records written; until_us: the event time up to which; seconds taken; is_whole: not stopped before the end."""

    records: int
    until_us: int
    seconds: float
    is_whole: bool


def produce(
    chunks: Iterable[Chunk],
    output: Output,
    ledger: Ledger,
    clock: Clock,
    *,
    per_second: float | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
) -> Produced:
    """Write all records, label what they hold, and tell `progress` of each piece: records so far, event time reached.

    per_second: records a second; None: as fast as it goes.
    """
    started_s = clock.monotonic_s()
    records, until_us, is_whole = 0, 0, True
    try:
        for piece in _pieces(chunks, per_second):
            if per_second is not None:
                _wait_until(started_s + records / per_second, clock, is_stopped)
            if is_stopped():
                is_whole = False
                break
            output.write(piece)
            ledger.add(piece.labels)
            ledger.settle(piece.until_us)
            records += len(piece.keys)
            until_us = piece.until_us
            if progress is not None:
                progress(records, until_us)
    finally:
        ledger.finish(until_us)
    return Produced(records, until_us, clock.monotonic_s() - started_s, is_whole)


def _pieces(chunks: Iterable[Chunk], per_second: float | None) -> Iterable[Chunk]:
    size = PIECE_RECORDS_MAX if per_second is None else max(1, min(PIECE_RECORDS_MAX, round(per_second * PIECE_S)))
    for chunk in chunks:
        yield from chunk.pieces(size)


def _wait_until(due_s: float, clock: Clock, is_stopped: Callable[[], bool]) -> None:
    while (left_s := due_s - clock.monotonic_s()) > 0 and not is_stopped():
        clock.sleep(min(left_s, SLEEP_MAX_S))
