"""What must always hold, on the whole line from bytes to alerts (the numbers are those of the README's list)."""

import json
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from anomaly_daemon.channels.engine import Window
from anomaly_daemon.channels.models import Models, Observed
from anomaly_daemon.domain.records import Batch, Partition
from anomaly_daemon.state.checkpoint import digest
from tests.small import EVERY_CHANNEL, Outcome, P, is_sound, judge, processor, snapshot, stream

LENGTH = 160
cuts = st.lists(st.integers(1, LENGTH - 1), max_size=12)
shapes = st.fixed_dictionaries({"seed": st.integers(0, 5), "entities": st.integers(1, 9), "with_bad": st.booleans()})
few = settings(max_examples=15, deadline=None)
BUDGET = "threshold.alerts_per_day=60"


@few
@given(shapes, cuts)
def test_1_batch_cuts_change_no_bit_of_alerts_scores_or_state(shape: dict[str, int], found: list[int]) -> None:
    records = stream(length=LENGTH, **shape)

    assert judge(records, found, EVERY_CHANNEL) == judge(records, (), EVERY_CHANNEL)


@pytest.mark.parametrize("method", ["spot", "quantile", "static", "river:stats.RollingQuantile"])
def test_1_holds_for_every_threshold(method: str) -> None:
    parameters = (
        ["threshold.parameters={q: 0.95, window_size: 50}", "threshold.tail=0.05"]
        if method.startswith("river")
        else ["threshold.window=50", "threshold.tail=0.05", "threshold.level=0.6"]
    )
    records = stream(3, 4, LENGTH)

    whole = judge(records, (), f"threshold.method={method}", *parameters)
    cut = judge(records, range(1, LENGTH, 7), f"threshold.method={method}", *parameters)

    assert cut == whole


def test_1_holds_when_every_observation_is_a_batch_of_its_own_and_the_alerts_are_not_none() -> None:
    records = stream(1, 4, LENGTH)

    whole = judge(records)

    assert len(whole.alerts) > 0
    assert judge(records, range(LENGTH)) == whole


@pytest.mark.parametrize("policy", [("engine.decode_every=1", "engine.decode_steps=1"), ("engine.decode_every=4", "engine.decode_steps=8")])
def test_1_holds_for_other_decoding_policies(policy: tuple[str, ...]) -> None:
    records = stream(2, 5, LENGTH)

    assert judge(records, (1, 2, 50, 51, 99), *policy) == judge(records, (), *policy)


def test_1_holds_for_stacked_layers_and_an_entity_alone_in_its_batch() -> None:
    records = stream(2, 3, LENGTH)

    assert judge(records, (1, 2, 3, 40, 41, 90), "model.layers=2") == judge(records, (), "model.layers=2")


@few
@given(shapes, cuts, st.integers(1, LENGTH - 1))
def test_1_and_3_hold_where_entities_have_models_of_their_own(shape: dict[str, int], found: list[int], restart_at: int) -> None:
    """The small detector was trained on four pumps: those beyond are served by the fleet's model."""
    records = stream(length=LENGTH, **shape)

    whole = judge(records, (), "model.per=entity", EVERY_CHANNEL)

    assert judge(records, found, "model.per=entity", EVERY_CHANNEL, restart_at=restart_at) == whole


@pytest.mark.parametrize(
    "setting",
    [
        "model.network=shared",
        "model.scale=fleet",
        "model.tails=asinh",
        "evidence.level={spans: [5], reference_half_life: 20, spread_half_life: 20}",
        "evidence.channels=[level]",
        "evidence.channels=[residual]",
        "evidence.channels=[surprise]",
        "evidence.channels=[adaptive]",
        "evidence.calibration=trained",
        "evidence.half_life=30",
        "threshold.span=5",
        "threshold.reference_observations=30",
        "threshold.recovery=0.6",
        "threshold.warmup=silent",
        "threshold.warmup_observations=1000",
    ],
)
def test_1_and_3_hold_for_other_models_and_evidence(setting: str) -> None:
    records = stream(2, 7, LENGTH)

    whole = judge(records, (), "model.per=entity", setting)

    assert judge(records, (1, 2, 3, 40, 41, 90), "model.per=entity", setting, restart_at=77) == whole
    assert judge(records, range(LENGTH), "model.per=entity", setting) == whole


def test_an_override_touches_the_entities_that_match_and_no_other() -> None:
    records = stream(1, 4, LENGTH)
    calm = "evidence.channels=[prediction, reconstruction]"  # the charts find something in a healthy pump too
    as_it_is, deaf = judge(records, (), calm), judge(records, (), calm, "overrides=[{match: pump-2, threshold: {z: 50}}]")

    assert {alert.entity for alert in as_it_is.alerts} == {"pump-0", "pump-2"}
    assert {alert.entity for alert in deaf.alerts} == {"pump-0"}
    assert [alert.body["features"] for alert in deaf.alerts] == [alert.body["features"] for alert in as_it_is.alerts if alert.entity == "pump-0"]


@few
@given(shapes, cuts, st.integers(1, LENGTH - 1))
def test_3_a_restart_through_a_checkpoint_changes_no_bit(shape: dict[str, int], found: list[int], restart_at: int) -> None:
    records = stream(length=LENGTH, **shape)

    assert judge(records, found, EVERY_CHANNEL, restart_at=restart_at) == judge(records, (), EVERY_CHANNEL)


@few
@given(st.integers(0, 5), st.integers(1, 3), st.sampled_from(["hold", "accept", "ask"]), cuts, st.integers(1, LENGTH - 1))
def test_1_and_3_hold_where_a_change_lasts(seed: int, entities: int, policy: str, found: list[int], restart_at: int) -> None:
    records = stream(seed, entities, LENGTH)
    regime = f"regime={{policy: {policy}, after: 8m}}"

    assert judge(records, found, EVERY_CHANNEL, regime, restart_at=restart_at) == judge(records, (), EVERY_CHANNEL, regime)


@pytest.mark.parametrize(
    "setting", ["model.per=entity", "evidence.residual={reference_half_life: 20, spread_half_life: 20}", "threshold.method=quantile"]
)
@pytest.mark.parametrize("policy", ["hold", "accept"])
def test_1_and_3_hold_where_a_change_lasts_whatever_the_models_and_thresholds(setting: str, policy: str) -> None:
    records = stream(2, 3, LENGTH)
    regime = f"regime={{policy: {policy}, after: 8m}}"

    whole = judge(records, (), setting, regime)

    assert any(alert.body["kind"] == "regime_change" for alert in whole.alerts)
    assert judge(records, range(LENGTH), setting, regime) == whole
    assert judge(records, (1, 2, 3, 40, 41, 90, 130, 131), setting, regime, restart_at=140) == whole


@few
@given(shapes, cuts)
def test_spilling_changes_no_bit(shape: dict[str, int], found: list[int]) -> None:
    records = stream(length=LENGTH, **shape)

    assert judge(records, found, EVERY_CHANNEL, "engine.resident_max=2") == judge(records, (), EVERY_CHANNEL)


@few
@given(shapes, cuts)
def test_forgetting_the_least_recently_seen_depends_on_the_log_alone(shape: dict[str, int], found: list[int]) -> None:
    records = stream(length=LENGTH, **shape)

    assert judge(records, found, "engine.entities_max=3") == judge(records, (), "engine.entities_max=3")


@few
@given(shapes, cuts)
def test_an_entitys_time_to_live_depends_on_the_log_alone(shape: dict[str, int], found: list[int]) -> None:
    records = stream(length=LENGTH, **shape)

    assert judge(records, found, "engine.entity_ttl=15m") == judge(records, (), "engine.entity_ttl=15m")


@few
@given(st.integers(0, 5), cuts)
def test_partitions_do_not_see_each_other(seed: int, found: list[int]) -> None:
    other = Partition("readings", 1)
    left, right = stream(seed, 3, LENGTH), stream(seed + 10, 3, LENGTH, partition=other)
    mixed = [record for pair in zip(left, right, strict=True) for record in pair]

    both, alone = judge(mixed, found), judge(left)

    assert both.state[P] == alone.state[P]
    assert tuple(alert for alert in both.alerts if alert.partition == P) == alone.alerts


@few
@given(shapes, cuts, st.integers(1, LENGTH - 1))
def test_1_and_3_hold_where_z_follows_alerts_per_day(shape: dict[str, int], found: list[int], restart_at: int) -> None:
    records = stream(length=LENGTH, **shape)

    whole = judge(records, (), EVERY_CHANNEL, BUDGET)

    assert judge(records, found, EVERY_CHANNEL, BUDGET, restart_at=restart_at) == whole


def test_alerts_per_day_move_z_and_touch_nothing_that_is_learned() -> None:
    records = stream(1, 4, LENGTH)
    fixed, asked = judge(records, (), EVERY_CHANNEL), judge(records, range(LENGTH), EVERY_CHANNEL, BUDGET)

    assert asked.scores["threshold"] != fixed.scores["threshold"]
    assert {name: asked.scores[name] for name in ("anomaly_score", "tail_probability", "phase")} == {
        name: fixed.scores[name] for name in ("anomaly_score", "tail_probability", "phase")
    }


@few
@given(st.integers(0, 5), cuts)
def test_partitions_do_not_see_each_others_budgets(seed: int, found: list[int]) -> None:
    other = Partition("readings", 1)
    left, right = stream(seed, 3, LENGTH), stream(seed + 10, 3, LENGTH, partition=other)
    mixed = [record for pair in zip(left, right, strict=True) for record in pair]

    both, alone = judge(mixed, found, BUDGET), judge(left, (), BUDGET)

    assert both.state[P] == alone.state[P]
    assert tuple(alert for alert in both.alerts if alert.partition == P) == alone.alerts


def test_an_overrides_z_moves_by_the_same_factor() -> None:
    records = stream(1, 4, LENGTH)

    by_override = judge(records, (), BUDGET, "threshold.z=2", "overrides=[{match: '*', threshold: {z: 4}}]")

    assert by_override.scores == judge(records, (), BUDGET, "threshold.z=4").scores
    assert by_override.scores["threshold"] != judge(records, (), "threshold.z=4").scores["threshold"]


@few
@given(shapes)
def test_4_every_record_is_scored_or_rejected(shape: dict[str, int]) -> None:
    records = stream(length=LENGTH, **shape)
    built, _ = processor()
    built.begin(P)

    output = built.process(Batch(records), {})
    built.close()

    assert output.scored is not None
    scored = [record.offset for record in output.scored.observations.records]
    rejected = [rejection.record.offset for rejection in output.scored.rejections]
    assert sorted(scored + rejected) == [record.offset for record in records]
    assert output.next_offsets == {P: LENGTH}


@few
@given(st.lists(st.sampled_from([1e300, -1e300, 3.4e38, 1e-310, 0.0, None]), min_size=20, max_size=40))
def test_5_nothing_non_finite_enters_state(values: list[float | None]) -> None:
    records = stream(0, 1, len(values))
    wild = []
    for record, value in zip(records, values, strict=True):
        assert record.value is not None
        body = json.loads(record.value) | {"pressure": value}
        wild.append(type(record)(record.partition, record.offset, 0, record.key, json.dumps(body).encode()))
    built, fingerprint = processor(EVERY_CHANNEL)
    built.begin(P)
    built.process(Batch(wild), {})

    columns = built.snapshot(P, len(wild), fingerprint).columns
    built.close()
    for name, column in columns.items():
        assert is_sound(name, column), name


def test_records_before_the_committed_offset_advance_the_state_and_nothing_else() -> None:
    records = stream(1, 4, LENGTH, with_bad=True)
    built, _ = processor()
    built.begin(P)

    output = built.process(Batch(records), {P: LENGTH})
    built.close()

    assert (output.messages, output.next_offsets) == ((), {})


def test_incidents_that_were_told_before_are_not_explained_again_but_count_towards_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    records = stream(1, 4, LENGTH)
    whole = judge(records, (), BUDGET)
    explained: list[int] = []

    def looked_again(
        models: Models, observed: Observed, rows: NDArray[np.int64], points: int, weights: Mapping[str, NDArray[np.float64]]
    ) -> list[Window]:
        explained.extend(rows.tolist())
        return explain(models, observed, rows, points, weights)

    explain = Models.explain
    monkeypatch.setattr(Models, "explain", looked_again)
    built, fingerprint = processor(BUDGET)
    built.begin(P)

    output = built.process(Batch(records), {P: whole.alerts[-1].offset})
    state = digest(snapshot(built, P, 0, fingerprint))
    built.close()

    assert len(whole.alerts) > len(explained) == len(output.alerts) > 0
    assert {P: state} == whole.state


def test_alerts_emitted_from_the_middle_are_those_of_the_whole_run() -> None:
    records = stream(1, 4, LENGTH)
    middle = judge(records).alerts[1].offset
    built, _ = processor()
    built.begin(P)

    output = built.process(Batch(records), {P: middle})
    built.close()

    assert output.alerts == judge(records).alerts[1:]


def test_the_outcome_of_a_stream_is_worth_comparing() -> None:
    outcome: Outcome = judge(stream(1, 4, LENGTH, with_bad=True))

    assert outcome.rejected
    assert {alert.transition.value for alert in outcome.alerts} >= {"opened"}
