"""Alerts folded to incidents for the report: few numbers of each one kept, the bodies of the worst read again from the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.domain.times import EPOCH

INCIDENTS_MAX: Final = 100_000

Time = Annotated[datetime, msgspec.Meta(tz=True)]
Severity = Literal["low", "medium", "high", "critical"]
SEVERITIES: Final[tuple[Severity, ...]] = ("critical", "high", "medium", "low")


class Peak(msgspec.Struct, frozen=True):
    """Where the incident scored highest so far."""

    anomaly_score: float
    time: Time


class Limit(msgspec.Struct, frozen=True):
    """The threshold in force at the alert's record."""

    value: float | None
    method: str


class Explanation(msgspec.Struct, frozen=True):
    """The sentence."""

    message: str


class Reading(msgspec.Struct, frozen=True):
    """One feature at the alert's record."""

    feature: str
    actual: float | None
    expected: float | None
    lower: float | None
    upper: float | None
    contribution: float
    imputed: bool


class Point(msgspec.Struct, frozen=True):
    """One recent point; values in the order of the features."""

    steps_back: int
    actual: list[float | None]
    reconstructed: list[float | None]


class SourceRecords(msgspec.Struct, frozen=True):
    """Where the anomalous records stand in the log."""

    topic: str
    partition: int
    first_offset: int
    last_offset: int


class AlertLine(msgspec.Struct, frozen=True):
    """What every alert of an incident tells of the incident as a whole."""

    schema_version: Literal["1.0"]
    incident_id: str
    sequence: int
    kind: str
    severity: Severity
    anomaly_score: float | None
    entity: str
    starts_at: Time
    ends_at: Time | None
    peak: Peak | None
    observations: int | None


class AlertBody(AlertLine, frozen=True):
    """All of an alert that is shown in full."""

    probability: float | None
    confidence: float | None
    threshold: Limit | None
    features: list[Reading]
    explanation: Explanation
    window: list[Point]
    source_records: SourceRecords

    def __post_init__(self) -> None:
        if any(len(values) != len(self.features) for point in self.window for values in (point.actual, point.reconstructed)):
            raise ValueError("a window point holds one value per feature")


@dataclass(frozen=True, slots=True)
class Incident:
    """What the alerts of one incident add up to.

    Times in microseconds since 1970 UTC; ends_us None: still open at the end. strongest_at: where in the file the alert begins
    whose own record scored highest, which says why it was announced; latest_at: where its latest one does.
    peak_score, observations None: an incident without a score; peak_us is then its start.
    """

    incident_id: str
    entity: str
    kind: str
    severity: Severity
    starts_us: int
    ends_us: int | None
    peak_us: int
    peak_score: float | None
    observations: int | None
    sequence: int
    strongest_score: float
    strongest_at: int
    latest_at: int


@dataclass(frozen=True, slots=True)
class IncidentLog:
    """Incidents, the highest peak first. left_out: those of the lowest peaks beyond INCIDENTS_MAX."""

    path: Path
    incidents: Sequence[Incident]
    by_entity: Counter[str]
    by_severity: Counter[str]
    left_out: int


def read_incidents(path: Path, incidents_max: int = INCIDENTS_MAX) -> IncidentLog:
    """The incidents of a file of alerts, one JSON object a line. Raises InputError where it cannot be read, or a line is no alert."""
    decoder = msgspec.json.Decoder(AlertLine)
    known: dict[str, Incident] = {}
    left_out, position = 0, 0
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                begin, position = position, position + len(line)
                if not line.strip():
                    continue
                try:
                    alert = decoder.decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    raise InputError(f"{path}: line {number} is no alert of schema 1.0 ({error}); replay the range again") from None
                known[alert.incident_id] = _folded(known.get(alert.incident_id), alert, begin)
                if len(known) >= 2 * incidents_max:
                    left_out += _trim(known, incidents_max)
    except OSError as error:
        raise InputError(f"{path}: the alerts cannot be read: {error.strerror}; replay the range again") from None
    left_out += _trim(known, incidents_max)
    incidents = sorted(known.values(), key=_worst_first)
    return IncidentLog(path, incidents, Counter(one.entity for one in incidents), Counter(one.severity for one in incidents), left_out)


def read_bodies(log: IncidentLog, incidents: Sequence[Incident]) -> list[tuple[AlertBody, str | None]]:
    """The strongest alert of each, and what the one that closed it says. Raises InputError as `read_incidents` does."""
    decoder = msgspec.json.Decoder(AlertBody)
    bodies = []
    try:
        with log.path.open("rb") as lines:
            for incident in incidents:
                lines.seek(incident.strongest_at)
                strongest, ended = decoder.decode(lines.readline()), None
                if incident.ends_us is not None and incident.latest_at != incident.strongest_at:
                    lines.seek(incident.latest_at)
                    ended = decoder.decode(lines.readline()).explanation.message
                bodies.append((strongest, ended))
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{log.path}: an alert of schema 1.0 cannot be read ({error}); replay the range again") from None
    return bodies


def microseconds(time: datetime) -> int:
    """Since 1970 UTC."""
    return (time - EPOCH) // timedelta(microseconds=1)


def _folded(known: Incident | None, alert: AlertLine, begin: int) -> Incident:
    """The incident with one alert more: as the latest says it, the strongest remembered by its place."""
    strongest_score, strongest_at = alert.anomaly_score or 0.0, begin
    if known is not None and known.strongest_score >= strongest_score:
        strongest_score, strongest_at = known.strongest_score, known.strongest_at
    if known is not None and known.sequence > alert.sequence:
        return replace(known, strongest_score=strongest_score, strongest_at=strongest_at)
    return Incident(
        incident_id=alert.incident_id,
        entity=alert.entity,
        kind=alert.kind,
        severity=alert.severity,
        starts_us=microseconds(alert.starts_at),
        ends_us=None if alert.ends_at is None else microseconds(alert.ends_at),
        peak_us=microseconds(alert.starts_at if alert.peak is None else alert.peak.time),
        peak_score=None if alert.peak is None else alert.peak.anomaly_score,
        observations=alert.observations,
        sequence=alert.sequence,
        strongest_score=strongest_score,
        strongest_at=strongest_at,
        latest_at=begin,
    )


def _worst_first(incident: Incident) -> tuple[float, int, str]:
    return (-(incident.peak_score or 0.0), incident.starts_us, incident.incident_id)


def _trim(known: dict[str, Incident], incidents_max: int) -> int:
    surplus = sorted(known.values(), key=_worst_first)[incidents_max:]
    for incident in surplus:
        del known[incident.incident_id]
    return len(surplus)
