"""Turns, explanations and the schema's validator, for the tests of alerts and of the verb that lists them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from importlib.resources import files
from typing import Any

import jsonschema

from anomaly_daemon.domain.records import Alert, ChannelShare, FeatureReading, Partition, Phase, Transition, WindowPoint
from anomaly_daemon.incidents.alerts import AlertContext, Explanation, build_alert
from anomaly_daemon.incidents.incident import Judged, Turn

READINGS = Partition("readings", 3)
START_US = 1_704_067_200_250_000  # 2024-01-01T00:00:00.250Z
SECOND_US = 1_000_000

_FORMATS = jsonschema.FormatChecker(formats=())


@_FORMATS.checks("date-time", raises=ValueError)
def _is_time(text: object) -> bool:
    return not isinstance(text, str) or datetime.fromisoformat(text).tzinfo is not None


def schema() -> dict[str, Any]:
    return dict(json.loads((files("anomaly_daemon.incidents") / "alert.schema.json").read_text()))


VALIDATOR = jsonschema.Draft202012Validator(schema(), format_checker=_FORMATS)


def validate(body: Mapping[str, Any]) -> None:
    VALIDATOR.validate(dict(body))


CONTEXT = AlertContext(
    detector_id="plant",
    mode="replay",
    model_name="pumps",
    model_version="20240101-1",
    settings_hash="0123456789abcdef",
    threshold_method="ewma",
    feature_names=("pressure", "flow", "temperature"),
)

EXPLANATION = Explanation(
    readings=(
        FeatureReading("pressure", 4.2, 3.1, 2.8, 3.4, 0.7, False),
        FeatureReading("flow", 10.0, 12.5, 11.0, 14.0, 0.2, False),
        FeatureReading("temperature", 60.0, 60.5, 58.0, 63.0, 0.1, False),
    ),
    window=(
        WindowPoint(2, (3.1, 12.4, 60.2), (3.1, 12.5, 60.3)),
        WindowPoint(1, (4.0, 10.1, None), (3.15, 12.6, 60.4)),
        WindowPoint(0, (4.2, 10.0, 60.0), (None, None, None)),
    ),
    channels=(ChannelShare("level", 0.75), ChannelShare("prediction", 0.21), ChannelShare("novelty", 0.04)),
)


def judged(second: int = 0, **changes: Any) -> Judged:
    at = Judged(
        offset=1042 + second,
        time_us=START_US + second * SECOND_US,
        is_anomaly=True,
        is_judged=True,
        anomaly_score=0.8312345678901234,
        tail_probability=0.0004,
        threshold=0.61,
        grade=0.5641,
    )
    return replace(at, **changes)


def opened(**changes: Any) -> Turn:
    turn = Turn(
        transition=Transition.OPENED,
        incident_id="8c3f0a1b2c3d4e5f",
        sequence=1,
        entity="pump-7",
        at=judged(),
        since_us=START_US,
        first_offset=1042,
        last_offset=1042,
        starts_at_us=START_US,
        ends_at_us=None,
        peak_score=0.8312345678901234,
        peak_time_us=START_US,
        peak_offset=1042,
        peak_probability=0.0004,
        observations=4,
        anomalies=3,
        kind="point",
        severity="high",
        severity_number=17,
        suppressed=0,
        suppression_rule=None,
    )
    return replace(turn, **changes)


def updated(**changes: Any) -> Turn:
    turn = opened(transition=Transition.UPDATED, sequence=2, at=judged(300), last_offset=1342, observations=304, anomalies=250, kind="collective")
    return replace(turn, **changes)


def closed(**changes: Any) -> Turn:
    at = judged(320, is_anomaly=False, anomaly_score=0.2, tail_probability=0.4, grade=0.0)
    turn = updated(transition=Transition.CLOSED, sequence=3, at=at, since_us=START_US + 300 * SECOND_US, ends_at_us=START_US + 310 * SECOND_US)
    return replace(turn, **{"observations": 324, "anomalies": 255, "opened_threshold": 0.61, "recovery": "10 of the last 10", **changes})


def alert(turn: Turn, explanation: Explanation = EXPLANATION, context: AlertContext = CONTEXT, phase: Phase = Phase.LIVE) -> Alert:
    built = build_alert(turn, explanation, context, READINGS, phase)
    validate(built.body)
    return built
