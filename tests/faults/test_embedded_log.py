"""A slice of `python -m tests.faults log`."""

from __future__ import annotations

import random
from pathlib import Path

from tests.faults import embedded_log


def test_damaged_pages_are_told_or_without_effect_and_never_another_result(tmp_path: Path) -> None:
    embedded_log.damaged_pages(tmp_path, 24, random.Random(0)).check()


def test_pages_damaged_between_two_lives_are_told_or_without_effect_too(tmp_path: Path) -> None:
    embedded_log.damaged_between_lives(tmp_path, 24, random.Random(0)).check()


def test_pages_damaged_under_a_daemon_are_told_or_without_effect_too(tmp_path: Path) -> None:
    embedded_log.damaged_under_way(tmp_path, 24, random.Random(0)).check()


def test_a_torn_end_of_the_log_leaves_whole_transactions_and_their_result(tmp_path: Path) -> None:
    embedded_log.torn_tail(tmp_path, 4, random.Random(0)).check()


def test_a_full_disk_is_waited_for_and_nothing_is_lost(tmp_path: Path) -> None:
    embedded_log.full_disk(tmp_path).check()


def test_checkpoints_of_a_time_that_a_restored_backup_does_not_know_are_forgotten(tmp_path: Path) -> None:
    embedded_log.backup_restored(tmp_path).check()


def test_checkpoints_of_another_log_in_the_same_folder_are_nothing_to_it(tmp_path: Path) -> None:
    embedded_log.one_folder_for_two_logs(tmp_path).check()


def test_two_daemons_on_one_file_share_its_partitions_and_one_killed_is_succeeded(tmp_path: Path) -> None:
    embedded_log.two_daemons(tmp_path).check()


def test_of_two_daemons_under_one_name_the_first_is_fenced(tmp_path: Path) -> None:
    embedded_log.one_name_twice(tmp_path).check()


def test_a_reader_that_holds_its_lock_stops_nothing(tmp_path: Path) -> None:
    embedded_log.reader_with_a_lock(tmp_path).check()


def test_a_writer_that_holds_its_lock_for_long_is_waited_for(tmp_path: Path) -> None:
    embedded_log.writer_with_a_lock(tmp_path).check()
