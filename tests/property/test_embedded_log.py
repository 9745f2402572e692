"""The embedded log under any interleaving of appends, polls, commits, seeks, crashes and two members."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from anomaly_daemon.adapters.sqlite_sink import SqliteSink
from anomaly_daemon.adapters.sqlite_source import SqliteSource
from anomaly_daemon.adapters.sqlite_topics import SqliteTopics
from anomaly_daemon.domain.errors import CommitFailed
from anomaly_daemon.domain.records import Message
from tests.contract.logs import ManualClock, Reader, begin, read_all

PARTITIONS = 3
SESSION_TIMEOUT_S = 30.0
members = st.sampled_from(["one", "two"])


class EmbeddedLog(RuleBasedStateMachine):
    """Each member answers every record it read with one message, committed with the offsets: at the end each record has one answer."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = ManualClock()
        self.topics = SqliteTopics(self.folder / "topics.db", self.clock)
        self.readers: dict[str, Reader] = {}
        self.appended = dict.fromkeys(range(PARTITIONS), 0)

    @initialize()
    def create(self) -> None:
        self.topics.create("readings", PARTITIONS)
        self.topics.create("answers", 1)

    @rule(partition=st.integers(0, PARTITIONS - 1), count=st.integers(1, 30))
    def append(self, partition: int, count: int) -> None:
        first = self.appended[partition]
        self.topics.append(
            [Message("readings", None, f"{partition}/{first + number}".encode(), partition_number=partition) for number in range(count)]
        )
        self.appended[partition] += count

    @rule(member=members)
    def poll(self, member: str) -> None:
        """Crash-only, as the loop is: after any change only what was committed counts, so everything uncommitted is read again."""
        reader = self.reader(member)
        if reader.step(0).changes:
            self.rewind(reader)

    @rule(member=members)
    def commit(self, member: str) -> None:
        reader = self.reader(member)
        sink = SqliteSink(self.folder / "topics.db", "detectors", self.clock)
        try:
            sink.commit(reader.output([Message("answers", None, value) for value in reader.values()]))
            reader.records = []
        except CommitFailed:
            self.rewind(reader)
        finally:
            sink.close()

    @rule(member=members)
    def restart_after_a_crash(self, member: str) -> None:
        """The process died: its connection closes without a word to the group, whatever it read is gone."""
        reader = self.readers.pop(member, None)
        if reader is not None:
            reader.source._file.close()

    @precondition(lambda self: self.readers)
    @rule(member=members)
    def leave(self, member: str) -> None:
        reader = self.readers.pop(member, None)
        if reader is not None:
            reader.source.close()

    @rule(seconds=st.sampled_from([1.0, 11.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(member=members)
    def commit_too_late(self, member: str) -> None:
        """A member reads and falls silent for longer than the session timeout, the other does its work, and only then it commits."""
        self.poll(member)
        other = "two" if member == "one" else "one"
        for _ in range(6):
            self.clock.advance(SESSION_TIMEOUT_S / 3 + 1)
            self.poll(other)
        self.commit(other)
        self.commit(member)

    @invariant()
    def offsets_are_contiguous_in_every_reader(self) -> None:
        for reader in self.readers.values():
            for partition in reader.owned:
                offsets = [record.offset for record in reader.records if record.partition == partition]
                assert offsets == list(range(offsets[0], offsets[0] + len(offsets))) if offsets else True

    def teardown(self) -> None:
        """Whatever happened before, a member that goes on alone answers the rest, and each record has exactly one answer."""
        for reader in self.readers.values():
            reader.source._file.close()
        last = self.reader("last")
        for _ in range(200):
            if len(last.owned) == PARTITIONS and all(last.source.positions()[where] == self.appended[where.number] for where in last.owned):
                break
            if last.step(0).changes:
                self.rewind(last)
            self.clock.advance(SESSION_TIMEOUT_S / 2)
        self.commit("last")
        answers = read_all(SqliteSource(self.folder / "topics.db", ["answers"], None, "reader", 4096, SESSION_TIMEOUT_S, self.clock))
        expected = [f"{partition}/{number}".encode() for partition in range(PARTITIONS) for number in range(self.appended[partition])]
        assert sorted(record.value or b"" for record in answers) == sorted(expected)
        shutil.rmtree(self.folder)

    def reader(self, member: str) -> Reader:
        if member not in self.readers:
            source = SqliteSource(self.folder / "topics.db", ["readings"], "detectors", member, 8, SESSION_TIMEOUT_S, self.clock)
            self.readers[member] = Reader(source)
        return self.readers[member]

    def rewind(self, reader: Reader) -> None:
        reader.records = []
        begin(reader.source, sorted(reader.owned))


EmbeddedLog.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
test_every_record_has_exactly_one_effect_whatever_the_interleaving = EmbeddedLog.TestCase
