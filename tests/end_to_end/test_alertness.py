"""A slice of `tests.benchmarks.alertness`: what an entity goes through does not make it deaf, under default settings."""

from __future__ import annotations

from tests.benchmarks.alertness import cases, measure

OFTEN = (
    "nothing, then weaker faults",
    "one reading of 65535 at record 30",
    "a fault at record 60",
    "200 deviations at record 50, five records",
    "100 fleet deviations away from the first",
    "all constant, 7 h",
)


def test_what_an_entity_went_through_leaves_it_alert_and_no_louder() -> None:
    wanted = [case for case in cases() if case.name in OFTEN]
    found = measure(wanted, entities=2)

    assert len(found) == len(OFTEN)
    assert {case.name: told.faults for case, told in zip(wanted, found, strict=True)} == {case.name: (2,) * len(case.faults) for case in wanted}
    assert sum(told.false for told in found) <= 0.3 * sum(told.days for told in found)
