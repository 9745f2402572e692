from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from anomaly_daemon.adapters.sqlite_sink import SqliteSink
from anomaly_daemon.adapters.sqlite_source import SqliteSource
from anomaly_daemon.adapters.sqlite_topics import SqliteTopics
from anomaly_daemon.domain.errors import CommitFailed, LogUnavailable, TopicError
from anomaly_daemon.domain.records import BatchOutput, Message, Partition
from tests.contract.logs import ManualClock, Reader, read_all

HERE = Partition("readings", 0)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def path(tmp_path: Path, clock: ManualClock) -> Path:
    topics = SqliteTopics(tmp_path / "topics.db", clock)
    topics.create("readings", 1)
    topics.create("alerts", 1)
    topics.append([Message("readings", b"pump", str(number).encode()) for number in range(10)])
    topics.close()
    return tmp_path / "topics.db"


@pytest.fixture
def reader(path: Path, clock: ManualClock) -> Reader:
    reader = Reader(SqliteSource(path, ["readings"], "detectors", "one", 100, 30.0, clock))
    while len(reader.records) < 10:
        reader.step()
    return reader


def published(path: Path) -> list[bytes | None]:
    source = SqliteSource(path, ["alerts"], None, "one", 4096, 30.0, ManualClock())
    values = [record.value for record in read_all(source)]
    source.close()
    return values


def test_a_message_for_a_missing_topic_commits_no_offset_either(reader: Reader, path: Path, clock: ManualClock) -> None:
    sink = SqliteSink(path, "detectors", clock)

    with pytest.raises(TopicError, match="nowhere"):
        sink.commit(reader.output([Message("alerts", b"pump", b"1"), Message("nowhere", b"pump", b"1")]))

    assert published(path) == []
    assert reader.source.committed([HERE]) == {}


def test_an_offset_does_not_go_back_and_nothing_is_said_twice(reader: Reader, path: Path, clock: ManualClock) -> None:
    sink = SqliteSink(path, "detectors", clock)
    sink.commit(BatchOutput((Message("alerts", b"pump", b"first"),), {HERE: 6}, reader.lease))

    with pytest.raises(CommitFailed, match="before what was already committed"):
        sink.commit(BatchOutput((Message("alerts", b"pump", b"again"),), {HERE: 5}, reader.lease))

    assert published(path) == [b"first"]
    assert reader.source.committed([HERE]) == {HERE: 6}


@pytest.mark.parametrize("group", ["detectors", "others"])
def test_a_batch_read_outside_the_group_commits_nothing(path: Path, clock: ManualClock, reader: Reader, group: str) -> None:
    lease = None if group == "detectors" else reader.lease

    with pytest.raises(CommitFailed, match="not read as a member"):
        SqliteSink(path, group, clock).commit(BatchOutput((Message("alerts", b"pump", b"1"),), {HERE: 5}, lease))

    assert published(path) == []


def test_a_partition_that_does_not_exist_cannot_be_committed(reader: Reader, path: Path, clock: ManualClock) -> None:
    with pytest.raises(CommitFailed, match=r"readings\[7\]"):
        SqliteSink(path, "detectors", clock).commit(BatchOutput((), {Partition("readings", 7): 5}, reader.lease))


def test_a_locked_log_is_unavailable_and_the_commit_can_be_made_later(reader: Reader, path: Path, clock: ManualClock) -> None:
    sink = SqliteSink(path, "detectors", clock, busy_timeout_s=0.05)
    holder = SqliteSink(path, "detectors", clock)

    with holder._log.writing(), pytest.raises(LogUnavailable):
        sink.commit(reader.output([Message("alerts", b"pump", b"1")]))
    assert published(path) == []

    sink.commit(reader.output([Message("alerts", b"pump", b"1")]))
    assert published(path) == [b"1"]


VICTIM = """
import os, signal, sys
from pathlib import Path
from anomaly_daemon.adapters.clock import SystemClock
from anomaly_daemon.adapters.sqlite_append import Appender
from anomaly_daemon.adapters.sqlite_sink import SqliteSink
from anomaly_daemon.adapters.sqlite_source import SqliteSource
from anomaly_daemon.domain.records import BatchOutput, Message, Partition

path, where = Path(sys.argv[1]), sys.argv[2]
source = SqliteSource(path, ["readings"], "detectors", "one", 4, 30.0, SystemClock())
sink = SqliteSink(path, "detectors", SystemClock())
partition = Partition("readings", 0)
source.poll(1.0)
source.seek(partition, 0)
for turn in range(2):
    batch = source.poll(1.0)
    if turn == 1 and where == "before the end of the commit":
        sink._move_forward = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    alerts = tuple(Message("alerts", record.key, record.value) for record in batch.records)
    sink.commit(BatchOutput(alerts, {partition: batch.records[-1].offset + 1}, batch.lease))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("where", "committed"), [("before the end of the commit", 4), ("after the commit", 8)])
def test_kill_9_leaves_whole_commits_and_the_restarted_member_goes_on_at_once(path: Path, clock: ManualClock, where: str, committed: int) -> None:
    victim = subprocess.run([sys.executable, "-c", VICTIM, str(path), where], check=False, timeout=60)
    assert victim.returncode == -signal.SIGKILL

    assert published(path) == [str(number).encode() for number in range(committed)]
    reader = Reader(SqliteSource(path, ["readings"], "detectors", "one", 100, 30.0, clock))
    reader.step()
    reader.step()
    SqliteSink(path, "detectors", clock).commit(reader.output([Message("alerts", record.key, record.value) for record in reader.records]))

    assert published(path) == [str(number).encode() for number in range(10)]
