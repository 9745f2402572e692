"""What the alerts topic holds, folded to one entry per incident: read by `incidents` and `demo`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Annotated, Literal

import msgspec

from anomaly_daemon.domain.ports import Source
from anomaly_daemon.domain.records import Record
from anomaly_daemon.pipeline.topic_reader import TopicReader

Time = Annotated[datetime, msgspec.Meta(tz=True)]


class PublishedPeak(msgspec.Struct, frozen=True):
    """Where the incident scored highest so far."""

    anomaly_score: float


class PublishedFeature(msgspec.Struct, frozen=True):
    """What is listed of one feature."""

    feature: str
    contribution: float


class PublishedExplanation(msgspec.Struct, frozen=True):
    """The sentence."""

    message: str


class PublishedPoint(msgspec.Struct, frozen=True):
    """One point of the window; values in the order of the features."""

    steps_back: int
    actual: list[float | None]
    reconstructed: list[float | None]


class PublishedAlert(msgspec.Struct, frozen=True):
    """The part of an alert that is listed; a record that lacks any of it is not an alert of this schema."""

    schema_version: Literal["1.0"]
    incident_id: str
    sequence: int
    status: Literal["firing", "resolved"]
    kind: str
    severity: Literal["low", "medium", "high", "critical"]
    severity_number: int
    anomaly_score: float | None
    entity: str
    data_end_time: Time
    starts_at: Time
    ends_at: Time | None
    peak: PublishedPeak | None
    observations: int | None
    features: list[PublishedFeature]
    explanation: PublishedExplanation
    window: list[PublishedPoint]

    def __post_init__(self) -> None:
        if any(len(values) != len(self.features) for point in self.window for values in (point.actual, point.reconstructed)):
            raise ValueError("a window point holds one value per feature")

    @property
    def strength(self) -> float:
        """The score of its record; 0 where it is told without one."""
        return self.anomaly_score or 0.0

    @property
    def leading(self) -> int | None:
        """Position of the feature with the largest share of the evidence; None without features."""
        return max(range(len(self.features)), key=lambda position: self.features[position].contribution, default=None)


@dataclass(frozen=True, slots=True)
class Incident:
    """What the alerts of one incident add up to.

    latest:    the alert of the highest sequence, and its bytes as published.
    strongest: the alert whose own record scored highest: why it was announced, where the latest may only say that it is over.
    """

    latest: PublishedAlert
    latest_value: bytes
    strongest: PublishedAlert

    @property
    def order(self) -> tuple[datetime, str, str]:
        """By start, then by what is the same on every log."""
        return (self.latest.starts_at, self.latest.entity, self.latest.incident_id)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which incidents are shown: of entities that match, still open only, going on at this time or later."""

    matches: Callable[[str], object] = lambda _entity: True
    is_open_only: bool = False
    not_before: datetime | None = None

    def fits(self, alert: PublishedAlert) -> bool:
        """Whether an incident that stands like this is shown."""
        is_past = self.not_before is not None and alert.ends_at is not None and alert.ends_at < self.not_before
        return bool(self.matches(alert.entity)) and not (self.is_open_only and alert.status == "resolved") and not is_past


@dataclass(slots=True)
class Incidents:
    """Alerts folded to one entry per incident; beyond `incidents_max` those that started first are left out.

    foreign:  records that are no alerts of this schema. left_out: incidents beyond the limit.
    latest_out: where in their order the last one left out stands; one up to there does not come back with its next alert.
    """

    incidents_max: int
    by_id: dict[str, Incident] = field(default_factory=dict)
    foreign: int = 0
    left_out: int = 0
    latest_out: tuple[datetime, str, str] | None = None

    def add(self, record: Record) -> PublishedAlert | None:
        """Take note of a record of the alerts topic; None, and counted, when it is no alert of this schema."""
        value = record.value or b""
        try:
            alert = msgspec.json.decode(value, type=PublishedAlert)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.foreign += 1
            return None
        known = self.by_id.get(alert.incident_id)
        new = Incident(alert, value, alert)
        if known is None and self.latest_out is not None and new.order <= self.latest_out:
            self.left_out += alert.sequence == 1  # the others were counted when they opened
        elif known is None:
            self.by_id[alert.incident_id] = new
        else:
            latest, latest_value = (alert, value) if alert.sequence > known.latest.sequence else (known.latest, known.latest_value)
            strongest = alert if alert.strength > known.strongest.strength else known.strongest
            self.by_id[alert.incident_id] = Incident(latest, latest_value, strongest)
        if len(self.by_id) >= 2 * self.incidents_max:
            self._trim()
        return alert

    def listed(self, wanted: Wanted) -> list[Incident]:
        """Those that are shown, by start."""
        self._trim()
        return sorted((one for one in self.by_id.values() if wanted.fits(one.latest)), key=lambda one: one.order)

    def _trim(self) -> None:
        surplus = sorted(self.by_id.values(), key=lambda one: one.order)[: max(0, len(self.by_id) - self.incidents_max)]
        for incident in surplus:
            del self.by_id[incident.latest.incident_id]
            self.latest_out = incident.order
        self.left_out += len(surplus)


def read_incidents(source: Source, incidents_max: int = 1000) -> Incidents:
    """The incidents of an alerts topic, up to its end as it is now."""
    incidents = Incidents(incidents_max)
    for record in chain.from_iterable(TopicReader(source).to_end()):
        incidents.add(record)
    return incidents
