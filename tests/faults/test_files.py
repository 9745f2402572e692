"""A slice of `python -m tests.faults files`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults import files

TIMES = 100


def test_a_harmed_checkpoint_is_refused_by_name_or_as_good_as_it_was(tmp_path: Path) -> None:
    files.checkpoint_files(tmp_path, TIMES, random.Random(0)).check()


def test_harmed_rules_of_a_reload_are_refused_by_name_and_never_other_rules(tmp_path: Path) -> None:
    files.rules_files(tmp_path, TIMES, random.Random(0)).check()


@pytest.mark.parametrize("part", ["manifest.json", "weights"])
def test_a_harmed_artifact_is_refused_by_name_or_as_good_as_it_was(tmp_path: Path, part: str) -> None:
    files.artifact_files(tmp_path / "model", part, TIMES, random.Random(0)).check()


def test_a_harmed_settings_file_is_refused_by_name_or_means_what_it_says(tmp_path: Path) -> None:
    files.settings_files(tmp_path, TIMES, random.Random(0)).check()
