"""Exported scores: the rows, their columns and order; and a file that is whole or not there, on full disks too."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomaly_daemon.adapters.score_export import ROW_GROUP_ROWS, ParquetExport
from anomaly_daemon.domain.errors import InputError, StopAtOnce
from anomaly_daemon.domain.records import Batch, BatchOutput, Observations, Partition, Phase, Record, ScoredBatch, Scores
from tests.small import P, processor, stream
from tests.small import settings as small_settings

CHANNELS: tuple[str, ...] = tuple(sorted(small_settings().evidence.channels))
OTHER = Partition("more readings", 3)
REPOSITORY = Path(__file__).parents[2]


def judged(records: Sequence[Record]) -> BatchOutput:
    """What the product makes of a batch."""
    built, _ = processor()
    built.begin(P)
    with contextlib.closing(built):
        return built.process(Batch(records), {})


def two_partitions() -> list[Record]:
    """Records of two partitions, some of them bad, taking turns."""
    pairs = zip(stream(3, 4, 90, partition=OTHER, with_bad=True), stream(4, 4, 90, with_bad=True), strict=True)
    return [record for pair in pairs for record in pair]


def many(first: int, count: int) -> BatchOutput:
    """A batch of scores that do not compress, of one partition."""
    random = np.random.default_rng(first)
    records = [Record(P, offset, 0, b"", b"") for offset in range(first, first + count)]
    observations = Observations(records, ["pump"] * count, np.arange(count), np.zeros((count, 0)), np.zeros((count, 0), np.int64))
    column = random.random(count)
    evidence = {name: random.random(count) for name in CHANNELS}
    scores = Scores(column, column, column, column > 0.5, column, np.zeros(count, np.int8), column, evidence)
    return BatchOutput(scored=ScoredBatch(observations, scores, [None] * count, ()))


def export(path: Path, outputs: Sequence[BatchOutput]) -> pa.Table:
    with contextlib.closing(ParquetExport(path, CHANNELS)) as opened:
        for output in outputs:
            opened.write(output)
    return pq.read_table(path)


def test_columns_and_their_types_are_the_contract(tmp_path: Path) -> None:
    found = export(tmp_path / "scores.parquet", [judged(stream(1, 2, 10))])

    text, number = pa.string(), pa.float64()
    assert [(field.name, field.type) for field in found.schema] == [
        ("topic", text),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("entity", text),
        ("timestamp", pa.timestamp("us", "UTC")),
        *((name, number) for name in ("anomaly_score", "tail_probability", "threshold")),
        ("is_anomaly", pa.bool_()),
        ("grade", number),
        ("phase", text),
        ("incident_id", text),
        *((channel, number) for channel in CHANNELS),
        ("deviations", number),
    ]


def test_each_row_is_what_was_judged_of_its_record_and_a_rejected_record_keeps_its_row_with_nulls(tmp_path: Path) -> None:
    output = judged(stream(1, 2, 300, with_bad=True))
    rows = export(tmp_path / "scores.parquet", [output]).to_pylist()

    scored = output.scored
    assert scored is not None
    assert scored.rejections
    assert any(scored.incident_ids)
    assert [row["offset"] for row in rows] == list(range(300))
    by_offset = {row["offset"]: row for row in rows}
    for place, record in enumerate(scored.observations.records):
        row = by_offset[record.offset]
        names = ("anomaly_score", "tail_probability", "threshold", "is_anomaly", "grade", "deviations")
        wanted = {name: getattr(scored.scores, name)[place] for name in names}
        wanted |= {channel: values[place] for channel, values in scored.scores.evidence.items()}
        assert {name: row[name] for name in wanted} == {name: None if np.isnan(value) else value for name, value in wanted.items()}
        assert (row["topic"], row["partition"], row["entity"]) == ("readings", 0, scored.observations.entities[place])
        assert row["timestamp"].timestamp() * 1e6 == scored.observations.times_us[place]
        assert row["phase"] == Phase(int(scored.scores.phase[place])).name.lower()
        assert row["incident_id"] == scored.incident_ids[place]
    for rejection in scored.rejections:
        row = by_offset[rejection.record.offset]
        assert {name for name, value in row.items() if value is not None} == {"topic", "partition", "offset"}


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 180), max_size=6), st.integers(0, 60), st.integers(0, 90))
def test_each_wanted_record_has_one_row_in_the_order_of_its_batch(cuts: list[int], again: int, begun: int) -> None:
    """Some batches come a second time, as they do through a recovery, and the first records of a partition are not wanted."""
    records = two_partitions()
    edges = [0, *sorted(cuts), len(records)]
    batches = [records[first:last] for first, last in itertools.pairwise(edges)]
    wanted: list[tuple[str, int, int]] = []
    for batch in batches:
        wanted += [(one.partition.topic, one.partition.number, one.offset) for one in sorted(batch, key=lambda one: (one.partition, one.offset))]
    wanted = [row for row in wanted if row[0] == P.topic or row[2] >= begun]
    built, _ = processor()
    with TemporaryDirectory() as folder, contextlib.closing(ParquetExport(Path(folder) / "scores.parquet", CHANNELS)) as export:
        export.begin(OTHER, begun)
        for batch in batches:
            for partition in (P, OTHER):
                built.begin(partition)
            export.write(built.process(Batch(batch), {}))
            export.write(built.process(Batch(batch[: again + 1]), {}))
        export.begin(OTHER, 0)
        export.close()

        found = pq.read_table(Path(folder) / "scores.parquet").to_pylist()
        assert [(row["topic"], row["partition"], row["offset"]) for row in found] == wanted
        assert export.rows == len(wanted)
        assert export.next_offsets == {P: 90, OTHER: 90}
    built.close()


def test_row_groups_have_the_same_size_however_large_the_batches_are(tmp_path: Path) -> None:
    total = 2 * ROW_GROUP_ROWS + 10
    with contextlib.closing(ParquetExport(tmp_path / "scores.parquet", CHANNELS)) as opened:
        opened.write(many(0, 5))
        opened.write(many(5, total - 5))

    file = pq.ParquetFile(tmp_path / "scores.parquet")
    assert [file.metadata.row_group(place).num_rows for place in range(file.num_row_groups)] == [ROW_GROUP_ROWS, ROW_GROUP_ROWS, 10]
    assert file.read(["offset"])["offset"].to_pylist() == list(range(total))


def test_the_writer_s_notes_are_in_the_schema(tmp_path: Path) -> None:
    ParquetExport(tmp_path / "scores.parquet", CHANNELS, {"model": "m1", "range": "0…90"}).close()

    noted = pq.read_schema(tmp_path / "scores.parquet").metadata
    assert {key.decode(): text.decode() for key, text in noted.items()} == {"model": "m1", "range": "0…90"}


def test_nothing_stands_under_the_name_before_the_export_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    path.with_name("scores.parquet.part").write_bytes(b"what a killed process left" * 1000)
    with contextlib.closing(ParquetExport(path, CHANNELS)) as opened:
        opened.write(many(0, 10))
        assert not path.exists()

    assert pq.read_table(path).num_rows == 10
    assert [one.name for one in tmp_path.iterdir()] == ["scores.parquet"]


def test_a_file_that_holds_something_is_replaced_by_force_alone_and_only_when_done(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear diary")
    with pytest.raises(InputError, match=r"notes\.txt: already holds something \(10 bytes\); give another name, or --force"):
        ParquetExport(path, CHANNELS)
    with contextlib.closing(ParquetExport(path, CHANNELS, is_forced=True)):
        assert path.read_text() == "dear diary"

    assert pq.read_table(path).num_rows == 0


def test_an_empty_file_may_be_exported_to(tmp_path: Path) -> None:
    (tmp_path / "scores.parquet").touch()

    assert export(tmp_path / "scores.parquet", [many(0, 3)]).num_rows == 3


@pytest.mark.parametrize(
    ("name", "why"),
    [("", "is a folder"), ("missing/scores.parquet", "there is no folder .*missing; make it first"), ("socket", "is no regular file")],
)
def test_what_no_file_can_be_made_of_is_refused(tmp_path: Path, name: str, why: str) -> None:
    os.mkfifo(tmp_path / "socket")

    with pytest.raises(InputError, match=why):
        ParquetExport(tmp_path / name, CHANNELS, is_forced=True)


def test_two_exports_to_one_file_at_once_are_refused(tmp_path: Path) -> None:
    first = ParquetExport(tmp_path / "scores.parquet", CHANNELS)
    with pytest.raises(InputError, match="another process is exporting to it"):
        ParquetExport(tmp_path / "scores.parquet", CHANNELS)
    first.write(many(0, 3))
    first.close()

    assert pq.read_table(tmp_path / "scores.parquet").num_rows == 3


def test_a_link_stays_a_link_to_the_exported_file(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "latest").symlink_to(tmp_path / "kept" / "scores.parquet")
    export(tmp_path / "latest", [many(0, 3)])

    assert pq.read_table(tmp_path / "kept" / "scores.parquet").num_rows == 3


def fill(path: Path) -> tuple[str, int]:
    """Export until it is refused; returns what was said, and the rows of the file."""
    export = ParquetExport(path, CHANNELS)
    export.begin(P, 0)
    with pytest.raises(StopAtOnce) as stopped:  # noqa: PT012 - whichever of them meets the end
        for first in range(0, 100 * ROW_GROUP_ROWS, ROW_GROUP_ROWS):
            export.write(many(first, ROW_GROUP_ROWS))
        export.close()
    export.close()
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    offsets = pq.read_table(path, columns=["offset"])["offset"].to_pylist()
    assert offsets == list(range(len(offsets)))
    return str(stopped.value), len(offsets)


def held(rows: int) -> str:
    return f"the file is whole and holds {rows:,} rows: readings[0] before offset {rows}; make room and export what is missing"


def test_a_full_disk_ends_the_export_with_a_whole_file_and_one_sentence(tmp_path: Path) -> None:
    """A file system of 32 MiB, mounted in a name space of the child's own."""
    script = (
        "import json; from pathlib import Path; from tests.unit.test_score_export import fill;"
        f" print(json.dumps(fill(Path({str(tmp_path)!r}) / 'scores.parquet')))"
    )
    mounted = 'mount -t tmpfs -o size=32m tmpfs "$1" && exec "$2" -c "$3"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mounted, "sh", str(tmp_path), sys.executable, script]
    if shutil.which("unshare") is None or subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], check=False).returncode:
        pytest.skip("this machine lets nobody mount a file system of his own")
    child = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)

    assert child.returncode == 0, child.stderr
    said, rows = json.loads(child.stdout)
    assert rows > 0
    assert said.startswith(f"{tmp_path / 'scores.parquet'}: No space left on device; {held(rows)}")


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process may grow beyond that."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_limit_on_the_file_s_size_does_the_same(tmp_path: Path) -> None:
    with file_size_limit(24 * 2**20):
        said, rows = fill(tmp_path / "scores.parquet")

    assert rows > 0
    assert said.startswith(f"{tmp_path / 'scores.parquet'}: File too large; {held(rows)}")


@pytest.mark.parametrize(("rows", "why"), [(5, "cannot be finished: File too large"), (5000, "File too large; the file is not made")])
def test_what_cannot_be_written_though_the_disk_promised_room_is_not_put_under_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, why: str
) -> None:
    """A few rows fail with the end of the file, many on their own."""
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: None)
    export = ParquetExport(tmp_path / "scores.parquet", CHANNELS)
    export.write(many(0, rows))
    with file_size_limit(0), pytest.raises(StopAtOnce, match=rf"scores\.parquet: {why}; .* replay --export"):
        export.close()

    assert list(tmp_path.iterdir()) == []
