"""A slice of `python -m tests.faults bounds`."""

from __future__ import annotations

from tests.faults import bounds


def test_a_flood_of_keys_stays_within_the_table_and_evicted_entities_come_back_as_they_were() -> None:
    bounds.entity_flood(40_000, 600, 6_000, seed=0).check()


def test_a_key_with_nine_tenths_of_the_records_is_judged_alike_however_it_is_cut() -> None:
    bounds.hot_key(2_000, seed=0).check()


def test_a_partition_ten_hours_behind_is_judged_as_if_the_other_were_not_there() -> None:
    bounds.partition_behind(600, seed=0).check()


def test_a_device_without_the_memory_for_a_batch_judges_it_in_parts_and_changes_no_bit() -> None:
    bounds.device_without_memory(600, seed=0).check()
