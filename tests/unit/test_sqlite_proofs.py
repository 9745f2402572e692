"""What SQLite itself cannot notice: a record, an offset or an end that is another than was written."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from anomaly_daemon.adapters.sqlite_sink import SqliteSink
from anomaly_daemon.adapters.sqlite_source import SqliteSource
from anomaly_daemon.adapters.sqlite_topics import SqliteTopics
from anomaly_daemon.domain.errors import LogCorrupt
from anomaly_daemon.domain.records import BatchOutput, Message, Partition, Record
from tests.contract.logs import ManualClock, read_all

P = Partition("readings", 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A log of forty records, some with headers, some without key or value, of which a group committed twenty."""
    path, clock = tmp_path / "topics.db", ManualClock()
    with closing(SqliteTopics(path, clock)) as topics:
        topics.create("readings", 1)
        topics.append(
            Message(
                "readings", None if number % 5 == 4 else b"pump", None if number == 7 else b"%d" % number, (("a", b"1"),) if number % 3 == 0 else ()
            )
            for number in range(40)
        )
    with closing(SqliteSource(path, ["readings"], "group", "one", 20, 30.0, clock)) as source:
        source.poll(0)
        source.seek(P, 0)
        batch = source.poll(0)
        with closing(SqliteSink(path, "group", clock)) as sink:
            sink.commit(BatchOutput(next_offsets={P: 20}, lease=batch.lease))
    return path


def alter(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)


def read(path: Path) -> list[Record]:
    with closing(SqliteSource(path, ["readings"], None, "one", 4096, 30.0, ManualClock())) as source:
        return read_all(source)


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE records SET value = x'3132' WHERE offset = 11", r"record 11 of readings\[0\] is not as it was written"),
        ("UPDATE records SET key = x'70756d71' WHERE offset = 11", "record 11 of"),
        ("UPDATE records SET key = x'00' WHERE offset = 14", "record 14 of"),
        ("UPDATE records SET value = x'00' WHERE offset = 7", "record 7 of"),
        ("UPDATE records SET timestamp_ms = timestamp_ms + 4294967296 WHERE offset = 11", "record 11 of"),
        ("UPDATE records SET headers = x'91920161' WHERE offset = 12", "record 12 of"),
        ("UPDATE records SET headers = x'ff', proof = NULL WHERE offset = 12", "headers of a record of"),
        ("DELETE FROM records WHERE offset = 11", r"record 11 of readings\[0\] is missing"),
        ("DELETE FROM records WHERE offset > 30", "should hold 0 to 39, not 0 to 30"),
        ("UPDATE partitions SET next = 20", "should hold 0 to 19, not 0 to 39"),
        ("UPDATE partitions SET earliest = 3", "should hold 3 to 39, not 0 to 39"),
    ],
)
def test_a_record_that_is_another_or_gone_is_told_with_the_remedy(path: Path, statement: str, told: str) -> None:
    assert len(read(path)) == 40
    alter(path, statement)

    with pytest.raises(LogCorrupt, match=rf"topics\.db.*{told}.*restore a backup"):
        read(path)


@pytest.mark.parametrize("statement", ["UPDATE committed SET next_offset = 21", "DELETE FROM committed", "DELETE FROM groups"])
def test_an_offset_that_was_never_committed_or_is_gone_is_told(path: Path, statement: str) -> None:
    alter(path, statement)
    source = SqliteSource(path, ["readings"], "group", "one", 20, 30.0, ManualClock())

    with closing(source):
        source.poll(0)
        with pytest.raises(LogCorrupt, match="what group group committed is not as it was written"):
            source.committed([P])


def test_records_that_go_on_where_others_are_already_are_refused(path: Path) -> None:
    alter(path, "UPDATE partitions SET next = 20")

    with closing(SqliteTopics(path, ManualClock())) as topics, pytest.raises(LogCorrupt, match="end is not behind its last record"):
        topics.append([Message("readings", b"pump", b"1")])


def test_a_log_of_before_there_were_proofs_is_read_and_written_on(path: Path) -> None:
    before = read(path)
    for table in ("records", "committed"):
        alter(path, f"ALTER TABLE {table} DROP COLUMN proof")
    alter(path, "ALTER TABLE groups DROP COLUMN committed")
    alter(path, "DROP TABLE log")
    alter(path, "PRAGMA user_version = 1")

    with closing(SqliteTopics(path, ManualClock())) as topics:
        topics.append([Message("readings", b"pump", b"new")])
    with closing(SqliteSource(path, ["readings"], "group", "one", 20, 30.0, ManualClock())) as source:
        source.poll(0)
        assert source.committed([P]) == {P: 20}

    assert read(path)[:40] == before
    alter(path, "UPDATE records SET value = x'00' WHERE offset = 40")
    with pytest.raises(LogCorrupt, match="record 40"):
        read(path)
