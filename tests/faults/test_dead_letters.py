"""A slice of `python -m tests.faults dead-letters`."""

from __future__ import annotations

from pathlib import Path

from tests.faults import dead_letters


def test_a_dead_letter_topic_that_is_gone_stops_the_daemon_before_the_record_and_is_named(tmp_path: Path) -> None:
    dead_letters.missing_topic(tmp_path).check()


def test_dead_letters_dumped_mended_and_loaded_are_judged_as_if_they_had_never_been_spoiled(tmp_path: Path) -> None:
    dead_letters.mended_records(tmp_path).check()


def test_what_wrong_settings_rejected_comes_back_once_they_are_mended(tmp_path: Path) -> None:
    dead_letters.mended_settings(tmp_path).check()
