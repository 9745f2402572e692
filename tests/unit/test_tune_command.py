from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest

from anomaly_daemon.cli import main
from anomaly_daemon.domain.records import Partition
from tests import small, tuning_cases

SECOND = Partition("readings", 1)


@pytest.mark.parametrize(
    ("seed", "budget", "assignments"),
    [
        (1, "4/day", ()),
        (2, "20/day", ("incidents.trigger={count: 1, of: 1}", "incidents.cooldown=1h")),
        (3, "0.5/day per entity", ("overrides=[{match: 'pump-[1-3]', threshold: {z: 3}, incidents: {recovery: {count: 4, of: 6}}}]",)),
        (4, "60/day", ("threshold.method=static", "threshold.level=0.7")),
        (5, "8/day", ("engine.entity_ttl=20m", "threshold.warmup_observations=3", "incidents.trigger={count: 1, of: 1}")),
        (7, "20/day", ("threshold.span=3", "threshold.recovery=0.6", "threshold.reference_observations=60", "threshold.z=3")),
        (8, "40/day", ("threshold.method=static", "threshold.level=0.6", "threshold.span=2", "threshold.recovery=0.8")),
        (6, "6/day", ("threshold.method=quantile", "threshold.window=100", "threshold.tail=0.02", "regime={after: null}")),
    ],
)
def test_a_full_replay_under_the_patch_brings_exactly_the_incidents_promised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int, budget: str, assignments: tuple[str, ...]
) -> None:
    config = tuning_cases.settings_file(tmp_path, *assignments)
    records = small.stream(seed, 7, 1800, with_bad=True) + small.stream(seed + 50, 5, 1200, partition=SECOND)
    scores = tuning_cases.export(tmp_path / "scores.parquet", records, small.settings(*assignments))

    found = tuning_cases.tuned(capsys, config, scores, "--budget", budget)

    assert found["is_exact"]
    assert tuning_cases.promised(found)
    assert tuning_cases.promised(found) == tuning_cases.incidents(records, tuning_cases.under(config, tmp_path / "patch.yaml"))


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Settings and an export of one partition, with faults of every other pump from some time on."""
    folder = tmp_path_factory.mktemp("scored")
    records = small.stream(1, 4, 1200)
    silent = "threshold.warmup=silent"
    return tuning_cases.settings_file(folder, silent), tuning_cases.export(folder / "scores.parquet", records, small.settings(silent))


def labels(folder: Path, *lines: str) -> str:
    path = folder / "labels.csv"
    path.write_text("\n".join(("entity,start,end", *lines)) + "\n")
    return str(path)


FAULTS = ("pump-0,2023-11-15T12:50:00Z,2023-11-16T00:00:00Z", "pump-2,2023-11-15T12:50:00Z,2023-11-16T00:00:00Z")


@pytest.mark.parametrize("wish", [(), ("--objective", "event_f1"), ("--miss-cost", "5", "--false-alarm-cost", "1")])
def test_labels_are_fitted_at_least_as_well_as_before(
    scored: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], wish: tuple[str, ...]
) -> None:
    found = tuning_cases.tuned(capsys, *scored, "--labels", labels(tmp_path, *FAULTS), "--split", "0.85", *wish)

    before, after = found["before"][0]["detection"], found["after"][0]["detection"]
    assert after["event_recall"] == 1.0
    assert after["event_f1"] > before["event_f1"]
    assert found["changes"]


def test_settings_that_meet_the_budget_stay_as_they_are(scored: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    first = tuning_cases.tuned(capsys, *scored, "--budget", "1000/day")
    again = tuning_cases.tuned(capsys, *scored, "--budget", f"{first['before'][0]['incidents_per_day'] + 0.01}/day")

    assert first["changes"]
    assert again["changes"] == []
    assert again["before"] == again["after"]


def test_thin_evidence_is_told_with_its_numbers(scored: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    found = tuning_cases.tuned(capsys, *scored, "--budget", "5/day")

    assert any("covers 0.50 days" in note for note in found["notes"])


def test_an_export_from_a_checkpoint_promises_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tuning_cases.settings_file(tmp_path)
    scores = tuning_cases.export(tmp_path / "scores.parquet", small.stream(1, 4, 600), small.settings(), started_from="checkpoint")

    found = tuning_cases.tuned(capsys, config, scores, "--budget", "5/day")

    assert not found["is_exact"]
    assert any("may begin in the midst of the log" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--budget", "5"), "not a budget; write 5/day"),
        (("--budget", "0/day"), "must be above 0"),
        (("--budget", "5/day", "--objective", "event_f1"), "--objective: goes with --labels"),
        (("--budget", "5/day", "--split", "1"), "--split 1: write a share from 0.1 to 0.9"),
        (("--labels", "LABELS", "--miss-cost", "1"), "--miss-cost and --false-alarm-cost go together"),
        (("--labels", "LABELS", "--miss-cost", "1", "--false-alarm-cost", "-1"), "--false-alarm-cost -1: write a cost above 0"),
        (("--labels", "LABELS"), "no record of the earlier part is labelled"),
        (("--labels", "OTHERS"), "none of the 1 labelled entities was scored"),
        (("--budget", "5/day", "--set", "threshold.half_life=7"), "these shape scores: threshold.half_life; give -c"),
        (("--budget", "5/day", "--set", "detector_id=other"), "these shape scores: detector_id"),
        (("--budget", "5/day", "--output", "TAKEN"), "already holds something"),
    ],
)
def test_bad_input_is_refused_with_a_remedy(
    scored: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    taken = tmp_path / "taken.yaml"
    taken.write_text("threshold: {z: 4}\n")
    others = tmp_path / "others.csv"
    others.write_text("entity,start,end\nvalve,2023-11-15T00:00:00Z,2023-11-15T01:00:00Z\n")
    paths = {"TAKEN": str(taken), "OTHERS": str(others), "LABELS": labels(tmp_path, *FAULTS)}
    code = main(["tune", "-c", str(scored[0]), "--scores", str(scored[1]), *(paths.get(one, one) for one in arguments)])

    assert code == 2
    assert told in capsys.readouterr().err
    assert taken.read_text() == "threshold: {z: 4}\n"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"drop": ["deviations"]}, "has no column deviations"),
        ({"drop": ["is_anomaly"]}, "not exported scores: no column is_anomaly"),
        ({"rows": 0}, "holds no record"),
        ({"rows": 5}, "none of its 5 records was judged"),
        ({"is_bare": True}, "does not note the settings"),
    ],
)
def test_an_export_that_cannot_answer_is_refused(
    scored: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], told: str
) -> None:
    table = pq.read_table(scored[1])
    table = table.drop_columns(changes.get("drop", [])).slice(0, changes.get("rows", len(table)))
    pq.write_table(table.replace_schema_metadata({}) if "is_bare" in changes else table, tmp_path / "other.parquet")

    code = main(["tune", "-c", str(scored[0]), "--scores", str(tmp_path / "other.parquet"), "--budget", "5/day"])

    assert code == 2
    assert told in capsys.readouterr().err


def test_the_table_names_the_promise_and_holds_the_patch(scored: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "-c", str(scored[0]), "--scores", str(scored[1]), "--budget", "8/day"]) == 0

    told = capsys.readouterr().out
    assert "A full replay under the patch brings exactly these" in told
    assert "threshold:\n  z: " in told
    assert "for the budget 8/day" in told


def test_a_name_that_looks_like_markup_is_shown_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tuning_cases.settings_file(tmp_path)
    records = [msgspec.structs.replace(record, key=b"[/b]") for record in small.stream(1, 1, 600)]
    scores = tuning_cases.export(tmp_path / "scores.parquet", records, small.settings())

    assert main(["tune", "-c", str(config), "--scores", str(scores), "--budget", "4/day"]) == 0

    assert "[/b] 100%" in capsys.readouterr().out
