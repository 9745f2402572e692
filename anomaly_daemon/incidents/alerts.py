"""From an incident's turn to what is published: the alert's body, its sentence, its CloudEvents message.

Pure: no clock. The body follows `alert.schema.json` beside this file, key order included, so equal turns give equal bytes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal
from urllib.parse import quote

import msgspec

from anomaly_daemon.domain.records import (
    Alert,
    ChannelShare,
    FeatureReading,
    Message,
    Offset,
    Partition,
    Phase,
    Status,
    Transition,
    WindowPoint,
)
from anomaly_daemon.domain.times import EPOCH
from anomaly_daemon.incidents.incident import Turn
from anomaly_daemon.incidents.wording import lasting, leading_words, shares_text
from anomaly_daemon.settings import RIVER_PREFIX

SCHEMA_VERSION = "1.0"
Direction = Literal["above", "below", "mixed"]

REASON_FEATURES_MAX = 5
REASON_CONTRIBUTION_MIN = 0.05
# Calibration resolves tails down to 1e-4 and claims nothing below.
_RESOLVED_DECADES = 4.0
_KINDS: Final = {"point": "point anomaly", "collective": "collective anomaly", "level_shift": "level shift", "regime_change": "lasting change"}


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the engine knows about the record of a turn.

    readings: one per feature; their contributions are ≥ 0 and sum to 1.
    window:   the entity's recent points up to that record, oldest first.
    channels: the largest share first; they sum to 1.
    """

    readings: tuple[FeatureReading, ...]
    window: tuple[WindowPoint, ...]
    channels: tuple[ChannelShare, ...] = ()


@dataclass(frozen=True, slots=True)
class AlertContext:
    """What all alerts of a run share.

    mode:          live, replay or shadow.
    feature_names: in the order of a window point's values; the body lists the features in this order too.
    tells_return:  whether scores let it be known that an entity came back: the threshold follows the scores, or these are of fixed scale. Else
                   the entity's errors may have become the measure while the incident lasted.
    """

    detector_id: str
    mode: str
    model_name: str
    model_version: str
    settings_hash: str
    threshold_method: str
    feature_names: tuple[str, ...]
    tells_return: bool = True


def rfc3339(time_us: int) -> str:
    """An event time as RFC 3339 in UTC, `2024-01-31T12:00:00.250Z`: milliseconds, or microseconds where it has any."""
    precision = "microseconds" if time_us % 1000 else "milliseconds"
    return (EPOCH + timedelta(microseconds=time_us)).isoformat(timespec=precision).replace("+00:00", "Z")


def build_alert(turn: Turn, explanation: Explanation, context: AlertContext, partition: Partition, phase: Phase) -> Alert:
    """The alert of a turn.

    Score, grade, probability and threshold are those of the turn's record; peak, severity and confidence the incident's.
    """
    at = turn.at
    readings = _in_order(explanation.readings, context.feature_names)
    is_open = turn.transition is not Transition.CLOSED
    body = {
        "schema_version": SCHEMA_VERSION,
        "detector_id": context.detector_id,
        "incident_id": turn.incident_id,
        "sequence": turn.sequence,
        "fingerprint": fingerprint(context.detector_id, turn.entity, "regime_change" if turn.kind == "regime_change" else "readings"),
        "status": (Status.FIRING if is_open else Status.RESOLVED).value,
        "kind": turn.kind,
        "severity": turn.severity,
        "severity_number": turn.severity_number,
        "anomaly_score": at.anomaly_score,
        "anomaly_grade": at.grade,
        "confidence": confidence(turn.peak_probability, phase),
        "probability": _number(at.tail_probability),
        "threshold": {
            "value": _number(at.threshold),
            "method": context.threshold_method,
            "scope": "entity",
            "source": _threshold_source(context.threshold_method),
            "version": context.settings_hash,
        },
        "direction": _direction(_leading(readings)),
        "entity": turn.entity,
        "data_start_time": rfc3339(turn.since_us),
        "data_end_time": rfc3339(at.time_us),
        "starts_at": rfc3339(turn.starts_at_us),
        "ends_at": None if turn.ends_at_us is None else rfc3339(turn.ends_at_us),
        "detected_at": None,
        "peak": {"anomaly_score": turn.peak_score, "time": rfc3339(turn.peak_time_us), "offset": turn.peak_offset},
        "observations": turn.observations,
        "features": [_feature(reading) for reading in readings],
        "channels": [{"channel": one.channel, "contribution": min(1.0, one.contribution)} for one in explanation.channels],
        "explanation": {
            "message": _message(turn, readings, explanation.channels, context.tells_return),
            "reasons": _closing_reasons(turn) if not is_open else _reasons(turn, readings, explanation.channels, phase),
        },
        "window": [_point(point) for point in explanation.window],
        "phase": phase.name.lower(),
        **made_by(context),
        **made_of(partition, turn.first_offset, turn.last_offset),
        "suppression": {"count": turn.suppressed, "rule": turn.suppression_rule},
    }
    return Alert(partition, at.offset, turn.entity, turn.incident_id, turn.transition, rfc3339(at.time_us), body)


def made_by(context: AlertContext) -> dict[str, Any]:
    """The part of a body that says who speaks."""
    model = {"name": context.model_name, "version": context.model_version}
    return {"mode": context.mode, "model": model, "settings_hash": context.settings_hash}


def made_of(partition: Partition, first_offset: Offset, last_offset: Offset) -> dict[str, Any]:
    """The part of a body that says which records it is about."""
    return {"source_records": {"topic": partition.topic, "partition": partition.number, "first_offset": first_offset, "last_offset": last_offset}}


def fingerprint(detector_id: str, entity: str, track: str = "readings") -> str:
    """Groups alerts: the same for every incident of an entity on a track, such as its readings', whether it stays a point or grows collective."""
    return hashlib.sha256(msgspec.json.encode([detector_id, entity, track])).hexdigest()[:16]


def confidence(tail_probability: float, phase: Phase) -> float:
    """How sure the detector is that the incident is none of chance, 0 to 1.

    tail_probability: the smallest in the incident. The share of its decades that the calibration resolves: 1e-2 gives .5,
    1e-4 or less gives 1; half of that while the entity's own statistics are not calibrated.
    """
    decades = abs(math.log10(min(1.0, max(tail_probability, 10.0**-_RESOLVED_DECADES))))
    return decades / _RESOLVED_DECADES * (0.5 if phase is Phase.WARMUP else 1.0)


def alert_message(alert: Alert, topic: str, detected_at_us: int | None) -> Message:
    """The alert as a CloudEvents 1.0 event in Kafka's binary mode, keyed by entity.

    detected_at_us: wall-clock time, in live only; the one field that a replay of the same records does not give again.
    The message carries no timestamp: retention counts from its publication, not from an event time years ago.
    """
    body = alert.body if detected_at_us is None else {**alert.body, "detected_at": rfc3339(detected_at_us)}
    source = "/".join(quote(part, safe="") for part in (alert.body["detector_id"], alert.partition.topic, str(alert.partition.number)))
    headers = (
        ("ce_specversion", "1.0"),
        ("ce_type", _event_type(alert)),
        ("ce_source", f"/anomaly-daemon/{source}"),
        ("ce_id", f"{alert.incident_id}-{alert.body['sequence']}"),
        ("ce_time", alert.time),
        ("ce_subject", alert.entity),
        ("content-type", "application/json"),
    )
    return Message(topic, alert.entity.encode(), msgspec.json.encode(body), tuple((name, text.encode()) for name, text in headers))


def _event_type(alert: Alert) -> str:
    """A silence opens as an event of its own; it closes as an incident does, so that whoever waits for that misses none."""
    if alert.body["kind"] == "silence" and alert.transition is Transition.OPENED:
        return "anomaly_daemon.entity.silent.v1"
    return f"anomaly_daemon.{'regime_change' if alert.body['kind'] == 'regime_change' else 'incident'}.{alert.transition.value}.v1"


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _in_order(readings: Sequence[FeatureReading], names: Sequence[str]) -> list[FeatureReading]:
    by_name = {reading.feature: reading for reading in readings}
    return [by_name[name] for name in names]


def _feature(reading: FeatureReading) -> dict[str, Any]:
    return {
        "feature": reading.feature,
        "actual": _number(reading.actual),
        "expected": _number(reading.expected),
        "lower": _number(reading.lower),
        "upper": _number(reading.upper),
        "contribution": min(1.0, reading.contribution),
        "imputed": reading.imputed,
    }


def _point(point: WindowPoint) -> dict[str, Any]:
    return {"steps_back": point.steps_back, "actual": list(point.actual), "reconstructed": list(point.reconstructed)}


def _threshold_source(method: str) -> str:
    """River's anomaly scorers are judged against the level in the settings, as `static` is; every other method learns its threshold."""
    return "settings" if method == "static" or method.startswith(f"{RIVER_PREFIX}anomaly.") else "online"


def _leading(readings: Sequence[FeatureReading]) -> FeatureReading | None:
    return max(readings, key=lambda reading: reading.contribution, default=None)


def _direction(leading: FeatureReading | None) -> Direction:
    """Where the leading feature lies from what was expected; mixed when that cannot be said."""
    actual, expected = (None, None) if leading is None else (_number(leading.actual), _number(leading.expected))
    if actual is None or expected is None or actual == expected:
        return "mixed"
    return "above" if actual > expected else "below"


def _is_unusual(reading: FeatureReading) -> bool:
    actual, lower, upper = _number(reading.actual), _number(reading.lower), _number(reading.upper)
    return actual is not None and ((lower is not None and actual < lower) or (upper is not None and actual > upper))


def _message(turn: Turn, readings: Sequence[FeatureReading], channels: Sequence[ChannelShare], tells_return: bool) -> str:
    """One sentence that a person understands."""
    if turn.kind == "regime_change":
        return f"{turn.entity}: the change since {rfc3339(turn.starts_at_us)} {'is ' * (turn.ends_at_us is not None)}{turn.remark}."
    if turn.transition is Transition.CLOSED:
        peak = f"the peak score was {_text(turn.peak_score)} at {rfc3339(turn.peak_time_us)}"
        why = f"the incident {turn.remark}" if turn.remark is not None else _over(turn, tells_return)
        return f"{turn.entity}: {why} after {turn.anomalies} anomalous of {turn.observations} observations; {peak}."
    leading = _leading(readings)
    unusual = sum(map(_is_unusual, readings))
    lead = "" if leading is None else _reading_text(leading, " ")
    if leading is not None and unusual > 1 and _is_unusual(leading):
        lead += f", the largest of {unusual} unusual features"
    words = leading_words(channels, turn.kind, turn.starts_at_us, turn.at.time_us)
    still = f", still anomalous after {turn.observations} observations" if turn.transition is Transition.UPDATED else ""
    score = f"score {_text(turn.at.anomaly_score)} against a threshold of {_text(turn.at.threshold)}"
    return f"{turn.entity}{still}: {''.join(f'{one}; ' for one in (lead, words) if one)}{score}."


def _over(turn: Turn, tells_return: bool) -> str:
    """What a close by recovery says of the entity: that it came back, or no more than is known."""
    if tells_return and turn.is_back:
        return "normal again"
    before, now = _text(turn.opened_threshold), _text(turn.at.threshold)
    return f"no longer beyond the threshold{'' if before == now else f', which was {before} when it opened and is {now} now,'}"


def _closing_reasons(turn: Turn) -> list[str]:
    """What it was, how long it lasted and why it closes; the record of a close is normal and tells nothing of it."""
    ends_at_us = turn.starts_at_us if turn.ends_at_us is None else turn.ends_at_us
    what = f"{_KINDS.get(turn.kind, turn.kind)} of severity {turn.severity}: {turn.anomalies} anomalous of {turn.observations} observations"
    reasons = [] if turn.remark is None else [turn.remark]
    reasons.append(f"{what}, {lasting(turn.starts_at_us, ends_at_us, rfc3339(turn.starts_at_us))}")
    if turn.recovery is not None:
        reasons.append(f"closed because {turn.recovery} observations are normal (incidents.recovery)")
    return reasons


def _reasons(turn: Turn, readings: Sequence[FeatureReading], channels: Sequence[ChannelShare], phase: Phase) -> list[str]:
    """What the leading channel and features say, then what else helps to believe the alert or not."""
    reasons = [] if turn.remark is None else [turn.remark]
    words = leading_words(channels, turn.kind, turn.starts_at_us, turn.at.time_us)
    reasons += [f"{_deviation_text(_leading(readings))}{words}"] if words else []
    leading = sorted((one for one in readings if one.contribution >= REASON_CONTRIBUTION_MIN), key=lambda one: -one.contribution)
    reasons += [f"{_reading_text(one, ': ')}; {one.contribution:.0%} of the evidence" for one in leading[:REASON_FEATURES_MAX]]
    by_channel = shares_text(channels)
    reasons += [by_channel] if by_channel else []
    reasons.append(f"a normal record scores this high with probability {_text(turn.at.tail_probability)}")
    if phase is Phase.WARMUP:
        reasons.append("warming up: this entity's own statistics are not calibrated yet")
    if turn.suppressed:
        reasons.append(f"triggers held back during the cooldown before: {turn.suppressed}")
    return reasons


def _deviation_text(leading: FeatureReading | None) -> str:
    """By how much the leading feature lies from what was expected, such as `pressure 4.2 above expected, `."""
    if leading is None:
        return ""
    actual, expected, direction = _number(leading.actual), _number(leading.expected), _direction(leading)
    if actual is None or expected is None or direction == "mixed":
        return f"{leading.feature}{' missing' if leading.imputed else ''}, "
    return f"{leading.feature} {_text(abs(actual - expected))} {direction} expected, "


def _reading_text(reading: FeatureReading, separator: str) -> str:
    actual, expected, lower, upper = map(_number, (reading.actual, reading.expected, reading.lower, reading.upper))
    if actual is None and not reading.imputed:
        return f"{reading.feature}{separator}another value than expected"
    words = f"{reading.feature}{separator}{'missing' if actual is None else _text(actual)}"
    if expected is not None:
        words += f" where {_text(expected)} was expected"
        if lower is not None and upper is not None:
            words += f" ({_text(lower)} to {_text(upper)})"
    return words


def _text(value: float) -> str:
    """Four significant digits."""
    return f"{value:.4g}" if math.isfinite(value) else "unknown"
