"""A lasting change on simulated sensors: one incident, then normal again where it is accepted, alarms as before where it is held."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest

from anomaly_daemon.domain.errors import SettingsError
from anomaly_daemon.domain.records import Alert, Batch, Record
from tests.small import EVERY_CHANNEL, NAMES, Outcome, P, judge, processor, settings, signal

STEPS, SHIFT_AT = 420, 150
CALM = ("threshold.z=4", "threshold.suspect_z=4")


@cache
def shifted(until: int = STEPS, amount: float = 6.0) -> list[Record]:
    """Three pumps, a record each a minute; pressure of pump-0 moves after 150 of them."""
    generator = np.random.default_rng(3)
    signals = [signal(generator, STEPS, entity) for entity in range(3)]
    records = list[Record]()
    for step in range(STEPS):
        for entity, values in enumerate(signals):
            body = dict(zip(NAMES, values[step].round(5).tolist(), strict=True)) | {"time": 1_700_000_000 + 60 * step}
            body["pressure"] += amount * (entity == 0 and SHIFT_AT <= step < until)
            records.append(Record(P, len(records), 0, b"pump-%d" % entity, json.dumps(body).encode()))
    return records


def told(outcome: Outcome) -> list[tuple[int, str, str]]:
    """Step, transition and kind of the alerts of pump-0 that open or close an incident, or tell of a change."""
    of_pump = [alert for alert in outcome.alerts if alert.entity == "pump-0"]
    return [
        (alert.offset // 3, alert.transition.value, alert.body["kind"])
        for alert in of_pump
        if alert.transition.value != "updated" or alert.body["kind"] == "regime_change"
    ]


def changes(alerts: tuple[Alert, ...]) -> list[Alert]:
    return [alert for alert in alerts if alert.body["kind"] == "regime_change"]


def is_anomalous(outcome: Outcome) -> np.ndarray:
    """Of pump-0, by step."""
    return np.frombuffer(outcome.scores["is_anomaly"], np.bool_)[::3]


@pytest.mark.parametrize(
    "judged_by",
    [
        (),
        ("model.scale=fleet",),
        ("model.scale=fleet", "evidence.calibration=trained"),
        ("model.scale=fleet", "evidence.channels=[level]"),
        ("threshold.method=static", "threshold.level=0.75"),
    ],
)
def test_accepted_change_is_one_incident_and_then_normal_again(judged_by: tuple[str, ...]) -> None:
    outcome = judge(shifted(), (), "regime={policy: accept, after: 30m}", *CALM, *judged_by)

    decided = told(outcome)[1][0]
    assert told(outcome)[1:4] == [
        (decided, "opened", "regime_change"),
        (decided, "closed", "level_shift"),
        (decided + 12 + 3, "closed", "regime_change"),
    ]
    assert 30 <= decided - SHIFT_AT <= 33
    assert not is_anomalous(outcome)[decided + 1 :].any()


def test_held_change_is_one_incident_and_keeps_alarming() -> None:
    outcome = judge(shifted(), (), "regime={policy: hold, after: 1h}", *CALM)

    assert [(transition, kind) for _, transition, kind in told(outcome)] == [("opened", "point"), ("opened", "regime_change")]
    assert is_anomalous(outcome)[SHIFT_AT + 2 :].all()


@pytest.mark.parametrize(
    ("until", "judged_by", "said"),
    [
        (STEPS, ("threshold.half_life=60",), "no longer beyond the threshold, which was"),
        (SHIFT_AT + 20, (), "normal again after"),
        (SHIFT_AT + 20, ("threshold.method=static", "threshold.level=0.75"), "no longer beyond the threshold after"),
        (SHIFT_AT + 20, ("threshold.method=static", "threshold.level=0.75", "evidence.calibration=trained"), "normal again after"),
    ],
)
def test_a_shift_that_was_learned_does_not_close_as_normal_again(until: int, judged_by: tuple[str, ...], said: str) -> None:
    outcome = judge(shifted(until=until), (), "regime={after: null}", *CALM, *judged_by)

    ended = next(one for one in outcome.alerts if one.entity == "pump-0" and one.body["status"] == "resolved")
    assert ended.body["explanation"]["message"].startswith(f"pump-0: {said}")


def test_held_change_keeps_alarming_where_it_would_soon_have_learned() -> None:
    fast = ("evidence.calibration=trained", "threshold.half_life=60")

    held = judge(shifted(), (), "regime={policy: hold, after: 30m}", *CALM, *fast)
    learned = judge(shifted(), (), "regime={after: null}", *CALM, *fast)

    assert is_anomalous(held)[-100:].all()
    assert not is_anomalous(learned)[-100:].any()


@pytest.mark.parametrize(("half_life", "recovery", "over"), [(20, 3, "no longer beyond the threshold"), (1440, 20, "as before the change")])
def test_held_change_is_over_when_the_entity_is_as_before_and_then_it_learns_again(half_life: int, recovery: int, over: str) -> None:
    windows = f"incidents.recovery={{count: {recovery}, of: {recovery}}}"
    outcome = judge(shifted(until=300), (), "regime={policy: hold, after: 1h}", *CALM, windows, f"threshold.half_life={half_life}")

    assert [(transition, kind) for _, transition, kind in told(outcome)[:4]] == [
        ("opened", "point"),
        ("opened", "regime_change"),
        ("closed", "level_shift"),
        ("closed", "regime_change"),
    ]
    assert told(outcome)[2][0] == told(outcome)[3][0]
    assert (told(outcome)[2][0] > 300) == (over == "as before the change")
    assert changes(outcome.alerts)[-1].body["explanation"]["message"].endswith(f"is over: {over}.")


def test_fault_that_ends_before_it_counts_as_a_change_is_none() -> None:
    outcome = judge(shifted(until=SHIFT_AT + 20), (), "regime={policy: accept, after: 1h}", *CALM)

    assert not changes(outcome.alerts)


def test_without_a_duration_no_change_is_looked_for() -> None:
    assert not changes(judge(shifted(), (), "regime={after: null}", *CALM).alerts)


def test_an_override_decides_for_the_entities_that_match() -> None:
    hold, accept = (f"regime={{policy: {policy}, after: 1h}}" for policy in ("hold", "accept"))
    override = "overrides=[{match: pump-0, regime: {policy: accept}}]"

    overridden, accepted = judge(shifted(), (), hold, override, *CALM), judge(shifted(), (), accept, *CALM)

    assert told(overridden) == told(accepted)
    assert overridden.scores == accepted.scores


def test_ask_holds_until_the_override_arrives_and_then_does_as_it_says() -> None:
    ask = ("regime={policy: ask, after: 1h}", *CALM)
    answers = {answer: f"overrides=[{{match: pump-0, regime: {{policy: {answer}}}}}]" for answer in ("accept", "hold")}
    found = {answer: _answered(ask, override, 3 * 300) for answer, override in answers.items()}

    question = changes(found["accept"])[0].body["explanation"]["reasons"][0]
    assert "an override for this entity with `regime: {policy: accept}`" in question
    assert [(one.transition.value, one.offset // 3) for one in changes(found["accept"])] == [
        ("opened", changes(found["hold"])[0].offset // 3),
        ("updated", 300),
        ("closed", 300 + 12 + 3),
    ]
    assert len({alert.incident_id for alert in changes(found["accept"])}) == 1
    assert [one.transition.value for one in changes(found["hold"])] == ["opened"]


def _answered(asked: tuple[str, ...], answer: str, at: int) -> tuple[Alert, ...]:
    """The alerts of pump-0 where a reload brings the answer before the record at this offset."""
    from anomaly_daemon import wiring

    built, _ = processor(*asked)
    built.begin(P)
    alerts = built.process(Batch(shifted()[:at]), {}).alerts
    built.govern(P, wiring.build_rules(settings(*asked, answer)))
    alerts += built.process(Batch(shifted()[at:]), {}).alerts
    built.close()
    return tuple(alert for alert in alerts if alert.entity == "pump-0")


def test_where_many_change_at_once_each_is_judged_as_if_alone() -> None:
    """A change that is decided on within a batch does not touch the records of others, nor their order."""
    rows = [json.loads(record.value or b"") | {"offset": record.offset} for record in shifted()]
    for row in rows:
        row["pressure"] += 6.0 * (row["offset"] % 3 > 0 and row["offset"] // 3 >= SHIFT_AT)
    records = [Record(P, row.pop("offset"), 0, record.key, json.dumps(row).encode()) for row, record in zip(rows, shifted(), strict=True)]
    accept = ("regime={policy: accept, after: 1h}", *CALM, EVERY_CHANNEL)

    whole = judge(records, (), *accept)

    assert len({alert.entity for alert in changes(whole.alerts)}) == 3
    assert [alert.offset for alert in whole.alerts] == sorted(alert.offset for alert in whole.alerts)
    assert judge(records, range(0, len(records), 50), *accept) == whole


def test_with_a_method_of_river_a_change_is_announced_and_held_without_an_effect() -> None:
    outcome = judge(shifted(), (), "regime={policy: hold, after: 30m}", "threshold.method=river:anomaly.GaussianScorer", "threshold.level=0.999")

    assert len({alert.incident_id for alert in changes(outcome.alerts)}) == 1
    assert (
        judge(
            shifted(),
            (1, 2, 500, 640, 641),
            "regime={policy: hold, after: 30m}",
            "threshold.method=river:anomaly.GaussianScorer",
            "threshold.level=0.999",
        )
        == outcome
    )


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("threshold.method=static", "evidence.calibration=trained", "regime={policy: accept}"), "regime.policy: accept: with a static threshold"),
        (("threshold.method=river:stats.Max", "regime={policy: accept}"), "keeps no state that a record can begin anew"),
        (
            ("threshold.method=static", "evidence.calibration=trained", "overrides=[{match: pump-7, regime: {policy: accept}}]"),
            "override 'pump-7': regime.policy: accept",
        ),
        (("overrides=[{match: a, regime: {polcy: accept}}]",), "did you mean `policy`?"),
        (("regime={share: 0}",), "regime.share"),
        (("regime={policy: accept, after: null}",), "regime.policy: accept: without effect, because regime.after is null"),
        (("regime={after: null}", "overrides=[{match: a, regime: {policy: ask}}]"), "override 'a': regime.after is null"),
        (("regime={policy: ask, after: null}",), "give it a time, such as 1d, or set policy: hold"),
    ],
)
def test_what_cannot_be_accepted_is_refused_with_a_remedy(given: tuple[str, ...], told: str) -> None:
    with pytest.raises(SettingsError) as refused:
        settings(*given)

    assert told in str(refused.value)


@pytest.mark.parametrize(("common", "own"), [("null", "1h"), ("1h", "null")])
def test_a_common_policy_may_be_for_those_alone_whose_changes_are_looked_for(common: str, own: str) -> None:
    loaded = settings(f"regime={{policy: accept, after: {common}}}", f"overrides=[{{match: a, regime: {{after: {own}}}}}]")

    assert loaded.regime.overridden(loaded.overrides[0].regime).policy == "accept"
