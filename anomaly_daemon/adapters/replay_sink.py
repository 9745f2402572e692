"""Where a replay's alerts go: a file of JSON Lines. Nothing is committed anywhere."""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path

from anomaly_daemon.adapters.whole_file import WholeFile
from anomaly_daemon.domain.errors import StopAtOnce
from anomaly_daemon.domain.records import BatchOutput, Offset, Partition


class ReplaySink:
    """A `Sink` that writes each alert's body as one line; the file is whole or not there.

    committed: per partition the offset before which everything is reported, moved on here: a recovery begins from it.
    """

    def __init__(self, path: Path, alerts_topic: str, committed: MutableMapping[Partition, Offset], *, is_forced: bool) -> None:
        self._path, self._file = path, WholeFile(path, is_forced=is_forced)
        self._alerts_topic, self._committed = alerts_topic, committed
        self._is_closed = False
        self.alerts = 0

    def commit(self, output: BatchOutput) -> None:
        """Append the alerts of a batch. Raises StopAtOnce where the disk is full."""
        lines = [message.value for message in output.messages if message.topic == self._alerts_topic and message.value is not None]
        try:
            self._file.stream.write(b"".join(line + b"\n" for line in lines))
        except OSError as error:
            raise StopAtOnce(f"{self._path}: {error.strerror} after {self.alerts:,} alerts; make room and replay again") from None
        self.alerts += len(lines)
        self._committed.update(output.next_offsets)

    def discard(self) -> None:
        """Close without leaving a file."""
        self._is_closed = True
        self._file.discard()

    def close(self) -> None:
        """Put the file under its name; may be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._file.finish()
        except OSError as error:
            raise StopAtOnce(f"{self._path}: cannot be finished: {error.strerror}; make room and replay again") from None
        finally:
            self._file.close()
