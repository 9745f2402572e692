"""From verdicts to incidents: opens, updates and closes them, one machine per partition and track, pure and by event time only.

It stands between the engine, which judges observations, and `alerts`, which words what is announced. Every decision about an
entity follows from that entity's own observations in log order, so cutting the log into other batches changes nothing.
Memory: one entry per entity that has an open incident, cools down, or is owed a count of suppressed triggers; never more
than the partition has entities, because whoever drops an entity calls `forget`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from anomaly_daemon.domain.errors import CheckpointInvalid
from anomaly_daemon.domain.records import Partition, Transition
from anomaly_daemon.pipeline.incident import Judged, OpenIncident, Turn, open_incident
from anomaly_daemon.settings import Incidents, format_duration

__all__ = ["Advance", "IncidentMachine", "Judged", "Turn", "push"]

RECENT_MASK = (1 << 63) - 1
FORMAT = 2
Track = Literal["readings", "quality"]


@dataclass(frozen=True, slots=True)
class Advance:
    """What some observations of one entity led to.

    recent:       the entity's history of verdicts after them.
    incident_ids: parallel to the observations, from the opening to the closing one inclusive; None outside an incident.
    """

    turns: list[Turn]
    recent: int
    incident_ids: list[str | None]


class _Cooling(msgspec.Struct, forbid_unknown_fields=True):
    """After a close: cooling until this event time, None once that is past and only the count is owed to the next opening."""

    until_us: int | None
    suppressed: int


class _State(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    track: Track
    detector_id: str
    topic: str
    partition: int
    suppressed_total: int
    open: dict[str, OpenIncident]
    cooling: dict[str, _Cooling]


@dataclass(frozen=True, slots=True)
class _Rule:
    """One profile's settings, ready for arithmetic on bits and microseconds."""

    trigger_count: int
    trigger_mask: int
    recovery_count: int
    recovery_of: int
    cooldown_us: int
    cooldown_text: str | None
    update_every_us: int

    @classmethod
    def of(cls, settings: Incidents) -> _Rule:
        return cls(
            trigger_count=settings.trigger.count,
            trigger_mask=(1 << settings.trigger.of) - 1,
            recovery_count=settings.recovery.count,
            recovery_of=settings.recovery.of,
            cooldown_us=round(settings.cooldown * 1e6),
            cooldown_text=f"cooldown {format_duration(settings.cooldown)}" if settings.cooldown else None,
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


class IncidentMachine:
    """The incidents of one partition on one track: of readings, whose verdicts are the judge's, or of quality, whose anomalies are faults.

    Every judged observation of an entity with a verdict in `recent`, or that is tracked, must pass through `advance`; for the
    others nothing changes as long as no observation is anomalous.
    """

    def __init__(self, detector_id: str, partition: Partition, rules: Sequence[Incidents], track: Track = "readings") -> None:
        self._track: Track = track
        self._detector_id = detector_id
        self._partition = partition
        self._rules = [_Rule.of(settings) for settings in rules]
        self._open: dict[str, OpenIncident] = {}
        self._cooling: dict[str, _Cooling] = {}
        self._suppressed_total = 0

    @property
    def open_count(self) -> int:
        """Incidents open now."""
        return len(self._open)

    @property
    def is_busy(self) -> bool:
        """Whether any entity is tracked."""
        return bool(self._open or self._cooling)

    @property
    def suppressed_total(self) -> int:
        """Triggers that completed inside a cooldown, over the whole log prefix."""
        return self._suppressed_total

    def is_tracked(self, entity: str) -> bool:
        """Whether the entity has an open incident, cools down, or is owed a count of suppressed triggers."""
        return entity in self._open or entity in self._cooling

    def take_rules(self, rules: Sequence[Incidents]) -> None:
        """Other rules from the next observation on; a cooldown under way keeps its end."""
        self._rules = [_Rule.of(settings) for settings in rules]

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
        incident = open_incident(self._identify(entity, at), at, recent & rule.trigger_mask, owed.suppressed if owed is not None else 0)
        self._open[entity] = incident
        return incident.announce(Transition.OPENED, entity, at, rule.cooldown_text)

    def _follow(self, entity: str, incident: OpenIncident, at: Judged, recent: int, rule: _Rule) -> Turn | None:
        """An observation inside an incident: it may close it, or be worth an update.

        Only an anomalous observation brings an update, so that what an update explains is always something anomalous.
        """
        incident.observations += 1
        incident.since_opening += 1
        if at.is_anomaly:
            incident.absorb(at)
            is_due = at.time_us - incident.announced_us >= rule.update_every_us
            if is_due or incident.is_worse_than_announced():
                return incident.announce(Transition.UPDATED, entity, at, rule.cooldown_text)
            return None
        if not rule.is_recovered(recent, incident.since_opening):
            return None
        del self._open[entity]
        if rule.cooldown_us:
            self._cooling[entity] = _Cooling(until_us=at.time_us + rule.cooldown_us, suppressed=0)
        return incident.announce(Transition.CLOSED, entity, at, rule.cooldown_text)

    def _identify(self, entity: str, at: Judged) -> str:
        """The same id in every replay of the log."""
        identity = [self._detector_id, self._partition.topic, self._partition.number, entity, at.offset]
        identity += [] if self._track == "readings" else [self._track]
        return hashlib.sha256(msgspec.json.encode(identity)).hexdigest()[:16]

    def to_bytes(self) -> bytes:
        """The state as canonical JSON: equal states give equal bytes."""
        belongs = (self._track, self._detector_id, self._partition.topic, self._partition.number)
        state = _State(FORMAT, *belongs, self._suppressed_total, self._open, self._cooling)
        return msgspec.json.encode(state, order="sorted")

    def restore(self, state_bytes: bytes) -> None:
        """Take over the state of `to_bytes`. Raises CheckpointInvalid, and changes nothing, when it is damaged or of another partition."""
        try:
            state = msgspec.json.decode(state_bytes, type=_State)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CheckpointInvalid(f"incidents of {self._partition}: not the state of incidents: {error}") from error
        if state.format != FORMAT:
            raise CheckpointInvalid(f"incidents of {self._partition}: format {state.format}, this version reads format {FORMAT}")
        belongs = (self._track, self._detector_id, self._partition.topic, self._partition.number)
        if (state.track, state.detector_id, state.topic, state.partition) != belongs:
            whose = f"{state.detector_id} on {state.topic}[{state.partition}] ({state.track})"
            raise CheckpointInvalid(f"incidents of {self._partition}: they belong to {whose}")
        if state.open.keys() & state.cooling.keys():
            raise CheckpointInvalid(f"incidents of {self._partition}: an entity is both open and cooling down")
        self._open, self._cooling, self._suppressed_total = state.open, state.cooling, state.suppressed_total
