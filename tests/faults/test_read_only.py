"""A slice of `python -m tests.faults read-only`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import read_only
from tests.faults.verdict import Verdict


def test_checkpoints_that_cannot_be_written_are_told_and_stop_nothing(tmp_path: Path) -> None:
    read_only.checkpoint_folder(tmp_path).check()


def test_a_log_that_is_read_only_at_the_start_is_refused_with_the_remedy_and_left_as_it_is(tmp_path: Path) -> None:
    read_only.log_at_start(tmp_path).check()


def test_a_log_whose_right_to_write_is_taken_under_way_loses_nothing(tmp_path: Path) -> None:
    read_only.log_under_way(tmp_path).check()


def test_a_disk_that_becomes_read_only_under_way_is_waited_for_and_keeps_what_was_committed(tmp_path: Path) -> None:
    on_a_disk(read_only.disk_under_way, tmp_path)


def test_a_full_disk_under_the_log_is_waited_for_and_nothing_is_lost(tmp_path: Path) -> None:
    on_a_disk(read_only.full_disk_of_the_log, tmp_path)


def test_a_full_disk_under_the_checkpoints_is_told_and_stops_nothing(tmp_path: Path) -> None:
    on_a_disk(read_only.full_disk_of_checkpoints, tmp_path)


def on_a_disk(scenario: Callable[[Path], Verdict], folder: Path) -> None:
    try:
        scenario(folder).check()
    except read_only.NotHereError as reason:
        pytest.skip(str(reason))
