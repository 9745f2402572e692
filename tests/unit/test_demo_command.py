from __future__ import annotations

from pathlib import Path

import pytest

from anomaly_daemon.cli import main


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")

    assert main(["demo", "--directory", str(tmp_path)]) == 2

    assert "already holds something" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_in_place_of_the_folder_is_told_as_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")

    assert main(["demo", "--directory", str(tmp_path / "mine.txt")]) == 2

    assert "mine.txt: is no folder" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [("--entities", "0"), ("--entities", "1000001"), ("--seed", "-1")])
def test_a_number_that_cannot_be_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: tuple[str, str]
) -> None:
    assert main(["demo", "--directory", str(tmp_path / "new"), "=".join(wrong)]) == 2

    told = capsys.readouterr()
    assert " ".join(wrong) in told.err
    assert told.out == ""
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("directory", "where"), [(["--directory", "new"], "/new"), ([], "the folder is removed")])
def test_the_first_step_that_fails_ends_the_demo_with_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], directory: list[str], where: str
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["demo", *directory, "--entities", "1", "--set", "topics.create_topics=false"]) == 2

    told = capsys.readouterr()
    assert "no topic readings" in told.err
    assert "exit code 2" in told.err
    assert where in told.err
    assert "$ anomaly-daemon simulate sensors" in told.out
    assert "$ anomaly-daemon train" not in told.out
    assert Path.cwd() == tmp_path
