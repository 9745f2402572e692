"""A slice of `python -m tests.faults input`."""

from __future__ import annotations

from tests.faults import bad_input


def test_mangled_records_are_dead_lettered_with_a_reason_and_the_others_judged_as_if_they_were_not_there() -> None:
    bad_input.mangled_records(20_000, seed=1).check()
