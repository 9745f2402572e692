from __future__ import annotations

from pathlib import Path

import pytest

from anomaly_daemon.cli import main


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")

    assert main(["demo", "--directory", str(tmp_path)]) == 2

    assert "already holds something" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_first_step_that_fails_ends_the_demo_with_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = Path.cwd()

    assert main(["demo", "--directory", str(tmp_path / "new"), "--entities", "0"]) == 2

    told = capsys.readouterr()
    assert "--entities 0" in told.err
    assert "exit code 2" in told.err
    assert "$ anomaly-daemon simulate sensors" in told.out
    assert "$ anomaly-daemon train" not in told.out
    assert Path.cwd() == before
