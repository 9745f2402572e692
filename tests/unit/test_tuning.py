from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from anomaly_daemon import wiring
from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.domain.records import Partition
from anomaly_daemon.evaluation.scores import NO_TIME
from anomaly_daemon.evaluation.tuning.choice import Choice, settings_under
from anomaly_daemon.evaluation.tuning.patch import patch
from anomaly_daemon.evaluation.tuning.request import parse_budget
from anomaly_daemon.evaluation.tuning.rows import KeptRows
from anomaly_daemon.evaluation.tuning.solve import Range, Trial, solve
from anomaly_daemon.evaluation.tuning.targets import BudgetTarget
from anomaly_daemon.settings import Settings, Window
from anomaly_daemon.settings.sources import _merge, _parse_yaml

MINUTE_US = 60_000_000


def rows_of(values: np.ndarray, floor: float = 0.0) -> KeptRows:
    """Every entity, [entities, records], once a minute; all rows kept."""
    entities, records = values.shape
    stream = np.repeat(np.arange(entities, dtype=np.int32), records)
    turn = np.tile(np.arange(records), entities)
    return KeptRows(
        stream=stream,
        value=values.ravel().astype(np.float64),
        offset=turn * entities + stream,
        time_us=turn * MINUTE_US,
        ordinal=turn + 1,
        row=turn.astype(np.int32),
        unseen_us=np.full(values.size, NO_TIME),
        bounds=np.arange(entities + 1) * records,
        records=np.full(entities, records),
        partitions=[Partition("readings", 0)] * entities,
        entities=[f"pump-{number}" for number in range(entities)],
        floor=floor,
        first_us=0,
        last_us=(records - 1) * MINUTE_US,
        judged=values.size,
    )


def settings(**sections: Any) -> Settings:
    return Settings.model_validate({"incidents": {"trigger": {"count": 1, "of": 1}, "recovery": {"count": 2, "of": 2}}, **sections})


def trial_of(values: np.ndarray, wanted: Settings) -> tuple[Trial, Choice]:
    return Trial(Range.of(rows_of(values), 0.6), wanted, "z", wiring.build_rules), Choice.present(wanted, "z")


def spikes(heights: dict[int, float], records: int = 1000) -> np.ndarray:
    values = np.full((4, records), 0.5)
    for place, height in heights.items():
        values[place % 4, place] = height
    return values


def test_the_loudest_sensitivity_within_the_budget_is_taken_from_the_earlier_part_alone() -> None:
    values = spikes({100: 9.0, 205: 8.0, 301: 7.0, 407: 6.0, 700: 5.5, 801: 5.4, 902: 5.3})

    trial, present = trial_of(values, settings(threshold={"z": 3}))
    chosen = solve(trial, BudgetTarget(allowed=4), present)
    assert chosen == present  # four incidents already, and the later part is not looked at

    trial, present = trial_of(spikes({100 + 7 * number: 3.5 + number / 4 for number in range(20)}), settings(threshold={"z": 3}))
    chosen = solve(trial, BudgetTarget(allowed=10), present)
    assert len(trial.early(chosen) or ()) == 10
    assert chosen == replace(present, sensitivity=chosen.sensitivity)


def test_an_entity_far_louder_than_the_rest_in_both_parts_gets_a_sensitivity_of_its_own() -> None:
    values = spikes({50 + 41 * number: 5.0 + (number % 4) / 100 for number in range(20)})
    values[0, 10::10] = 8.0
    trial, present = trial_of(values, settings(threshold={"z": 4}))

    chosen = solve(trial, BudgetTarget(allowed=12), present)

    assert [entity for entity, _ in chosen.raised] == ["pump-0"]
    assert chosen.raised[0][1] >= 8.0 > chosen.sensitivity
    found = trial.early(chosen)
    assert found is not None
    assert 0 < len(found) <= 12
    assert all(trial.span.rows.entities[one.stream] != "pump-0" for one in found)


def test_an_entity_that_is_loud_in_the_earlier_part_alone_gets_none() -> None:
    values = spikes({50 + 41 * number: 5.0 + (number % 4) / 100 for number in range(20)})
    values[0, 10:600:10] = 8.0
    trial, present = trial_of(values, settings(threshold={"z": 4}))

    assert solve(trial, BudgetTarget(allowed=12), present).raised == ()


def test_an_override_for_one_entity_stands_before_the_one_that_fitted_it_and_keeps_its_other_keys() -> None:
    own = [{"match": "card-*", "threshold": {"z": 9}}, {"match": "pump-*", "threshold": {"z": 3}, "incidents": {"cooldown": "1h"}}]
    before = settings(overrides=own)

    after = settings_under(before, replace(Choice.present(before, "z"), raised=(("pump-[1]", 7.5), ("valve", 6.0))), "z")

    assert [one.match for one in after.overrides] == ["card-*", "pump-[[]1]", "pump-*", "valve"]
    assert after.overrides[1].threshold == {"z": 7.5}
    assert after.overrides[1].incidents == {"cooldown": "1h"}
    rules = wiring.build_rules(after)
    assert [float(rules.parameters["z"][rules.profiles.index(entity)]) for entity in ("pump-[1]", "pump-1", "valve", "card-7")] == [
        7.5,
        3.0,
        6.0,
        9.0,
    ]


def test_a_patch_merged_over_the_file_gives_the_settings_chosen_and_holds_no_other_line() -> None:
    before = settings(overrides=[{"match": "pump-*", "threshold": {"z": 3.0}}], threshold={"z": 4})
    wanted = Choice(5.25, Window(count=2, of=3), before.incidents.recovery, 5400.0, (('a"\n# b: é', 7.5),))
    after = settings_under(before, wanted, "z")

    text = patch(before, after, {}, ["made by a test"])

    none = patch(after, before, {}, [])
    assert Settings.model_validate(_merge(after.model_dump(mode="json"), _parse_yaml(none))) == before
    merged = _merge(before.model_dump(mode="json"), _parse_yaml(text))
    assert Settings.model_validate(merged) == after
    assert set(_parse_yaml(text)) == {"threshold", "incidents", "overrides"}
    assert set(_parse_yaml(text)["incidents"]) == {"trigger", "cooldown"}


@pytest.mark.parametrize(
    ("text", "per_day", "is_per_entity"),
    [("5/day", 5.0, False), ("14/week", 2.0, False), ("0.5 / hour", 12.0, False), ("0.1/day per entity", 0.1, True)],
)
def test_a_budget_is_a_number_per_time(text: str, per_day: float, is_per_entity: bool) -> None:
    budget = parse_budget(text)

    assert budget.incidents_per_day == pytest.approx(per_day)
    assert budget.is_per_entity is is_per_entity


@pytest.mark.parametrize("text", ["", "5", "five/day", "5/month", "0/day", "-1/day", "nan/day", "inf/day", "5/day per pump"])
def test_anything_else_is_no_budget(text: str) -> None:
    with pytest.raises(InputError, match=r"write 5/day|above 0"):
        parse_budget(text)
