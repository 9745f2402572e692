from __future__ import annotations

import csv
import gzip
import json
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomaly_daemon import settings
from anomaly_daemon.adapters import file_turns
from anomaly_daemon.adapters.file_columns import NO_COLUMNS, FileRow, RowColumns, timestamp_ms
from anomaly_daemon.adapters.file_names import InputFile, find_files
from anomaly_daemon.adapters.file_rows import count_rows, read_rows
from anomaly_daemon.adapters.file_source import FileSource
from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.domain.records import Bounds, ChangeKind, Partition, Record
from anomaly_daemon.pipeline.decode import Decoder
from anomaly_daemon.pipeline.time_range import event_times_ms


def write(path: Path, content: str | bytes) -> Path:
    """Gzipped where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def values(path: Path, columns: RowColumns = NO_COLUMNS) -> list[bytes]:
    return [row.value for row in read_rows(InputFile(path, "pump"), columns)]


def everything(source: FileSource) -> list[Record]:
    """All records from row 0 on."""
    for partition in source.poll(0).changes[0].partitions:
        source.seek(partition, 0)
    records: list[Record] = []
    while batch := list(source.poll(0).records):
        records += batch
    return records


@pytest.mark.parametrize("name", ["pump.csv", "pump.csv.gz"])
def test_csv_rows_become_objects_with_numbers_nulls_and_strings(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, 'time,flow rate,state\n2020-02-08 18:34:51,1.50,ok\n"a ""quoted"", text",,\n-1e-5,+.5,007\n')

    assert values(path) == [
        b'{"time":"2020-02-08 18:34:51","flow rate":1.50,"state":"ok"}',
        b'{"time":"a \\"quoted\\", text","flow rate":null,"state":null}',
        b'{"time":-1e-5,"flow rate":0.5,"state":"007"}',
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_is_found_in_the_header(tmp_path: Path, delimiter: str) -> None:
    path = write(tmp_path / "pump.csv", delimiter.join(("a", "b")) + "\r\n" + delimiter.join(("1", "2")) + "\r\n")

    assert values(path) == [b'{"a":1,"b":2}']


@pytest.mark.parametrize("text", ["nan", "inf", "-Infinity", "1_000", "0x10", "1,5", "١", "1e", "--1", "None"])
def test_text_that_only_looks_like_a_number_stays_text(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "pump.csv", f'a;b\n"{text}";1\n')

    assert json.loads(values(path)[0])["a"] == text


def test_a_byte_order_mark_and_blank_lines_are_no_part_of_the_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "pump.csv", b"\xef\xbb\xbfa,b\n\n1,2\n\n3,4\n\n")

    assert values(path) == [b'{"a":1,"b":2}', b'{"a":3,"b":4}']
    assert count_rows(InputFile(path, "pump")) == 2


@pytest.mark.parametrize("row", ["1", "1, 2,3", '"1', 'x"1,"2"y,3', '"a""b', '"' + 200_000 * "x" + '",1', '9""', '"open,5\n6,7\n8,9'])
def test_a_row_that_does_not_fit_the_header_is_passed_on_to_be_rejected_and_costs_no_other(tmp_path: Path, row: str) -> None:
    first, *more = row.split("\n")
    path = write(tmp_path / "pump.csv", f"a,b\n1,2\n{row}\n3,4\n")

    read = [json.dumps(dict(zip("ab", map(int, line.split(",")), strict=True)), separators=(",", ":")) for line in (*more, "3,4")]
    assert values(path) == [b'{"a":1,"b":2}', first.encode(), *(one.encode() for one in read)]
    assert count_rows(InputFile(path, "pump")) == len(values(path))


def test_a_quoted_cell_goes_over_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "pump.csv", 'a,b\n"one\r\ntwo",1\n"",2\n')

    assert values(path) == [b'{"a":"one\\r\\ntwo","b":1}', b'{"a":null,"b":2}']


def test_a_quote_that_nobody_closes_costs_one_row_however_long_the_file(tmp_path: Path) -> None:
    rows = [f"{number},{number}" for number in range(30_000)]
    rows[7] = '"7,7'
    path = write(tmp_path / "pump.csv", "a,b\n" + "\n".join(rows))

    read = values(path)

    assert len(read) == count_rows(InputFile(path, "pump")) == 30_000
    assert [number for number, value in enumerate(read) if not value.startswith(b"{")] == [7]


CELLS = st.sampled_from(["", "-1.50", "1e5", "1e999", "01", "+1", ".5", "nan", "null", "true", " 2", "2 ", "ok", "a b", "é", '5"', "1_0", "\t3"])


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6), st.integers(0, 7), st.booleans())
def test_a_cell_is_spelled_by_itself_alone_and_rows_are_counted_and_skipped_as_they_are_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], start: int, is_quoted: bool
) -> None:
    """However it stands beside others: whole columns are read at once."""
    folder = tmp_path_factory.mktemp("cells")

    def spelled(some: list[tuple[str, str]]) -> list[bytes]:
        with (folder / "pump.csv").open("w", newline="") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL if is_quoted else csv.QUOTE_MINIMAL)
            writer.writerows([("a", "b"), *some])
        return values(folder / "pump.csv")

    alone = [spelled([row])[0] for row in rows]

    assert spelled(rows) == alone
    file = InputFile(folder / "pump.csv", "pump")
    assert count_rows(file) == len(rows)
    assert [row.value for row in read_rows(file, start=start)] == alone[start:]


def test_bad_utf_8_stays_as_it_was(tmp_path: Path) -> None:
    path = write(tmp_path / "pump.csv", b"a,b\n\xff\xfe,1\n")

    assert values(path) == [b'{"a":"\xff\xfe","b":1}']


@pytest.mark.parametrize("name", ["pump.jsonl", "pump.ndjson.gz"])
def test_json_lines_are_not_touched_bad_ones_neither(tmp_path: Path, name: str) -> None:
    lines = [b'{"a": 1,  "b":\t2.50}', b"{broken", b"\xff\xfe", b"  [1]"]
    path = write(tmp_path / name, b"\r\n".join(lines) + b"\n")

    assert values(path) == lines


@pytest.mark.parametrize("name", ["pump.parquet", "pump.parquet.gz"])
def test_parquet_rows_become_objects(tmp_path: Path, name: str) -> None:
    moment = datetime(2020, 2, 8, 18, 34, 51, 250_000, UTC)
    table = pa.table(
        {
            "time": pa.array([moment, None], pa.timestamp("ns", "UTC")),
            "flow": pa.array([1.5, float("nan")]),
            "count": pa.array([7, None], pa.int64()),
            "state": pa.array(["ok", None]),
        }
    )
    pq.write_table(table, tmp_path / "plain")
    path = write(tmp_path / name, (tmp_path / "plain").read_bytes())

    assert [json.loads(value) for value in values(path)] == [
        {"time": "2020-02-08T18:34:51.250000Z", "flow": 1.5, "count": 7, "state": "ok"},
        {"time": None, "flow": None, "count": None, "state": None},
    ]
    assert count_rows(InputFile(path, "pump")) == 2


def test_parquet_is_read_on_from_any_row_across_its_row_groups(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": list(range(25))}), tmp_path / "pump.parquet", row_group_size=10)
    file = InputFile(tmp_path / "pump.parquet", "pump")

    for start in (0, 9, 10, 11, 24, 25, 99):
        assert [json.loads(row.value)["n"] for row in read_rows(file, start=start)] == list(range(start, 25))


@pytest.mark.parametrize(
    ("name", "content"),
    [("pump.csv", "id,when,v\nsite-1,2020-02-08 18:34:51,1\n,soon,2\n"),
     ("pump.jsonl", '{"id": "site-1", "when": "2020-02-08T18:34:51Z", "v": 1}\n{"v": 2}\n')],
)  # fmt: skip
def test_key_and_timestamp_come_from_the_columns_named(tmp_path: Path, name: str, content: str) -> None:
    rows = list(read_rows(InputFile(write(tmp_path / name, content), "pump"), RowColumns(key="id", time="when")))

    assert [row.timestamp_ms for row in rows] == [1_581_186_891_000, None]
    assert rows[0].key == b"site-1"
    assert not rows[1].key


@pytest.mark.parametrize(
    ("moment", "milliseconds"),
    [("2020-02-08 18:34:51", 1_581_186_891_000), ("2020-02-08T19:34:51.5+01:00", 1_581_186_891_500), ("1581186891", 1_581_186_891_000),
     ("1581186891.25", 1_581_186_891_250), (1_581_186_891_250, 1_581_186_891_250), (1_581_186_891_250_000, 1_581_186_891_250),
     (1_581_186_891_250_000_000, 1_581_186_891_250), (0, 0), ("soon", None), ("", None), (None, None), (True, None), (float("nan"), None)],
)  # fmt: skip
def test_times_are_read_as_iso_8601_or_as_an_epoch_by_their_size(moment: object, milliseconds: int | None) -> None:
    assert timestamp_ms(moment) == milliseconds


def test_files_are_named_from_the_fixed_part_of_their_pattern_on_and_taken_as_given_those_of_one_pattern_sorted(tmp_path: Path) -> None:
    for name in ("b/two.csv.gz", "a/one.csv", "a/deep/three.jsonl", "a/notes.txt"):
        write(tmp_path / name, "a\n1\n")

    assert [file.name for file in find_files([f"{tmp_path}/**/*.csv*"])] == ["a/one", "b/two"]
    assert [file.name for file in find_files([f"file://{tmp_path}/a/*/*.jsonl"])] == ["deep/three"]
    assert [file.name for file in find_files([f"{tmp_path}/b/two.csv.gz", f"{tmp_path}/**/*.csv*"])] == ["two", "a/one"]


def test_a_relative_pattern_and_a_name_with_pattern_signs_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "valve[1].csv", "a\n1\n")
    monkeypatch.chdir(tmp_path)

    assert [file.name for file in find_files(["*.csv"])] == ["valve[1]"]
    assert [file.name for file in find_files(["valve[1].csv"])] == ["valve[1]"]


@pytest.mark.parametrize("pattern", ["none.csv", "*.parquet", "file:///nowhere/**/*.csv"])
def test_a_pattern_that_matches_no_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(InputError, match="no such file"):
        find_files([pattern])


def test_a_folder_stands_for_the_files_of_a_known_kind_in_it(tmp_path: Path) -> None:
    for name in ("b.csv", "a.jsonl.gz", "notes.txt", "deep/c.csv"):
        write(tmp_path / name, "a\n1\n")

    (tmp_path / "empty").mkdir()

    assert [file.name for file in find_files([str(tmp_path)])] == ["a", "b"]
    with pytest.raises(InputError, match=r"no file in this folder ends in \.csv"):
        find_files([f"{tmp_path}/empty"])


def test_a_pipe_is_refused_as_what_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")

    with pytest.raises(InputError, match="a pipe or a device"):
        find_files([f"{tmp_path}/pipe.csv"])


def cut_short(path: Path) -> Path:
    whole = gzip.compress(b"a,b\n" + os.urandom(30_000).hex().encode() + b",1\n")
    path.write_bytes(whole[: len(whole) // 2])
    return path


def refused(path: Path) -> str:
    with pytest.raises(InputError) as error:
        everything(FileSource(str(path)))
    return str(error.value)


def test_what_cannot_be_read_is_named_with_its_row_and_the_remedy(tmp_path: Path) -> None:
    assert "cut short" in refused(cut_short(tmp_path / "cut.csv.gz"))
    (tmp_path / "plain.csv.gz").write_bytes(b"a,b\n1,2\n")
    assert "plain.csv.gz: row 0: the gzip file is damaged" in refused(tmp_path / "plain.csv.gz")
    assert "name its columns" in refused(write(tmp_path / "empty.csv", ""))
    assert "name its columns" in refused(write(tmp_path / "blank.csv", ",,\n1,2,3\n"))
    assert "'a' stands twice" in refused(write(tmp_path / "twice.csv", "a,b,a\n1,2,3\n"))
    assert "empty.parquet: row 0" in refused(write(tmp_path / "empty.parquet", b""))
    assert "not.parquet: row 0" in refused(write(tmp_path / "not.parquet", b"PAR1 not really"))
    assert "must end in .csv, .jsonl" in refused(write(tmp_path / "notes.txt", "a\n"))
    assert "one object a line" in refused(write(tmp_path / "document.json", '{\n "a": 1\n}\n'))


def test_a_missing_key_column_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "pump.csv", "a,b\n1,2\n")

    with pytest.raises(InputError, match="no column 'id'; it has: a, b"):
        FileSource(str(path), key_column="id")


def test_each_file_is_a_partition_and_each_row_number_an_offset(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "v\n1\n2\n")
    write(tmp_path / "b.jsonl.gz", '{"v": 3}\n')
    source = FileSource([str(tmp_path / "a.csv"), str(tmp_path / "b.jsonl.gz")], topic="history")

    change = source.poll(0).changes[0]
    assert (change.kind, change.partitions) == (ChangeKind.ASSIGNED, (Partition("history", 0), Partition("history", 1)))
    assert source.committed(change.partitions) == {}
    assert source.bounds(change.partitions) == {Partition("history", 0): Bounds(0, 2), Partition("history", 1): Bounds(0, 1)}
    assert list(source.poll(0).records) == []
    for partition in change.partitions:
        source.seek(partition, 0)

    assert list(source.poll(0).records) == [
        Record(Partition("history", 0), 0, -1, b"a", b'{"v":1}'),
        Record(Partition("history", 0), 1, -1, b"a", b'{"v":2}'),
        Record(Partition("history", 1), 0, -1, b"b", b'{"v": 3}'),
    ]
    assert list(source.poll(0).records) == []
    assert source.positions() == {Partition("history", 0): 2, Partition("history", 1): 1}


def test_files_are_read_in_turn_and_whole_whatever_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_turns, "OPEN_FILES_MAX", 3)
    rows = {f"pump-{number}": 3 * number + 1 for number in range(6)}
    for name, count in rows.items():
        write(tmp_path / f"{name}.csv", "v\n" + "".join(f"{row}\n" for row in range(count)))

    for batch_records_max in (1, 2, 3, 5, 1000):
        source = FileSource(f"{tmp_path}/*.csv", batch_records_max=batch_records_max)
        records = everything(source)
        for name, count in rows.items():
            assert [record.offset for record in records if record.key == name.encode()] == list(range(count))
        assert len(records) == sum(rows.values())


@pytest.mark.parametrize("name", ["pump.csv", "pump.jsonl.gz", "pump.parquet"])
def test_a_long_file_is_read_on_from_any_row(tmp_path: Path, name: str) -> None:
    rows = 20_000
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"v": list(range(rows))}), tmp_path / name, row_group_size=7_000)
    else:
        form = '{{"v":{}}}\n' if "jsonl" in name else "{}\n"
        write(tmp_path / name, ("" if "jsonl" in name else "v\n") + "".join(form.format(row) for row in range(rows)))
    source = FileSource(str(tmp_path / name))
    where = source.poll(0).changes[0].partitions[0]
    assert source.bounds([where]) == {where: Bounds(0, rows)}

    for offset in (0, 1, 7_000, 12_345, 19_999, 20_000):
        source.seek(where, offset)
        found = next(iter(source.poll(0).records), None)
        assert (None if found is None else (found.offset, found.value)) == (None if offset == rows else (offset, b'{"v":%d}' % offset))


def test_a_time_is_looked_up_in_the_fields_of_the_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "pump.csv", "time,v\n" + "".join(f"{second},1\n" for second in range(10)) + "bad,1\n20,1\n")
    record = settings.load((), ("record.time={path: time, format: s, earliest: 1970-01-01}", "record.features=[{name: v}]"), {}).record
    source = FileSource(str(path), batch_records_max=4, times_ms=event_times_ms(Decoder(record)))
    where = source.poll(0).changes[0].partitions[0]

    assert [source.offsets_at([where], second * 1000)[where] for second in (0, 5, 15, 21)] == [0, 5, 11, 12]
    with pytest.raises(InputError, match="give row numbers instead of times"):
        FileSource(str(path)).offsets_at([where], 0)


@pytest.mark.parametrize("name", ["plain.csv.gz", "quoted.csv.gz", "pump.jsonl.gz"])
def test_every_whole_row_before_the_place_where_gzip_is_cut_short_is_read_and_its_row_named(tmp_path: Path, name: str) -> None:
    lines = [f'"{os.urandom(16).hex()}"' if name == "quoted.csv.gz" else os.urandom(16).hex() for _ in range(3000)]
    whole = gzip.compress("\n".join(["v", *lines] if "csv" in name else lines).encode())
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    rows: list[FileRow] = []

    with pytest.raises(InputError) as reading:
        rows.extend(read_rows(InputFile(tmp_path / name, "pump")))
    with pytest.raises(InputError) as counting:
        count_rows(InputFile(tmp_path / name, "pump"))

    assert 1300 < len(rows) < 1700
    assert str(reading.value) == str(counting.value)
    assert f"{name}: row {len(rows)}: the gzip file is damaged or cut short" in str(reading.value)


def test_a_damaged_row_group_is_named_with_its_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"v": [os.urandom(16).hex() for _ in range(4000)]}), tmp_path / "pump.parquet", row_group_size=1000, compression="snappy")
    content = bytearray((tmp_path / "pump.parquet").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4000] = bytes(4000)
    (tmp_path / "pump.parquet").write_bytes(content)

    assert re.search(r"pump.parquet: row [12]\d{3}: ", refused(tmp_path / "pump.parquet"))


def test_seek_goes_back_and_forth_and_to_a_file_that_had_ended(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "v\n" + "".join(f"{row}\n" for row in range(10)))
    source = FileSource(f"{tmp_path}/a.csv", batch_records_max=4)
    where = source.poll(0).changes[0].partitions[0]

    for offset in (8, 2, 5, 0, 10):
        source.seek(where, offset)
        offsets = []
        while batch := source.poll(0).records:
            offsets += [record.offset for record in batch]
        assert offsets == list(range(offset, 10))


def test_a_file_source_may_be_closed_twice_and_then_brings_nothing(tmp_path: Path) -> None:
    source = FileSource(str(write(tmp_path / "a.csv", "v\n1\n2\n")), batch_records_max=1)
    where = source.poll(0).changes[0].partitions[0]
    source.seek(where, 0)
    source.poll(0)

    source.close()
    source.close()

    assert list(source.poll(0).records) == []


def test_a_seek_before_the_assignment_is_refused(tmp_path: Path) -> None:
    source = FileSource(str(write(tmp_path / "a.csv", "v\n1\n")))

    with pytest.raises(ValueError, match=r"files\[0\] is not owned"):
        source.seek(Partition("files", 0), 0)


def test_times_of_parquet_become_timestamps(tmp_path: Path) -> None:
    moments = [datetime(2020, 2, 8, tzinfo=UTC) + timedelta(seconds=second) for second in range(2)]
    pq.write_table(pa.table({"when": pa.array(moments, pa.timestamp("ns"))}), tmp_path / "pump.parquet")

    rows = list(read_rows(InputFile(tmp_path / "pump.parquet", "pump"), RowColumns(time="when")))

    assert [row.timestamp_ms for row in rows] == [1_581_120_000_000, 1_581_120_001_000]
