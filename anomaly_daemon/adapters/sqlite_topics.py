"""`Topics` on the embedded log: which topics there are, making them, appending outside any group."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from anomaly_daemon.adapters.sqlite_append import Appender
from anomaly_daemon.adapters.sqlite_retention import Housekeeper, Retention
from anomaly_daemon.adapters.sqlite_schema import BUSY_TIMEOUT_S, LogFile, damaged, is_made
from anomaly_daemon.adapters.topic_names import missing_topics
from anomaly_daemon.domain.errors import TopicError
from anomaly_daemon.domain.ports import Clock
from anomaly_daemon.domain.records import Message
from anomaly_daemon.settings import KAFKA_NAME, PARTITIONS_MAX

_CHUNK_RECORDS = 8192
_CHUNK_BYTES = 16 * 2**20
_NAME = re.compile(KAFKA_NAME)  # so that settings fit either log
_ID = re.compile("[0-9a-f]{32}")


class SqliteTopics:
    """The file is made by the first `create`: asking which topics there are changes nothing on disk. Appending applies the retention."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        retention_s: float | None = None,
        retention_bytes: int | None = None,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> None:
        self._path = path
        self._clock = clock
        self._retention = Retention(retention_s, retention_bytes)
        self._busy_timeout_s = busy_timeout_s
        self._appender = Appender(path, clock)
        self._log: LogFile | None = None
        self._housekeeper: Housekeeper | None = None

    def log_id(self) -> str:
        """Drawn when the file was made. Raises LogUnavailable, LogCorrupt, SettingsError."""
        with self._opened().reading() as connection:
            found = connection.execute("SELECT id FROM log").fetchall()
        if len(found) != 1 or not _ID.fullmatch(found[0][0]):
            raise damaged(self._path, "its own id is not there")
        return str(found[0][0])

    def partitions(self, topics: Sequence[str]) -> dict[str, int]:
        """Partition count of those topics that exist. Raises LogUnavailable, LogCorrupt, SettingsError."""
        if not is_made(self._path):
            return {}
        with self._opened().reading() as connection:
            rows = connection.execute("SELECT t.name, count(*) FROM topics t JOIN partitions p ON p.topic_id = t.id GROUP BY t.id").fetchall()
        counts = dict(rows)
        return {topic: counts[topic] for topic in topics if topic in counts}

    def create(self, topic: str, partitions: int) -> None:
        """Create a topic; nothing happens when it exists. Raises TopicError for a name or count that cannot be."""
        if not _NAME.fullmatch(topic) or topic in (".", ".."):
            raise TopicError(f"topic {topic!r}: use 1 to 249 letters, digits, dots, underscores and hyphens")
        if not 1 <= partitions <= PARTITIONS_MAX:
            raise TopicError(f"topic {topic}: {partitions} partitions; choose 1 to {PARTITIONS_MAX}")
        with self._opened().writing() as connection:
            inserted = connection.execute("INSERT INTO topics (name) VALUES (?) ON CONFLICT DO NOTHING", (topic,))
            if inserted.rowcount:
                rows = [(inserted.lastrowid, number) for number in range(partitions)]
                connection.executemany("INSERT INTO partitions (topic_id, number) VALUES (?, ?)", rows)

    def kept_s(self, topic: str) -> float | None:
        """As the settings say, of every topic."""
        del topic
        return self._retention.age_s

    def is_compacted(self, topic: str) -> bool:
        """Never."""
        del topic
        return False

    def append(self, messages: Iterable[Message]) -> int:
        """Append in order and durably, some thousand records a transaction; returns how many.

        Raises TopicError where a topic is missing; the transactions before that one stay.
        """
        appended = 0
        for chunk in _chunks(messages):
            if not is_made(self._path):
                raise missing_topics(f"log {self._path}", {message.topic for message in chunk}, ())
            with self._opened().writing() as connection:
                self._appender.append(connection, chunk)
            appended += len(chunk)
            if self._housekeeper is not None:
                self._housekeeper.run_if_due()
        return appended

    def close(self) -> None:
        """Let go of the file; may be called twice."""
        if self._log is not None:
            self._log.close()
        self._log = self._housekeeper = None

    def _opened(self) -> LogFile:
        if self._log is None:
            self._log = LogFile(self._path, self._clock, self._busy_timeout_s)
            self._housekeeper = Housekeeper(self._log, self._retention, self._clock)
        return self._log


def _chunks(messages: Iterable[Message]) -> Iterator[list[Message]]:
    """Pieces bounded in records and, within one message, in bytes."""
    stream = iter(messages)
    while True:
        chunk, chunk_bytes = [], 0
        for message in itertools.islice(stream, _CHUNK_RECORDS):
            chunk.append(message)
            chunk_bytes += len(message.value or b"")
            if chunk_bytes >= _CHUNK_BYTES:
                break
        if not chunk:
            return
        yield chunk
