from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from anomaly_daemon.cli import main
from anomaly_daemon.model import artifact as artifacts
from tests.small import ASSIGNMENTS, artifact

Check = Callable[..., list[str]]
IN_ORDER = ("topics.create_topics=true", "engine.resident_max=5000")


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """The lines of `check` on the small detector in a folder of its own, once its exit code is the one expected."""
    monkeypatch.chdir(tmp_path)
    artifacts.save(artifact(), tmp_path / "model")

    def lines(*assignments: str, expected: int, arguments: tuple[str, ...] = ()) -> list[str]:
        words = [word for one in (*ASSIGNMENTS, *IN_ORDER, *assignments) for word in ("--set", one)]
        assert main(["check", *words, *arguments]) == expected
        return capsys.readouterr().out.splitlines()

    return lines


def heads(lines: list[str]) -> list[tuple[str, str]]:
    """Level and name of each line."""
    return [(line.split()[0], line.split()[1]) for line in lines]


def test_what_is_in_order_is_told_on_one_screen_and_nothing_is_made(check: Check, tmp_path: Path) -> None:
    lines = check(expected=0)

    assert heads(lines) == [("ok", name) for name in ("settings", "threshold", "device", "model", "state", "checkpoints", "topics")]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_every_independent_problem_is_told_once(check: Check, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    lines = check(
        "record.features=[]",
        "threshold.method=ewmma",
        "model.artifact=nowhere",
        "checkpoints.url=file/checkpoints",
        "topics.create_topics=false",
        expected=2,
    )

    assert heads(lines) == [
        ("problem", "settings"),
        ("problem", "threshold"),
        ("ok", "device"),
        ("problem", "model"),
        ("skipped", "state"),
        ("problem", "checkpoints"),
        ("problem", "topics"),
    ]
    assert "file is not a folder" in lines[5]
    assert len({line.split(maxsplit=2)[2] for line in lines}) == len(lines)


def test_without_features_a_good_model_brings_no_second_message(check: Check) -> None:
    lines = check("record.features=[]", expected=2)

    assert [head for head in heads(lines) if head[0] == "problem"] == [("problem", "settings")]


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("engine.resident_max=64", "engine.resident_max below input.batch_records_max (4096) cuts batches small"),
        ("engine.entities_max=64", "engine.entities_max below input.batch_records_max (4096) cuts batches small"),
        ("threshold.method=river:anomaly.HalfSpaceTrees", "threshold.level is left at 0.9, but this detector reads on a scale of its own"),
        ("threshold={method: 'river:stats.Max', warmup: judge}", "threshold.warmup: judge has no effect: river's estimators know no prior"),
        ("model.per=entity", "model.scale: entity with model.per: entity learns a scale anew"),
        ("model.hidden=64", "trained with model.hidden=8, and that counts"),
        ("training.epochs=3", "trained with training.epochs=2, and that counts"),
    ],
)
def test_what_works_but_is_hardly_meant_is_warned_of(check: Check, assignment: str, told: str) -> None:
    warnings = [line for line in check(assignment, expected=0, arguments=("--offline",)) if line.startswith("warning")]

    assert len(warnings) == 1
    assert told in warnings[0]


@pytest.mark.parametrize("assignments", [("threshold.method=river:anomaly.LODA", "threshold.level=4"), ("threshold.method=river:stats.Max",)])
def test_a_level_that_was_chosen_or_is_not_used_is_not_warned_of(check: Check, assignments: tuple[str, ...]) -> None:
    assert ("warning", "threshold") not in heads(check(*assignments, expected=0, arguments=("--offline",)))


def test_what_cannot_be_verified_is_said(check: Check) -> None:
    online = check("checkpoints.url=memory://bucket", expected=0)
    offline = check("checkpoints.url=s3://key:hunter2@bucket", expected=0, arguments=("--offline",))

    assert online[-2] == "ok       checkpoints memory://bucket answers; whether it can be written shows at the first checkpoint"
    assert offline[-1] == "ok       checkpoints s3://***@bucket: not looked at while --offline"
