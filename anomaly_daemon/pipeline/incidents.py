"""From verdicts to incidents: opens, updates and closes them, one machine per partition, pure and by event time only.

It stands between the engine, which judges observations, and `alerts`, which words what is announced. Every decision about an
entity follows from that entity's own observations in log order, so cutting the log into other batches changes nothing.
Memory: one entry per entity that has an open incident, cools down, or is owed a count of suppressed triggers; never more
than the partition has entities, because the table of entities calls `forget` for those it drops.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from anomaly_daemon.domain.errors import CheckpointInvalid
from anomaly_daemon.domain.records import Offset, Partition, Transition
from anomaly_daemon.settings import Incidents

Kind = Literal["point", "collective"]
Severity = Literal["low", "medium", "high", "critical"]

RECENT_MASK = (1 << 63) - 1
POINT_ANOMALIES_MAX = 3
FORMAT = 1

# Lower bound of the peak grade, the word, and OpenTelemetry's severity number: WARN, WARN3, ERROR, FATAL.
SEVERITIES: tuple[tuple[float, Severity, int], ...] = ((0.75, "critical", 21), (0.5, "high", 17), (0.25, "medium", 15), (0.0, "low", 13))


@dataclass(frozen=True, slots=True)
class Judged:
    """What was decided of one observation, in Python's own numbers, all finite.

    is_judged: False in warm-up; such an observation neither opens, feeds nor closes anything.
    """

    offset: Offset
    time_us: int
    is_anomaly: bool
    is_judged: bool
    anomaly_score: float
    tail_probability: float
    threshold: float
    grade: float


@dataclass(frozen=True, slots=True)
class Turn:
    """One transition of an incident, as it stands at the observation `at`.

    sequence:         1 when it opens, one more with every turn.
    first_offset, starts_at_us: of the opening observation, the one that completed the trigger window.
    last_offset:      of the last anomalous observation.
    ends_at_us:       closed only: latest event time of an anomalous observation; the recovery after it is our doubt, not the anomaly.
    peak_*:           of the anomalous observation with the highest score; peak_probability the smallest tail probability of any.
    observations, anomalies: judged since the trigger window's first anomaly, that window included.
    suppressed:       triggers that completed during the cooldown before it opened.
    """

    transition: Transition
    incident_id: str
    sequence: int
    entity: str
    at: Judged
    first_offset: Offset
    last_offset: Offset
    starts_at_us: int
    ends_at_us: int | None
    peak_score: float
    peak_time_us: int
    peak_offset: Offset
    peak_probability: float
    observations: int
    anomalies: int
    kind: Kind
    severity: Severity
    severity_number: int
    suppressed: int


@dataclass(frozen=True, slots=True)
class Advance:
    """What some observations of one entity led to.

    recent:       the entity's history of verdicts after them.
    incident_ids: parallel to the observations, from the opening to the closing one inclusive; None outside an incident.
    """

    turns: list[Turn]
    recent: int
    incident_ids: list[str | None]


class _Open(msgspec.Struct, forbid_unknown_fields=True):
    """An open incident; `announced_*` belong to its last turn, `since_opening` counts judged observations after the opening one."""

    incident_id: str
    sequence: int
    first_offset: int
    last_offset: int
    starts_at_us: int
    last_anomaly_us: int
    peak_score: float
    peak_time_us: int
    peak_offset: int
    peak_probability: float
    peak_grade: float
    observations: int
    anomalies: int
    since_opening: int
    announced_us: int
    announced_severity: int
    suppressed: int


class _Cooling(msgspec.Struct, forbid_unknown_fields=True):
    """After a close: cooling until this event time, None once that is past and only the count is owed to the next opening."""

    until_us: int | None
    suppressed: int


class _State(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    detector_id: str
    topic: str
    partition: int
    suppressed_total: int
    open: dict[str, _Open]
    cooling: dict[str, _Cooling]


@dataclass(frozen=True, slots=True)
class _Rule:
    """One profile's settings, ready for arithmetic on bits and microseconds."""

    trigger_count: int
    trigger_mask: int
    recovery_count: int
    recovery_of: int
    cooldown_us: int
    update_every_us: int

    @classmethod
    def of(cls, settings: Incidents) -> _Rule:
        return cls(
            trigger_count=settings.trigger.count,
            trigger_mask=(1 << settings.trigger.of) - 1,
            recovery_count=settings.recovery.count,
            recovery_of=settings.recovery.of,
            cooldown_us=round(settings.cooldown * 1e6),
            update_every_us=round(settings.update_every * 1e6),
        )

    def is_triggered(self, recent: int) -> bool:
        return (recent & self.trigger_mask).bit_count() >= self.trigger_count

    def is_recovered(self, recent: int, since_opening: int) -> bool:
        span = min(self.recovery_of, since_opening)
        return span - (recent & ((1 << span) - 1)).bit_count() >= self.recovery_count


def push(recent: int, is_anomaly: bool) -> int:
    """The 63-bit history of verdicts with a newer one in bit 0."""
    return ((recent << 1) | is_anomaly) & RECENT_MASK


def severity_of(grade: float) -> tuple[Severity, int]:
    """The word for a peak grade, and OpenTelemetry's severity number."""
    return next(((word, number) for bound, word, number in SEVERITIES if grade >= bound), SEVERITIES[-1][1:])


class IncidentMachine:
    """The incidents of one partition.

    An entity that is not tracked is known to it by `recent` alone, which the caller keeps and may push itself as long as no
    anomalous observation completes a trigger; from the first one that might, and while `is_tracked`, `advance` takes over.
    """

    def __init__(self, detector_id: str, partition: Partition, rules: Sequence[Incidents]) -> None:
        self._detector_id = detector_id
        self._partition = partition
        self._rules = [_Rule.of(settings) for settings in rules]
        self._open: dict[str, _Open] = {}
        self._cooling: dict[str, _Cooling] = {}
        self._suppressed_total = 0

    @property
    def open_count(self) -> int:
        """Incidents open now."""
        return len(self._open)

    @property
    def suppressed_total(self) -> int:
        """Triggers that completed inside a cooldown, over the whole log prefix."""
        return self._suppressed_total

    def is_tracked(self, entity: str) -> bool:
        """Whether every observation of the entity must pass through `advance`: open, cooling down, or owed a count."""
        return entity in self._open or entity in self._cooling

    def with_rules(self, rules: Sequence[Incidents]) -> IncidentMachine:
        """The same machine under other rules from its next observation on; a cooldown under way keeps its end."""
        self._rules = [_Rule.of(settings) for settings in rules]
        return self

    def forget(self, entity: str) -> None:
        """Drop what is kept of an entity, an open incident too, without a turn."""
        self._open.pop(entity, None)
        self._cooling.pop(entity, None)

    def advance(self, entity: str, profile: int, recent: int, observations: Sequence[Judged]) -> Advance:
        """Take the next observations of one entity, in log order, under the rules of its profile.

        A close empties `recent`: what one incident was made of does not open the next.
        """
        rule = self._rules[profile]
        turns: list[Turn] = []
        incident_ids: list[str | None] = []
        for at in observations:
            incident = self._open.get(entity)
            turn = None
            if at.is_judged:
                before, recent = recent, push(recent, at.is_anomaly)
                turn = self._watch(entity, at, before, recent, rule) if incident is None else self._follow(entity, incident, at, recent, rule)
            if turn is not None:
                turns.append(turn)
                if turn.transition is Transition.CLOSED:
                    recent = 0
            incident_ids.append(turn.incident_id if turn is not None else incident.incident_id if incident is not None else None)
        return Advance(turns, recent, incident_ids)

    def _watch(self, entity: str, at: Judged, before: int, recent: int, rule: _Rule) -> Turn | None:
        """An observation outside an incident: it may open one, or be counted as suppressed."""
        is_triggered = at.is_anomaly and rule.is_triggered(recent)
        cooling = self._cooling.get(entity)
        if cooling is not None and cooling.until_us is not None:
            if at.time_us < cooling.until_us:
                if is_triggered and not rule.is_triggered(before):
                    cooling.suppressed += 1
                    self._suppressed_total += 1
                return None
            cooling.until_us = None
            if not cooling.suppressed:
                del self._cooling[entity]
        if not is_triggered:
            return None
        owed = self._cooling.pop(entity, None)
        incident = self._opened(entity, at, recent & rule.trigger_mask, owed.suppressed if owed is not None else 0)
        self._open[entity] = incident
        return _announce(Transition.OPENED, entity, incident, at)

    def _follow(self, entity: str, incident: _Open, at: Judged, recent: int, rule: _Rule) -> Turn | None:
        """An observation inside an incident: it may close it, or be worth an update.

        Only an anomalous observation brings an update, so that what an alert explains is always something anomalous.
        """
        incident.observations += 1
        incident.since_opening += 1
        if at.is_anomaly:
            _absorb(incident, at)
            is_due = at.time_us - incident.announced_us >= rule.update_every_us
            has_risen = severity_of(incident.peak_grade)[1] > incident.announced_severity
            return _announce(Transition.UPDATED, entity, incident, at) if is_due or has_risen else None
        if not rule.is_recovered(recent, incident.since_opening):
            return None
        del self._open[entity]
        if rule.cooldown_us:
            self._cooling[entity] = _Cooling(until_us=at.time_us + rule.cooldown_us, suppressed=0)
        return _announce(Transition.CLOSED, entity, incident, at)

    def _opened(self, entity: str, at: Judged, trigger_bits: int, suppressed: int) -> _Open:
        # The leading set bit is the window's first anomaly: the window's length and count are all that is known of it.
        identity = [self._detector_id, self._partition.topic, self._partition.number, entity, at.offset]
        return _Open(
            incident_id=hashlib.sha256(msgspec.json.encode(identity)).hexdigest()[:16],
            sequence=0,
            first_offset=at.offset,
            last_offset=at.offset,
            starts_at_us=at.time_us,
            last_anomaly_us=at.time_us,
            peak_score=at.anomaly_score,
            peak_time_us=at.time_us,
            peak_offset=at.offset,
            peak_probability=min(1.0, at.tail_probability),
            peak_grade=at.grade,
            observations=trigger_bits.bit_length(),
            anomalies=trigger_bits.bit_count(),
            since_opening=0,
            announced_us=at.time_us,
            announced_severity=0,
            suppressed=suppressed,
        )

    def to_bytes(self) -> bytes:
        """The state as canonical JSON: equal states give equal bytes."""
        state = _State(FORMAT, self._detector_id, self._partition.topic, self._partition.number, self._suppressed_total, self._open, self._cooling)
        return msgspec.json.encode(state, order="sorted")

    def restore(self, state_bytes: bytes) -> None:
        """Take over the state of `to_bytes`. Raises CheckpointInvalid and changes nothing when it is damaged or of another partition."""
        try:
            state = msgspec.json.decode(state_bytes, type=_State)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CheckpointInvalid(f"incidents of {self._partition}: not the state of incidents: {error}") from error
        if state.format != FORMAT:
            raise CheckpointInvalid(f"incidents of {self._partition}: format {state.format}, this version reads format {FORMAT}")
        if (state.detector_id, state.topic, state.partition) != (self._detector_id, self._partition.topic, self._partition.number):
            raise CheckpointInvalid(f"incidents of {self._partition}: they belong to {state.detector_id} on {state.topic}[{state.partition}]")
        if state.open.keys() & state.cooling.keys():
            raise CheckpointInvalid(f"incidents of {self._partition}: an entity is both open and cooling down")
        self._open, self._cooling, self._suppressed_total = state.open, state.cooling, state.suppressed_total


def _absorb(incident: _Open, at: Judged) -> None:
    """Add an anomalous observation to what the incident has shown so far."""
    incident.anomalies += 1
    incident.last_offset = at.offset
    incident.last_anomaly_us = max(incident.last_anomaly_us, at.time_us)
    incident.peak_grade = max(incident.peak_grade, at.grade)
    incident.peak_probability = min(incident.peak_probability, at.tail_probability)
    if at.anomaly_score > incident.peak_score:
        incident.peak_score, incident.peak_time_us, incident.peak_offset = at.anomaly_score, at.time_us, at.offset


def _announce(transition: Transition, entity: str, incident: _Open, at: Judged) -> Turn:
    """The incident's next turn, and note of it in the incident."""
    severity, severity_number = severity_of(incident.peak_grade)
    incident.sequence += 1
    incident.announced_us = at.time_us
    incident.announced_severity = severity_number
    return Turn(
        transition=transition,
        incident_id=incident.incident_id,
        sequence=incident.sequence,
        entity=entity,
        at=at,
        first_offset=incident.first_offset,
        last_offset=incident.last_offset,
        starts_at_us=incident.starts_at_us,
        ends_at_us=incident.last_anomaly_us if transition is Transition.CLOSED else None,
        peak_score=incident.peak_score,
        peak_time_us=incident.peak_time_us,
        peak_offset=incident.peak_offset,
        peak_probability=incident.peak_probability,
        observations=incident.observations,
        anomalies=incident.anomalies,
        kind="point" if incident.anomalies <= POINT_ANOMALIES_MAX else "collective",
        severity=severity,
        severity_number=severity_number,
        suppressed=incident.suppressed,
    )
