from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from anomaly_daemon.domain.records import Partition, Record
from anomaly_daemon.incidents.alerts import alert_message
from anomaly_daemon.incidents.notices import notice_alert, silence_notice
from anomaly_daemon.incidents.silence import Heard, Silence, SilenceTurn
from anomaly_daemon.incidents.watermark import Watermark
from anomaly_daemon.incidents.wording import spoken
from tests.alert_cases import CONTEXT, READINGS, START_US, validate
from tests.small import P, judge

MINUTE_US = 60_000_000
START_S = 1_700_000_000


def silence(limit_us: int | None = 5, ttl_us: int = 1000) -> Silence:
    return Silence(ttl_us, (limit_us,), lambda _: 0)


def told(turns: Sequence[SilenceTurn]) -> list[tuple[str, str, int]]:
    return [(turn.event, turn.entity, turn.position) for turn in turns]


def test_entity_falls_silent_at_the_record_that_moves_the_watermark_past_its_limit_and_returns_in_the_same_batch() -> None:
    turns = silence().advance(np.array([0, 1, 5, 6, 7, 8]), range(6), ["b", "a", "a", "a", "a", "b"], [])

    assert told(turns) == [("silent", "b", 3), ("returned", "b", 5)]
    assert [turn.heard for turn in turns] == [Heard(0, 0), Heard(0, 0)]


def test_an_entity_alone_on_its_partition_never_falls_silent() -> None:
    assert silence().advance(np.array([0, 100]), range(2), ["a", "a"], []) == []


def test_silence_ends_where_the_entity_is_forgotten_or_its_time_to_live_is_over() -> None:
    one = silence(ttl_us=20)

    turns = one.advance(np.array([0, 0, 10, 11, 40]), range(5), ["b", "c", "a", "a", "a"], [(3, "b")])

    assert told(turns) == [("silent", "b", 2), ("silent", "c", 2), ("forgotten", "b", 3), ("expired", "c", 4)]
    assert one.open_count == 0


def test_a_silence_that_is_no_longer_watched_for_ends_when_the_entity_returns() -> None:
    one = silence()
    one.advance(np.array([0, 10]), range(2), ["b", "a"], [])
    one.take_rules((None,), lambda _: 0)

    assert told(one.advance(np.array([11, 90]), range(2, 4), ["b", "a"], [])) == [("returned", "b", 0)]
    assert not one.is_on


def test_a_time_far_ahead_moves_the_watermark_only_once_another_entity_or_three_records_in_a_row_bear_it_out() -> None:
    def moved(entities: str, times: list[int]) -> int | None:
        watermark = Watermark(10)
        watermark.advance(np.array(times), None, list(entities), 5)
        return watermark.time_us

    assert moved("a", [99]) == 10
    assert moved("ab", [99, 11]) == 11
    assert moved("ab", [99, 40]) == 40
    assert moved("aa", [99, 99]) == 10
    assert moved("aaa", [99, 99, 99]) == 99


@pytest.mark.parametrize(
    ("event", "words"), [("silent", "silent for 12 min, last heard at 2024-01-01T00:00:00.250Z"), ("returned", "back after 12 min")]
)
def test_notice_of_silence_says_how_long_and_follows_the_schema(event: str, words: str) -> None:
    turn = SilenceTurn("silent" if event == "silent" else "returned", "pump-3", 0, START_US + 12 * MINUTE_US, Heard(START_US, 41))

    alert = notice_alert(silence_notice(turn, 99, "plant", READINGS), CONTEXT, READINGS)

    validate(alert.body)
    assert words in alert.body["explanation"]["message"]
    reasons = {
        "silent": ["its last record is offset 41"],
        "returned": [
            "silence for 12 min from 2024-01-01T00:00:00.250Z",
            "closed because a record of it came",
            "its last record before the silence is offset 41",
        ],
    }
    assert alert.body["explanation"]["reasons"] == reasons[event]
    kinds = {"silent": b"anomaly_daemon.entity.silent.v1", "returned": b"anomaly_daemon.incident.closed.v1"}
    assert dict(alert_message(alert, "alerts", None).headers)["ce_type"] == kinds[event]


def test_durations_are_spoken_in_their_two_largest_units() -> None:
    assert [spoken(one) for one in (250_000, 45_000_000, 7_200_000_000, 7_500_000_000, 90_000_000_000)] == [
        "250 ms",
        "45 s",
        "2 h",
        "2 h 5 min",
        "1 d 1 h",
    ]


def records(*rows: tuple[str, int, float, int], partition: Partition = P) -> list[Record]:
    """entity, minute of the record, flow, minutes that its clock is ahead."""
    return [
        Record(
            partition,
            offset,
            (START_S + 60 * minute) * 1000,
            entity.encode(),
            json.dumps({"flow": flow, "pressure": 0.1 * offset, "current": 0.0, "time": START_S + 60 * (minute + ahead)}).encode(),
        )
        for offset, (entity, minute, flow, ahead) in enumerate(rows)
    ]


def quality(found: Sequence[Record], *assignments: str) -> list[str]:
    alerts = [alert for alert in judge(found, (), *assignments).alerts if alert.body["kind"] in ("data_quality", "silence")]
    for alert in alerts:
        validate(alert.body)
    return [f"{alert.transition.value} {alert.offset} {alert.body['explanation']['message']}" for alert in alerts]


def test_a_clock_that_is_ahead_is_told_and_silences_nobody() -> None:
    ahead = [("pump-3", minute, minute % 3 / 10, 120 if 2 <= minute < 6 else 0) for minute in range(12)]
    rows = [row for pair in zip(ahead, (("pump-1", minute, minute % 2 / 10, 0) for minute in range(12)), strict=True) for row in pair]

    assert quality(records(*rows), "incidents.silence_after=10m") == [
        "opened 6 pump-3: its clock is 2 h ahead.",
        "closed 16 pump-3: its clock is right again after 4 of 7 records at fault.",
    ]


def test_a_reading_that_used_to_move_and_stands_still_is_told_once() -> None:
    rows = [("pump-1", minute, minute % 7 / 10 if minute < 20 or minute > 50 else 0.25, 0) for minute in range(60)]

    opened, *updated, closed = quality(records(*rows), "quality.stuck_after=15m")

    assert opened == "opened 36 pump-1: flow stands at 0.25 since 2023-11-14T22:33:20.000Z (16 min)."
    assert all(words.startswith("updated") for words in updated)
    assert closed.endswith("pump-1: its readings move again after 16 of 19 records at fault.")


def test_a_reading_that_always_stood_still_is_no_fault() -> None:
    assert quality(records(*(("pump-1", minute, float(minute // 40), 0) for minute in range(120))), "quality.stuck_after=15m") == []
