from __future__ import annotations

import gzip
import io
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.evaluation.labels.files import read_labels
from anomaly_daemon.simulation.labels import Ledger
from anomaly_daemon.simulation.stream import Label

DAY_US = 86_400_000_000
NEW_YEAR_US = 19_723 * DAY_US  # 2024-01-01T00:00:00Z
HEADER = "entity,start,end\n"


def read(folder: Path, text: str | bytes, name: str = "labels.csv") -> dict[str, list[list[int]]]:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return {entity: intervals.tolist() for entity, intervals in read_labels(path).intervals.items()}


def test_intervals_are_read_in_utc_sorted_and_joined_where_they_overlap(tmp_path: Path) -> None:
    found = read(tmp_path, HEADER + "b,2024-01-03,2024-01-04\nb,2024-01-01T02:00:00+02:00,2024-01-01 12:00:00\nb,2024-01-01T12:00:00Z,2024-01-02\n")

    assert found == {"b": [[NEW_YEAR_US, NEW_YEAR_US + DAY_US], [NEW_YEAR_US + 2 * DAY_US, NEW_YEAR_US + 3 * DAY_US]]}
    labels = read_labels(tmp_path / "labels.csv")
    assert labels.notes == (f"{tmp_path}/labels.csv: overlapping or repeated labels joined: 1, of b",)
    assert labels.unnamed == "normal"


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_gzipped_file_with_another_delimiter_is_read(tmp_path: Path, delimiter: str) -> None:
    text = (HEADER + "a,2024-01-01,2024-01-01\n").replace(",", delimiter)

    assert read(tmp_path, gzip.compress(text.encode()), "labels.csv.gz") == {"a": [[NEW_YEAR_US, NEW_YEAR_US]]}


def test_labels_of_the_simulator_are_read_as_they_are(tmp_path: Path) -> None:
    file = io.StringIO()
    ledger = Ledger(file)
    ledger.add([Label("pump-1", NEW_YEAR_US, NEW_YEAR_US + 5, "spike", ("flow", "current"))])
    ledger.finish(NEW_YEAR_US + DAY_US)

    assert read(tmp_path, file.getvalue()) == {"pump-1": [[NEW_YEAR_US, NEW_YEAR_US + 5]]}


def test_points_are_intervals_of_no_length(tmp_path: Path) -> None:
    assert read(tmp_path, "entity,timestamp\na,2024-01-01\n") == {"a": [[NEW_YEAR_US, NEW_YEAR_US]]}
    assert read_labels(tmp_path / "labels.csv").unnamed == "normal"


def test_labelled_records_become_intervals_and_say_nothing_of_other_entities(tmp_path: Path) -> None:
    text = "entity,timestamp,label\na,2024-01-01,0\nb,2024-01-01,false\na,2024-01-02,1\na,2024-01-03,1.0\na,2024-01-04,0\na,2024-01-05,True\n"

    assert read(tmp_path, text) == {
        "a": [[NEW_YEAR_US + DAY_US, NEW_YEAR_US + 2 * DAY_US], [NEW_YEAR_US + 4 * DAY_US, NEW_YEAR_US + 4 * DAY_US]],
        "b": [],
    }
    assert read_labels(tmp_path / "labels.csv").unnamed == "unknown"


def test_stream_without_an_entity_column_is_named_by_its_file_and_tells_its_period(tmp_path: Path) -> None:
    wave = np.sin(2 * np.pi * np.arange(1000) / 40)
    lines = [f"{np.datetime64(NEW_YEAR_US + row, 'us')},{value},{int(row >= 990)}" for row, value in enumerate(wave)]

    assert read(tmp_path, "\n".join(["timestamp,flow,label", *lines]), "valve-1.csv") == {"valve-1": [[NEW_YEAR_US + 990, NEW_YEAR_US + 999]]}
    assert read_labels(tmp_path / "valve-1.csv").period_rows == {"valve-1": 40}


def test_windows_of_nab_are_read(tmp_path: Path) -> None:
    text = '{"realTweets/T.csv": [["2024-01-01 00:00:00.000000", "2024-01-02 00:00:00.000000"]], "art/flat.csv": []}'

    assert read(tmp_path, text, "combined_windows.json") == {"realTweets/T": [[NEW_YEAR_US, NEW_YEAR_US + DAY_US]], "art/flat": []}


def test_folder_of_streams_is_read_in_its_own_order_from_where_training_ends(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    rows = "timestamp,flow,label\n2024-01-01,1,0\n2024-01-02,2,1\n"
    (tmp_path / "a.csv").write_text(rows)
    (tmp_path / "deep" / "b.csv.gz").write_bytes(gzip.compress(rows.encode()))
    (tmp_path / "dataset.json").write_text('{"name": "x", "entities": [{"entity": "deep/b", "train_rows": 1}, {"entity": "a", "rows": 2}]}')

    labels = read_labels(tmp_path)

    assert list(labels.intervals) == ["deep/b", "a"]
    assert labels.judged_from == {"deep/b": NEW_YEAR_US + DAY_US}
    (tmp_path / "dataset.json").unlink()
    assert list(read_labels(tmp_path).intervals) == ["a", "deep/b"]


def test_parquet_with_typed_times_and_numbered_entities_is_read(tmp_path: Path) -> None:
    times = pa.array([NEW_YEAR_US * 1000], pa.timestamp("ns", "Europe/Berlin"))
    pq.write_table(pa.table({"entity": [17], "start": times, "end": pa.array([date(2024, 1, 2)])}), tmp_path / "labels.parquet")

    (intervals,) = read_labels(tmp_path / "labels.parquet").intervals.values()
    assert intervals.tolist() == [[NEW_YEAR_US, NEW_YEAR_US + DAY_US]]


def test_file_that_lists_no_interval_labels_everything_as_normal_and_says_so(tmp_path: Path) -> None:
    assert read(tmp_path, HEADER) == {}
    assert read_labels(tmp_path / "labels.csv").notes == (f"{tmp_path}/labels.csv: no record is labelled as anomalous",)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("labels.csv", "", "empty, or its first line is"),
        ("labels.csv", "when,what\n1,2\n", r"no labels: it has the columns when, what; give the columns entity, start, end"),
        ("labels.csv", HEADER + "a,2024-01-01,2024-01-02\na,2024-01-03,2024-01-02\n", "row 3: starts at 2024-01-03T00:00:00Z, after its end"),
        ("labels.csv", HEADER + "a,yesterday,2024-01-02\n", "row 2: start 'yesterday' is no time; write 2026"),
        ("labels.csv", HEADER + "a,,2024-01-02\n", "row 2: no start; every label needs one"),
        ("labels.csv", HEADER + "a,2024-01-01\n", "Row #2: Expected 3 columns, got 2"),
        ("labels.csv", "entity,start,end,end\n", "column end stands twice"),
        ("labels.csv", "entity,timestamp,label\na,2024-01-01,maybe\n", "row 2: label 'maybe' is neither 0 nor 1"),
        ("a.csv", "timestamp,label\n", "holds no row, so it says nothing of any entity"),
        ("labels.csv", b"\xff\xfe", "cannot be read as labels"),
        ("labels.csv.gz", b"plain", "the gzip file is damaged or cut short"),
        ("labels.csv.gz", gzip.compress(HEADER.encode() * 99, mtime=0)[:40], "the gzip file is damaged or cut short"),
        ("labels.parquet", b"plain", "cannot be read as labels"),
        ("labels.txt", "a", "not a known kind of labels"),
        ("windows.json", "{", "not label windows"),
        ("windows.json", "{}", "holds no window"),
        ("windows.json", '{"f/a.csv": [["2024-01-01", "soon"]]}', "f/a.csv, window 1: 'soon' is no time"),
        ("windows.json", '{"f/a.csv": [["2024-01-02", "2024-01-01"]]}', "f/a.csv, window 1: starts at"),
    ],
)
def test_labels_that_cannot_be_used_are_refused_with_file_and_place(tmp_path: Path, name: str, text: str | bytes, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        read(tmp_path, text, name)
    assert str(refused.value).startswith(f"{tmp_path}/{name}: ")


def test_rows_are_counted_over_the_whole_file(tmp_path: Path) -> None:
    lines = "a,2024-01-01,2024-01-02\n" * 100_000

    with pytest.raises(InputError, match="row 100002: end 'never' is no time"):
        read(tmp_path, HEADER + lines + "a,2024-01-01,never\n")


def test_missing_file_and_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_labels(tmp_path / "labels.csv")
    with pytest.raises(InputError, match="no file in it ends in"):
        read_labels(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "dataset.json: "),
        ('{"entities": [{"entity": "a", "train_rows": -1}]}', "train_rows"),
        ('{"entities": [{"entity": "a"}]}', "dataset.json: no file a.csv"),
    ],
)
def test_folder_whose_description_does_not_fit_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "dataset.json").write_text(text)

    with pytest.raises(InputError, match=said):
        read_labels(tmp_path)
