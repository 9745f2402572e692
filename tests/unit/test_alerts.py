from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomaly_daemon.domain.records import Alert, ChannelShare, FeatureReading, Message, Phase, WindowPoint
from anomaly_daemon.incidents.alerts import Explanation, alert_message, build_alert, confidence, fingerprint, rfc3339
from anomaly_daemon.incidents.incident import Kind, Turn
from anomaly_daemon.settings.evidence import ChannelName
from tests.alert_cases import CONTEXT, EXPLANATION, READINGS, START_US, alert, closed, judged, opened, schema, updated, validate

NOW_US = 1_767_225_600_000_001


def reading(feature: str, actual: float | None = 1.0, expected: float | None = 1.0, contribution: float = 1.0) -> FeatureReading:
    return FeatureReading(feature, actual, expected, None, None, contribution, actual is None)


def explained(*readings: FeatureReading) -> Alert:
    context = replace(CONTEXT, feature_names=tuple(one.feature for one in readings))
    return alert(opened(), Explanation(readings, ()), context)


def message_of(turn: Turn) -> str:
    return str(alert(turn).body["explanation"]["message"])


def test_schema_is_a_valid_draft_2020_12_schema_that_names_every_field_as_required() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())

    def objects(node: object) -> list[dict[str, object]]:
        inner = [one for child in (node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()) for one in objects(child)]
        return [node, *inner] if isinstance(node, dict) and node.get("type") in ("object", ["object", "null"]) else inner

    for part in objects(schema()):
        assert part["additionalProperties"] is False
        assert part["required"] == list(part["properties"])


def test_body_lists_the_fields_in_the_order_of_the_schema() -> None:
    assert list(alert(opened()).body) == list(schema()["properties"])


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("anomaly_score", None),
        ("anomaly_score", 1.5),
        ("starts_at", "2024-13-01T00:00:00Z"),
        ("starts_at", "2024-01-01T00:00:00+01:00"),
        ("incident_id", "not hexadecimal"),
        ("severity", "fatal"),
        ("surplus", 1),
    ],
)
def test_schema_refuses_what_is_not_an_alert(field: str, wrong: object) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate({**alert(opened()).body, field: wrong})


@pytest.mark.parametrize(("turn", "status", "ends_at"), [(opened(), "firing", None), (closed(), "resolved", "2024-01-01T00:05:10.250Z")])
def test_status_and_end_follow_the_transition(turn: Turn, status: str, ends_at: str | None) -> None:
    body = alert(turn).body

    assert (body["status"], body["ends_at"]) == (status, ends_at)


def test_alert_belongs_to_the_record_that_caused_the_turn() -> None:
    one = alert(closed())

    assert (one.partition, one.offset, one.entity, one.time) == (READINGS, 1362, "pump-7", "2024-01-01T00:05:20.250Z")
    assert one.body["data_start_time"] == "2024-01-01T00:05:00.250Z"
    assert one.body["data_end_time"] == one.time
    assert one.body["source_records"] == {"topic": "readings", "partition": 3, "first_offset": 1042, "last_offset": 1342}
    assert (one.body["anomaly_score"], one.body["peak"]["anomaly_score"]) == (0.2, 0.8312345678901234)


def test_sentence_of_an_opening_names_the_leading_feature_its_band_and_the_score() -> None:
    assert message_of(opened()) == (
        "pump-7: pressure 4.2 where 3.1 was expected (2.8 to 3.4), the largest of 2 unusual features; level shift since 00:00 UTC; "
        "score 0.8312 against a threshold of 0.61."
    )


def test_sentence_of_an_update_says_that_it_goes_on() -> None:
    assert message_of(updated()).startswith("pump-7, still anomalous after 304 observations: pressure 4.2 where 3.1 was expected")


def test_sentence_of_a_close_sums_the_incident_up() -> None:
    said = "pump-7: normal again after 255 anomalous of 324 observations; the peak score was 0.8312 at 2024-01-01T00:00:00.250Z."

    assert message_of(closed()) == said


def test_a_feature_without_a_number_is_told_as_another_value_than_expected_not_as_missing() -> None:
    body = explained(FeatureReading("merchant", None, None, None, None, 1.0, False)).body

    assert body["explanation"]["message"].startswith("pump-7: merchant another value than expected; score")
    assert body["explanation"]["reasons"][0] == "merchant: another value than expected; 100% of the evidence"


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (reading("flow", actual=None, expected=12.34567), "pump-7: flow missing where 12.35 was expected; score"),
        (reading("flow", actual=1234567.0, expected=None), "pump-7: flow 1.235e+06; score"),
        (FeatureReading("flow", 1.0, 2.0, None, 3.0, 1.0, False), "pump-7: flow 1 where 2 was expected; score"),
    ],
)
def test_sentence_tells_what_is_missing_and_rounds_to_four_digits(one: FeatureReading, said: str) -> None:
    assert str(explained(one).body["explanation"]["message"]).startswith(said)


def test_reasons_lead_with_the_features_that_carry_the_evidence() -> None:
    turn = opened(suppressed=2, suppression_rule="cooldown 10m")

    reasons = alert(turn, phase=Phase.WARMUP).body["explanation"]["reasons"]

    assert reasons == [
        "pressure 1.1 above expected, level shift since 00:00 UTC",
        "pressure: 4.2 where 3.1 was expected (2.8 to 3.4); 70% of the evidence",
        "flow: 10 where 12.5 was expected (11 to 14); 20% of the evidence",
        "temperature: 60 where 60.5 was expected (58 to 63); 10% of the evidence",
        "evidence by channel: level 75%, prediction 21%",
        "a normal record scores this high with probability 0.0004",
        "warming up: this entity's own statistics are not calibrated yet",
        "triggers held back during the cooldown before: 2",
    ]


@pytest.mark.parametrize(
    ("channel", "kind", "said"),
    [
        ("level", "point", "level shift since 00:00 UTC"),
        ("linear", "collective", "drifting from its own averages since 00:00 UTC"),
        ("residual", "level_shift", "level shift since 00:00 UTC"),
        ("prediction", "level_shift", "not as foreseen since 00:00 UTC"),
        ("one of tomorrow", "point", "one of tomorrow since 00:00 UTC"),
    ],
)
def test_first_reason_is_in_the_words_of_the_leading_channel(channel: str, kind: Kind, said: str) -> None:
    led = replace(EXPLANATION, channels=(ChannelShare(channel, 0.6), ChannelShare("other", 0.4)))

    assert alert(updated(kind=kind), led).body["explanation"]["reasons"][0] == f"pressure 1.1 above expected, {said}"


@pytest.mark.parametrize("channel", get_args(ChannelName))
def test_every_channel_has_words_of_its_own(channel: str) -> None:
    led = replace(EXPLANATION, channels=(ChannelShare(channel, 1.0),))

    reason = alert(updated(), led).body["explanation"]["reasons"][0]

    assert reason.endswith(" since 00:00 UTC")
    assert f"{channel} since" not in reason


def test_words_name_the_day_where_an_incident_began_on_another() -> None:
    late = updated(at=judged(86_400))

    assert alert(late).body["explanation"]["reasons"][0].endswith("level shift since 2024-01-01 00:00 UTC")


def test_regime_change_is_an_event_of_its_own_type_grouped_apart_and_says_what_comes_of_it() -> None:
    told = alert(updated(kind="regime_change", remark="has lasted for 1d and more; held"))

    assert headers_of(alert_message(told, "alerts", None))["ce_type"] == "anomaly_daemon.regime_change.updated.v1"
    assert told.body["fingerprint"] != alert(updated()).body["fingerprint"]
    assert told.body["explanation"]["message"] == "pump-7: the change since 2024-01-01T00:00:00.250Z has lasted for 1d and more; held."
    over = alert(closed(kind="regime_change", remark="over: as before the change"))
    assert over.body["explanation"]["message"] == "pump-7: the change since 2024-01-01T00:00:00.250Z is over: as before the change."


def test_close_for_another_reason_than_recovery_says_so() -> None:
    told = alert(closed(remark="has lasted for 1d and more and is accepted as the new normal")).body["explanation"]

    assert told["message"].startswith("pump-7: the incident has lasted for 1d and more and is accepted as the new normal after 255 anomalous of 324")
    assert told["reasons"][0] == "has lasted for 1d and more and is accepted as the new normal"


def test_close_says_what_it_was_how_long_it_lasted_and_why_it_is_over_and_nothing_out_of_its_own_normal_record() -> None:
    assert alert(closed()).body["explanation"]["reasons"] == [
        "collective anomaly of severity high: 255 anomalous of 324 observations, for 5 min 10 s from 2024-01-01T00:00:00.250Z",
        "closed because 10 of the last 10 observations are normal (incidents.recovery)",
    ]


@pytest.mark.parametrize(
    ("score", "threshold", "tells_return", "said"),
    [
        (0.2, 0.61, True, "normal again after"),
        (0.61, 0.8, True, "normal again after"),
        (0.7, 0.9, True, "normal again after"),  # nearer to .61 than to .8312
        (0.75, 0.9, True, "no longer beyond the threshold, which was 0.61 when it opened and is 0.9 now, after"),
        (1.0, 1.0, True, "no longer beyond the threshold, which was 0.61 when it opened and is 1 now, after"),
        (0.2, 0.61, False, "no longer beyond the threshold after"),
    ],
)
def test_close_says_normal_again_only_where_the_entity_came_back_rather_than_being_learned(
    score: float, threshold: float, tells_return: bool, said: str
) -> None:
    turn = closed(at=judged(320, is_anomaly=False, anomaly_score=score, threshold=threshold))

    assert alert(turn, context=replace(CONTEXT, tells_return=tells_return)).body["explanation"]["message"].startswith(f"pump-7: {said} 255 anomalous")


def test_reasons_are_few_however_many_features_there_are() -> None:
    readings = [reading(f"f{position}", contribution=0.0625) for position in range(16)]

    assert len(explained(*readings).body["explanation"]["reasons"]) == 6


def test_features_stand_in_the_order_of_the_window_values_whatever_order_they_came_in() -> None:
    shuffled = replace(EXPLANATION, readings=EXPLANATION.readings[::-1])

    assert alert(opened(), shuffled).body == alert(opened()).body


@pytest.mark.parametrize(
    ("actual", "expected", "direction"), [(2.0, 1.0, "above"), (0.5, 1.0, "below"), (1.0, 1.0, "mixed"), (None, 1.0, "mixed"), (1.0, None, "mixed")]
)
def test_direction_is_that_of_the_leading_feature(actual: float | None, expected: float | None, direction: str) -> None:
    one = explained(reading("minor", 0.0, 5.0, contribution=0.1), reading("leading", actual, expected, contribution=0.9))

    assert one.body["direction"] == direction


@pytest.mark.parametrize(
    ("probability", "phase", "expected"),
    [(1.0, Phase.LIVE, 0.0), (0.01, Phase.LIVE, 0.5), (0.0001, Phase.LIVE, 1.0), (1e-9, Phase.LIVE, 1.0), (0.01, Phase.WARMUP, 0.25)],
)
def test_confidence_is_the_share_of_the_decades_that_calibration_resolves(probability: float, phase: Phase, expected: float) -> None:
    assert math.isclose(confidence(probability, phase), expected)


@pytest.mark.parametrize(
    ("method", "source"),
    [("ewma", "online"), ("static", "settings"), ("river:anomaly.GaussianScorer", "settings"), ("river:stats.RollingQuantile", "online")],
)
def test_threshold_says_whether_it_was_learned_or_set(method: str, source: str) -> None:
    threshold = alert(opened(), context=replace(CONTEXT, threshold_method=method)).body["threshold"]

    assert threshold == {"value": 0.61, "method": method, "scope": "entity", "source": source, "version": "0123456789abcdef"}


def test_fingerprint_stays_the_same_while_an_incident_grows_and_in_the_next_one() -> None:
    same = {alert(turn).body["fingerprint"] for turn in (opened(), updated(), closed(), opened(incident_id="0" * 16))}

    assert same == {fingerprint("plant", "pump-7")}
    assert len({fingerprint("plant", "pump-7"), fingerprint("plant", "pump-8"), fingerprint("other", "pump-7")}) == 3


@pytest.mark.parametrize(
    ("time_us", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (START_US, "2024-01-01T00:00:00.250Z"),
        (START_US + 1, "2024-01-01T00:00:00.250001Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (253402300799999999, "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_times_are_rfc_3339_in_utc_to_the_microsecond(time_us: int, text: str) -> None:
    assert rfc3339(time_us) == text


NUMBERS = st.none() | st.floats()


Row = tuple[float | None, float | None, float | None, float | None]


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=4), st.sampled_from([opened, updated, closed]), st.floats())
def test_every_alert_is_valid_whatever_its_numbers_and_none_is_nan(rows: list[Row], make_turn: Callable[[], Turn], threshold: float) -> None:
    names = tuple(f"f{position}" for position in range(len(rows)))
    readings = tuple(FeatureReading(name, *row, 1 / len(rows), False) for name, row in zip(names, rows, strict=True))
    window = (WindowPoint(0, tuple(row[0] for row in rows), tuple(row[1] for row in rows)),)
    turn = make_turn()
    turn = replace(turn, at=replace(turn.at, threshold=threshold))

    built = alert(turn, Explanation(readings, window), replace(CONTEXT, feature_names=names))

    json.loads(msgspec.json.encode(built.body), parse_constant=pytest.fail)
    for said in (built.body["explanation"]["message"], *built.body["explanation"]["reasons"]):
        assert "nan" not in said
        assert "inf" not in said


def headers_of(message: Message) -> dict[str, str]:
    return {name: value.decode() for name, value in message.headers}


def test_message_is_a_cloud_event_in_binary_mode_keyed_by_entity() -> None:
    message = alert_message(alert(opened(entity="pümp 7")), "alerts", None)

    assert (message.topic, message.key, message.partition_number, message.timestamp_ms) == ("alerts", "pümp 7".encode(), None, None)
    assert headers_of(message) == {
        "ce_specversion": "1.0",
        "ce_type": "anomaly_daemon.incident.opened.v1",
        "ce_source": "/anomaly-daemon/plant/readings/3",
        "ce_id": "8c3f0a1b2c3d4e5f-1",
        "ce_time": "2024-01-01T00:00:00.250Z",
        "ce_subject": "pümp 7",
        "content-type": "application/json",
    }


def test_event_source_is_a_uri_reference_whatever_the_detector_is_called() -> None:
    message = alert_message(alert(opened(), context=replace(CONTEXT, detector_id="Halle 7/ä?")), "alerts", None)

    assert headers_of(message)["ce_source"] == "/anomaly-daemon/Halle%207%2F%C3%A4%3F/readings/3"


def test_live_and_replayed_messages_differ_in_detected_at_and_nothing_else() -> None:
    live, replayed = (alert_message(alert(opened()), "alerts", now_us) for now_us in (NOW_US, None))

    body = json.loads(live.value or b"")
    validate(body)
    assert body["detected_at"] == "2026-01-01T00:00:00.000001Z"
    assert (live.value or b"").replace(b'"2026-01-01T00:00:00.000001Z"', b"null") == replayed.value
    assert live.headers == replayed.headers


def test_equal_turns_give_equal_bytes() -> None:
    first, second = (alert_message(alert(updated(at=judged(300))), "alerts", None) for _ in range(2))

    assert first == second


def test_feature_without_a_reading_is_refused_loudly() -> None:
    with pytest.raises(KeyError, match="temperature"):
        build_alert(opened(), Explanation(EXPLANATION.readings[:2], ()), CONTEXT, READINGS, Phase.LIVE)
