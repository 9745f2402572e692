from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from anomaly_daemon.adapters.dump_format import decode_message, encode_record
from anomaly_daemon.adapters.sqlite_source import SqliteSource
from anomaly_daemon.adapters.sqlite_topics import SqliteTopics
from anomaly_daemon.cli import main
from anomaly_daemon.commands.load import ensure_topic
from anomaly_daemon.domain.errors import InputError, LogUnavailable, TopicError
from anomaly_daemon.domain.records import Batch, Bounds, ChangeKind, Message, Offset, Partition, PartitionChange, Reason, Record, Rejection
from anomaly_daemon.pipeline.dead_letters import dead_letter_message
from anomaly_daemon.pipeline.topic_reader import POLL_S, SILENT_POLLS_MAX, TopicReader
from tests.contract.logs import ManualClock, read_all


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANOMALY_DAEMON_LOG", f"sqlite:///{tmp_path}/topics.db")
    return tmp_path / "topics.db"


def records(path: Path, topic: str = "readings") -> list[Record]:
    source = SqliteSource(path, [topic], None, "one", 4096, 30.0, ManualClock())
    found = read_all(source)
    source.close()
    return found


def made(path: Path, *messages: Message, partitions: int = 1) -> None:
    topics = SqliteTopics(path, ManualClock())
    topics.create("readings", partitions)
    topics.append(messages)
    topics.close()


def test_load_makes_a_topic_and_a_record_of_every_row(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("valve1-2.csv").write_text("timestamp,flow\n2020-02-08 18:34:51,1.5\n2020-02-08 18:34:52,\n")
    Path("valve1-3.jsonl").write_text('{"timestamp": "2020-02-08 18:34:53", "flow": 2}\n{bad\n')

    assert main(["load", "--topic", "readings", "--create", "--partitions", "1", "--time-column", "timestamp", "valve1-2.csv", "valve1-3.jsonl"]) == 0

    found = records(path)
    assert [(record.key, record.value) for record in found] == [
        (b"valve1-2", b'{"timestamp":"2020-02-08 18:34:51","flow":1.5}'),
        (b"valve1-2", b'{"timestamp":"2020-02-08 18:34:52","flow":null}'),
        (b"valve1-3", b'{"timestamp": "2020-02-08 18:34:53", "flow": 2}'),
        (b"valve1-3", b"{bad"),
    ]
    assert [record.timestamp_ms for record in found[:3]] == [1_581_186_891_000, 1_581_186_892_000, 1_581_186_893_000]
    said = capsys.readouterr()
    assert said.out == "loaded 4 records from 2 files into readings\n"
    assert said.err == "1 of them have no readable timestamp: they bear the time of loading\n"


def test_load_interleaves_files_row_by_row_up_to_the_limit(path: Path) -> None:
    for name, rows in (("a", 1), ("b", 5), ("c", 3)):
        Path(f"{name}.csv").write_text("v\n" + "".join(f"{row}\n" for row in range(rows)))

    assert main(["load", "--topic", "readings", "--create", "--partitions", "1", "--interleave", "--limit", "3", "*.csv"]) == 0

    spoken = [(record.key or b"").decode() + json.dumps(json.loads(record.value or b"")["v"]) for record in records(path)]
    assert spoken == ["a0", "b0", "c0", "b1", "c1", "b2", "c2"]


def test_load_takes_keys_from_a_column(path: Path) -> None:
    Path("all.csv").write_text("id,v\npump-1,1\npump-2,2\n")

    assert main(["load", "--topic", "readings", "--create", "--partitions", "1", "--key-column", "id", "all.csv"]) == 0

    assert [record.key for record in records(path)] == [b"pump-1", b"pump-2"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.csv"], "no topic readings; make it with --create"),
        (["--create", "none.csv"], "none.csv: no such file"),
        (["--create", "--key-column", "id", "a.csv"], "no column 'id'"),
        (["--create", "--limit", "0", "a.csv"], "--limit 0"),
        (["--create", "--format", "dump", "--key-column", "v", "a.csv"], "leave --key-column"),
        (["--create", "--partitions", "0", "a.csv"], "--partitions 0: choose 1 to 4096"),
        (["--create", "--partitions", "-3", "a.csv"], "--partitions -3"),
        (["--create", "--partitions", "4097", "a.csv"], "--partitions 4097"),
    ],
)
def test_load_refuses_before_it_writes_anything(path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    Path("a.csv").write_text("v\n1\n")

    assert main(["load", "--topic", "readings", *arguments]) == 2

    assert said in capsys.readouterr().err
    assert not path.exists() or SqliteTopics(path, ManualClock()).partitions(["readings"]) == {}


def test_a_wrong_number_of_partitions_is_refused_where_the_topic_is_there_already_too(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(path)
    Path("a.csv").write_text("v\n1\n")

    assert main(["load", "--topic", "readings", "--partitions", "0", "a.csv"]) == 2
    assert "--partitions 0" in capsys.readouterr().err


def loaded_from_standard_input(content: bytes, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "anomaly_daemon", "load", "--topic", "again", "--create", "--partitions", "3", *arguments]
    done = subprocess.run(command, input=content, capture_output=True, check=False, timeout=60)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


def test_what_dump_writes_to_standard_output_load_reads_from_standard_input(path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    made(path, *AWKWARD, partitions=3)

    assert main(["dump", "--topic", "readings", "--output", "-"]) == 0
    done = loaded_from_standard_input(capsysbinary.readouterr().out, "-")

    assert (done.returncode, done.stdout) == (0, "loaded 4 records from 1 files into again\n")
    assert told(path, "again") == told(path, "readings")


def test_csv_from_standard_input_may_be_gzipped_and_takes_its_key_from_a_column(path: Path) -> None:
    content = gzip.compress(b"id,v\npump-1,1\n")

    assert loaded_from_standard_input(content, "--format", "csv", "--key-column", "id", "/dev/stdin").returncode == 0

    assert [(record.key, record.value) for record in records(path, "again")] == [(b"pump-1", b'{"id":"pump-1","v":1}')]


def test_files_patterns_and_standard_input_are_loaded_as_given_each_once(path: Path) -> None:
    for name in ("late", "early", "2025", "2024"):
        Path(f"{name}.jsonl").write_text(json.dumps({"from": name}))

    done = loaded_from_standard_input(b'{"from": "-"}\n', "--partitions", "1", "late.jsonl", "-", "early.jsonl", "20*.jsonl", "*.jsonl", "-")

    assert (done.returncode, done.stdout) == (0, "loaded 5 records from 5 files into again\n")
    assert [json.loads(record.value or b"")["from"] for record in records(path, "again")] == ["late", "-", "early", "2024", "2025"]


def test_standard_input_that_does_not_begin_as_it_should_leaves_nothing_behind(path: Path) -> None:
    done = loaded_from_standard_input(b"id,v\n1,2\n", "--format", "csv", "--key-column", "pump", "-")

    assert (done.returncode, "no column 'pump'" in done.stderr) == (2, True)
    assert not path.exists()


def test_a_device_is_written_to_and_stays_what_it_is(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(path, Message("readings", b"pump", b"1"))

    assert main(["dump", "--topic", "readings", "--output", "/dev/null"]) == 0
    assert Path("/dev/null").is_char_device()
    assert main(["dump", "--topic", "readings", "--output", "/dev/full"]) == 1
    assert "/dev/full: cannot be written on: No space left" in capsys.readouterr().err


def test_a_topic_that_is_there_needs_no_permission_to_be_made(path: Path) -> None:
    topics = SqliteTopics(path, ManualClock())
    with pytest.raises(TopicError, match="--create"):
        ensure_topic(topics, "readings", None)

    ensure_topic(topics, "readings", 2)
    ensure_topic(topics, "readings", None)

    assert topics.partitions(["readings"]) == {"readings": 2}


AWKWARD = (
    Message("readings", b"pump", b'{"v": 1}', (("reason", b"schema"), ("raw", b"\xff")), 1, 0),
    Message("readings", None, None, (), 2, 1),
    Message("readings", b"\xff\xfe", b"\x00\xff", (), 3, 2),
    Message("readings", b"", "größe \u2028\n".encode(), (("empty", b""),), 4, 2),
)


def told(path: Path, topic: str) -> list[tuple[object, ...]]:
    return [(r.partition.number, r.offset, r.timestamp_ms, r.key, r.value, r.headers) for r in records(path, topic)]


def test_a_dead_letter_finds_its_partition_and_time_again_in_the_topic_it_came_from_and_in_no_other(path: Path) -> None:
    why = (("dead_letter.topic", b"readings"), ("dead_letter.partition", b"2"), ("dead_letter.timestamp_ms", b"-1"))
    letter = encode_record(Record(Partition("dead-letters", 0), 7, 99, b"pump", b"1", why))

    back, elsewhere = decode_message(letter, "readings"), decode_message(letter, "copy")

    assert (back.partition_number, back.timestamp_ms, back.headers) == (2, -1, why)
    assert (elsewhere.partition_number, elsewhere.timestamp_ms) == (0, 99)
    with pytest.raises(InputError, match="do not tell its partition and time"):
        decode_message(letter.replace(b'"2"', b'"x"'), "readings")


def test_a_dead_letter_that_was_cut_does_not_go_back_and_is_told_with_where_the_whole_record_is(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rejected = [Record(Partition("readings", 2), offset, 99, b"pump", value) for offset, value in ((41, b"x" * 5000), (42, b"1"), (43, b"y" * 5000))]
    letters = [dead_letter_message(Rejection(record, Reason.SCHEMA, "no number"), "dead-letters", 4000) for record in rejected]
    made(path, partitions=3)
    lines = [encode_record(Record(Partition("dead-letters", 0), at, 100, one.key, one.value, one.headers)) for at, one in enumerate(letters)]
    Path("letters.jsonl").write_bytes(b"\n".join(lines))

    assert main(["load", "--topic", "readings", "letters.jsonl"]) == 2

    said = capsys.readouterr()
    assert [record.value for record in records(path)] == [b"1"]
    assert said.out == "loaded 1 records from 1 files into readings, without 2 that were cut\n"
    assert "2 dead letters are not loaded" in said.err
    assert "readings[2] offset 41, readings[2] offset 43:" in said.err
    assert main(["load", "--topic", "copy", "--create", "letters.jsonl"]) == 0
    assert len(records(path, "copy")) == 3


@pytest.mark.parametrize(("file", "form"), [("all.jsonl", "auto"), ("all.jsonl.gz", "dump")])
def test_what_was_dumped_and_loaded_again_is_the_same_in_everything(path: Path, capsys: pytest.CaptureFixture[str], file: str, form: str) -> None:
    made(path, *AWKWARD, partitions=3)

    assert main(["dump", "--topic", "readings", "--output", file]) == 0
    assert main(["load", "--topic", "again", "--create", "--partitions", "3", "--format", form, file]) == 0

    assert told(path, "again") == told(path, "readings")
    assert f"dumped 4 records of readings into {file}\n" in capsys.readouterr().out
    assert sorted(one.name for one in Path().iterdir() if one.suffix == ".part") == []


DUMPED = encode_record(Record(Partition("readings", 0), 0, 1, b"pump", b"1"))


def test_a_mark_that_an_editor_put_before_the_first_line_changes_nothing(path: Path) -> None:
    Path("dumped.jsonl").write_bytes(b"\xef\xbb\xbf" + DUMPED + b"\n")
    Path("plain.csv").write_bytes(b"\xef\xbb\xbfflow\n1.5\n")

    assert main(["load", "--topic", "readings", "--create", "--partitions", "1", "dumped.jsonl", "plain.csv"]) == 0

    assert [(record.key, record.value) for record in records(path)] == [(b"pump", b"1"), (b"plain", b'{"flow":1.5}')]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{" + DUMPED[2:] + b"\n" + DUMPED, "row 0 is no line that `dump` wrote, row 1 is"),
        ((DUMPED.decode() + "\n").encode("utf-16"), "it is UTF-16"),
    ],
)
def test_a_dump_that_begins_with_damage_is_refused_and_not_taken_for_plain_lines(
    path: Path, capsys: pytest.CaptureFixture[str], content: bytes, said: str
) -> None:
    Path("dumped.jsonl").write_bytes(content)

    assert main(["load", "--topic", "readings", "--create", "dumped.jsonl"]) == 2

    assert said in capsys.readouterr().err
    assert not path.exists() or records(path) == []


@pytest.mark.parametrize(("kept", "is_told"), [("7d", True), ("36500d", False)])
def test_records_older_than_their_topic_keeps_any_are_warned_of(path: Path, capsys: pytest.CaptureFixture[str], kept: str, is_told: bool) -> None:
    Path("old.csv").write_text("timestamp,flow\n2020-02-08 18:34:51,1.5\n")
    limits = ["--set", f"topics.retention={kept}"]

    assert main(["load", "--topic", "readings", "--create", "--time-column", "timestamp", *limits, "old.csv"]) == 0
    loading = capsys.readouterr().err
    assert main(["simulate", "sensors", "--topic", "others", "--create", "--entities", "1", "--duration", "1h", *limits]) == 0

    assert ("keeps a record for 7 days" in loading, "keeps a record for 7 days" in capsys.readouterr().err) == (is_told, is_told)


def test_a_dumped_line_reads_as_text_where_it_is_text(path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    made(path, AWKWARD[0], AWKWARD[2], partitions=3)

    assert main(["dump", "--topic", "readings"]) == 0

    assert [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()] == [
        {"topic": "readings", "partition": 0, "offset": 0, "timestamp_ms": 1, "key": "pump", "value": '{"v": 1}',
         "headers": [{"name": "reason", "value": "schema"}, {"name": "raw", "value_base64": "/w=="}]},
        {"topic": "readings", "partition": 2, "offset": 0, "timestamp_ms": 3, "key_base64": "//4=", "value_base64": "AP8=", "headers": []},
    ]  # fmt: skip


def test_dump_writes_the_offsets_asked_for_of_every_partition(path: Path) -> None:
    made(path, *[Message("readings", None, str(number).encode(), partition_number=number % 2) for number in range(20)], partitions=2)

    assert main(["dump", "--topic", "readings", "--from", "3", "--to", "5", "--output", "some.jsonl.gz"]) == 0

    lines = [json.loads(line) for line in gzip.decompress(Path("some.jsonl.gz").read_bytes()).splitlines()]
    assert sorted((line["partition"], line["offset"]) for line in lines) == [(0, 3), (0, 4), (1, 3), (1, 4)]


@pytest.mark.parametrize(("first", "end"), [("5", "3"), ("-1", "3")])
def test_dump_refuses_a_range_that_is_none(path: Path, capsys: pytest.CaptureFixture[str], first: str, end: str) -> None:
    made(path)

    assert main(["dump", "--topic", "readings", f"--from={first}", "--to", end]) == 2
    assert "--from" in capsys.readouterr().err


def test_dump_from_beyond_the_end_is_empty(path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    made(path, Message("readings", b"pump", b"1"))

    assert main(["dump", "--topic", "readings", "--from", "7"]) == 0
    assert capsysbinary.readouterr().out == b""


def test_a_place_that_cannot_be_written_is_named_and_nothing_is_left_there(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(path, Message("readings", b"pump", b"1"))

    assert main(["dump", "--topic", "readings", "--output", "nowhere/all.jsonl"]) == 2
    assert "nowhere/all.jsonl: cannot be written" in capsys.readouterr().err


class SilentSource:
    """A log that tells of a record and never brings it."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._changes: tuple[PartitionChange, ...] = (PartitionChange(ChangeKind.ASSIGNED, (Partition("readings", 0),)),)

    def poll(self, timeout_s: float) -> Batch:
        self._clock.sleep(timeout_s)
        changes, self._changes = self._changes, ()
        return Batch(changes=changes)

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, Offset]:  # noqa: ARG002 - the seam's argument
        return {}

    def bounds(self, partitions: Sequence[Partition]) -> dict[Partition, Bounds]:
        return dict.fromkeys(partitions, Bounds(0, 1))

    def offsets_at(self, partitions: Sequence[Partition], time_ms: int) -> dict[Partition, Offset]:  # noqa: ARG002 - the seam's argument
        return dict.fromkeys(partitions, 0)

    def positions(self) -> dict[Partition, Offset]:
        return {Partition("readings", 0): 0}

    def seek(self, partition: Partition, offset: Offset) -> None: ...

    def close(self) -> None: ...


def test_a_log_that_falls_silent_before_its_end_is_told_after_a_bound() -> None:
    clock = ManualClock()

    with pytest.raises(LogUnavailable, match="ask again"):
        list(TopicReader(SilentSource(clock)).to_end())

    assert clock.monotonic_s() <= POLL_S * SILENT_POLLS_MAX + 2


class LosingSource(SqliteSource):
    """Loses its partitions once after the second poll that brought records, and finds them again."""

    polls = 0

    def poll(self, timeout_s: float) -> Batch:
        self.polls += 1
        if self.polls != 4:
            return super().poll(timeout_s)
        found = tuple(sorted(self.positions()))
        for partition in found:
            self.seek(partition, 0)
        return Batch(changes=(PartitionChange(ChangeKind.LOST, found), PartitionChange(ChangeKind.ASSIGNED, found)))


def test_a_partition_that_is_lost_and_found_again_is_gone_on_with(path: Path) -> None:
    with closing(SqliteTopics(path, ManualClock())) as topics:
        topics.create("lost", 2)
        topics.append(Message("lost", None, b"%d" % number, partition_number=number % 2) for number in range(40))
        with closing(LosingSource(path, ["lost"], None, "one", 8, 30.0, ManualClock())) as source:
            reader = TopicReader(source, first=3, end=18)
            found = [record.offset for records in reader.to_end() for record in records]

    assert sorted(found) == sorted([*range(3, 18), *range(3, 18)])
    assert (reader.total, source.polls > 4) == (30, True)


@pytest.mark.parametrize("line", [b"{}", b"[]", b"{broken", b'{"topic":"a","partition":0,"offset":0,"timestamp_ms":0,"surprise":1}', b"\xff"])
def test_a_line_that_dump_did_not_write_is_refused_with_file_and_row(path: Path, capsys: pytest.CaptureFixture[str], line: bytes) -> None:
    good = encode_record(Record(Partition("readings", 0), 0, 1, b"pump", b"1"))
    Path("all.jsonl").write_bytes(good + b"\n" + line + b"\n")

    assert main(["load", "--topic", "readings", "--create", "--format", "dump", "all.jsonl"]) == 2
    assert "all.jsonl: row 1: not a line that `dump` wrote" in capsys.readouterr().err


def test_a_damaged_base64_value_is_refused() -> None:
    with pytest.raises(InputError, match="not a line"):
        decode_message(b'{"topic":"a","partition":0,"offset":0,"timestamp_ms":0,"value_base64":"*"}', "a")
