from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.evaluation.scores import MEASURED, NO_CODE, NO_TIME, ScoreFile, read_scores
from tests.score_cases import SECOND_US, Stream, columns_of, write_scores

STREAMS = {
    "b": Stream((0.1, float("nan"), 0.3), flags=frozenset({2}), incidents={1: "i-1", 2: "i-1"}),
    "a": Stream((0.4, 0.5), times_us=(5 * SECOND_US, 4 * SECOND_US)),
}


def written(folder: Path, group_rows: int = 2, rejected: int = 1) -> Path:
    columns = columns_of(STREAMS)
    mixed = [3, 0, 1, 4, 2]
    return write_scores(
        folder / "scores.parquet", {name: column[mixed] for name, column in columns.items()}, group_rows=group_rows, rejected=rejected
    )


def test_rows_are_gathered_per_entity_in_the_order_of_the_file(tmp_path: Path) -> None:
    table = read_scores(written(tmp_path), [*MEASURED, "offset"])

    assert list(table.places) == ["a", "b"]
    assert table.column("b", "anomaly_score").tolist() == pytest.approx([0.1, np.nan, 0.3], nan_ok=True)
    assert table.column("a", "timestamp").tolist() == [5 * SECOND_US, 4 * SECOND_US]
    assert table.column("b", "is_anomaly").tolist() == [False, False, True]
    assert table.column("b", "offset").tolist() == [2, 3, 5]
    assert [table.incident_ids[code] if code != NO_CODE else None for code in table.column("b", "incident_id")] == [None, "i-1", "i-1"]


def test_batches_hold_all_rows_in_log_order_with_codes_for_the_whole_file(tmp_path: Path) -> None:
    with ScoreFile(written(tmp_path)) as file:
        batches = list(file.batches(["entity", "timestamp", "anomaly_score", "prediction", "phase"], batch_rows=2))
        names = [*file.words["entity"], None]

    assert [len(batch["entity"]) for batch in batches] == [2, 2, 2]
    assert [names[code] for batch in batches for code in batch["entity"]] == [None, "a", "b", "b", "a", "b"]
    assert batches[0]["timestamp"].tolist() == [NO_TIME, 5 * SECOND_US]
    assert np.isnan(batches[0]["anomaly_score"][0])
    assert (file.rows, file.channels, file.metadata["note"]) == (6, ("prediction",), "ours")


@pytest.mark.parametrize("size", [1, 3, 100])
def test_row_groups_and_batches_do_not_change_what_is_read(tmp_path: Path, size: int) -> None:
    expected = read_scores(written(tmp_path))
    table = read_scores(written(tmp_path, group_rows=size))

    assert table.places == expected.places
    for name, column in expected.columns.items():
        np.testing.assert_array_equal(table.columns[name], column)


def test_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with ScoreFile(written(tmp_path)) as file, pytest.raises(InputError, match="no column novelty; it has topic, entity"):
        next(file.batches(["novelty"]))


def test_missing_column_is_named(tmp_path: Path) -> None:
    path = written(tmp_path)
    pq.write_table(pq.read_table(path).drop_columns(["threshold", "grade"]), path)

    with pytest.raises(InputError, match=r"scores\.parquet: not exported scores: no column threshold, grade; it has topic"):
        read_scores(path)


def test_column_of_another_type_is_named(tmp_path: Path) -> None:
    path = written(tmp_path)
    table = pq.read_table(path)
    place = table.schema.get_field_index("timestamp")
    pq.write_table(table.set_column(place, "timestamp", table["timestamp"].cast(pa.int64())), path)

    with pytest.raises(InputError, match="column timestamp is int64, not a timestamp"):
        read_scores(path)


def test_times_of_another_unit_are_read_in_microseconds(tmp_path: Path) -> None:
    path = written(tmp_path)
    table = pq.read_table(path)
    place = table.schema.get_field_index("timestamp")
    pq.write_table(table.set_column(place, "timestamp", table["timestamp"].cast(pa.timestamp("ns", "Europe/Berlin"))), path)

    assert read_scores(path).column("a", "timestamp").tolist() == [5 * SECOND_US, 4 * SECOND_US]


def test_file_without_a_scored_record_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    whole = pq.read_table(path)

    pq.write_table(whole.slice(0, 1), path)
    with pytest.raises(InputError, match="none of its 1 records was scored"):
        read_scores(path)
    pq.write_table(whole.slice(0, 0), path)
    with pytest.raises(InputError, match="holds no record"):
        read_scores(path)


def test_record_without_a_time_is_no_scored_record(tmp_path: Path) -> None:
    path = written(tmp_path)
    table = pq.read_table(path)
    is_other = np.array(table["entity"].to_pylist()) != "a"
    place = table.schema.get_field_index("timestamp")
    times = pa.array(table["timestamp"].to_pylist(), table["timestamp"].type, mask=~is_other)
    pq.write_table(table.set_column(place, "timestamp", times), path)

    assert list(read_scores(path).places) == ["b"]


@pytest.mark.parametrize("keep", [0, 100, -5])
def test_file_cut_short_is_refused(tmp_path: Path, keep: int) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])

    with pytest.raises(InputError, match="not a Parquet file, or damaged or cut short"):
        read_scores(path)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_scores(tmp_path / "scores.parquet")
    with pytest.raises(InputError, match="cannot be read"):
        read_scores(tmp_path)
