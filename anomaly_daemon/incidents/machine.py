"""From verdicts to incidents: opens, updates and closes them, one machine per partition and track, pure and by event time only.

It stands between the engine, which judges observations, and `alerts`, which words what is announced. Every decision about an
entity follows from that entity's own observations in log order, so cutting the log into other batches changes nothing.
Memory: one entry per entity that has an open incident, cools down, or is owed a count of suppressed triggers; never more
than the partition has entities, because whoever drops an entity calls `forget`.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from anomaly_daemon.domain.errors import CheckpointInvalid
from anomaly_daemon.domain.records import Partition, Transition
from anomaly_daemon.incidents.incident import Judged, OpenIncident, Turn, open_incident
from anomaly_daemon.incidents.regime import HISTORY, IDENTITY, Effect, RegimeChange, RegimeChanges, RegimeRule
from anomaly_daemon.settings import Incidents, format_duration

__all__ = ["Advance", "IncidentMachine", "Judged", "Turn", "aged", "push"]

RECENT_MASK = (1 << HISTORY) - 1
FORMAT = 3
Track = Literal["readings", "quality"]


@dataclass(frozen=True, slots=True)
class Advance:
    """What some observations of one entity led to.

    recent:       the entity's history of verdicts after them.
    incident_ids: parallel to the observations taken, from the opening to the closing one inclusive; None outside an incident.
    effect:       of the last observation taken; those after it wait until that is done to the entity. None: all are taken.
    """

    turns: list[Turn]
    recent: int
    incident_ids: list[str | None]
    effect: Effect | None = None


class _Cooling(msgspec.Struct, forbid_unknown_fields=True):
    """After a close: cooling until this event time, None once that is past and only the count is owed to the next opening."""

    until_us: int | None
    suppressed: int


@dataclass(frozen=True, slots=True)
class Kept:
    """What a machine knows of one entity, to be put back."""

    open: OpenIncident | None
    cooling: _Cooling | None
    change: RegimeChange | None
    suppressed_total: int


class _State(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    track: Track
    detector_id: str
    topic: str
    partition: int
    suppressed_total: int
    open: dict[str, OpenIncident]
    cooling: dict[str, _Cooling]
    changes: dict[str, RegimeChange]


@dataclass(frozen=True, slots=True)
class _Rule:
    """One profile's settings, ready for arithmetic on bits and microseconds."""

    trigger_count: int
    trigger_mask: int
    recovery_count: int
    recovery_of: int
    recovery_text: str
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
            recovery_text=f"{settings.recovery.count} of the last {settings.recovery.of}",
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
    return aged(recent, 1) | is_anomaly


def aged(recent: int, observations: int) -> int:
    """The history after so many normal verdicts more."""
    return (recent << min(observations, HISTORY)) & RECENT_MASK


class IncidentMachine:
    """The incidents of one partition on one track: of readings, whose verdicts are the judge's, or of quality, whose anomalies are faults.

    The observations of an entity that is tracked, or of which one is anomalous, must pass through `advance`; for the others nothing changes but that
    their history is `aged`.
    """

    def __init__(
        self, detector_id: str, partition: Partition, rules: Sequence[Incidents], regimes: Sequence[RegimeRule] = (), track: Track = "readings"
    ) -> None:
        """regimes: by profile, as `rules`; without them no change is looked for."""
        self._track: Track = track
        self._detector_id = detector_id
        self._partition = partition
        self._rules = [_Rule.of(settings) for settings in rules]
        self._open: dict[str, OpenIncident] = {}
        self._cooling: dict[str, _Cooling] = {}
        self.regimes = RegimeChanges(lambda entity, offset: self._identify(entity, offset, IDENTITY), regimes)
        self._suppressed_total = 0

    @property
    def open_count(self) -> int:
        """Incidents open now, lasting changes among them."""
        return len(self._open) + len(self.regimes.by_entity)

    @property
    def is_busy(self) -> bool:
        """Whether any entity is tracked."""
        return bool(self._open or self._cooling or self.regimes.by_entity)

    @property
    def suppressed_total(self) -> int:
        """Triggers that completed inside a cooldown, over the whole log prefix."""
        return self._suppressed_total

    def is_tracked(self, entity: str) -> bool:
        """Whether the entity has an open incident or change, cools down, or is owed a count of suppressed triggers."""
        return entity in self._open or entity in self._cooling or entity in self.regimes.by_entity

    def take_rules(self, rules: Sequence[Incidents], regimes: Sequence[RegimeRule] = ()) -> None:
        """Other rules from the next observation on; a cooldown under way keeps its end."""
        self._rules = [_Rule.of(settings) for settings in rules]
        self.regimes.rules = regimes

    def kept(self, entity: str) -> Kept:
        """What `put_back` brings back."""
        return Kept(copy.copy(self._open.get(entity)), copy.copy(self._cooling.get(entity)), self.regimes.kept(entity), self._suppressed_total)

    def put_back(self, entity: str, kept: Kept) -> None:
        """The entity as it was; of several in the reverse of the order in which they were advanced."""
        self.forget(entity)
        if kept.open is not None:
            self._open[entity] = kept.open
        if kept.cooling is not None:
            self._cooling[entity] = kept.cooling
        if kept.change is not None:
            self.regimes.by_entity[entity] = kept.change
        self._suppressed_total = kept.suppressed_total

    def forget(self, entity: str) -> None:
        """Drop what is kept of an entity, an open incident too, without a turn."""
        self._open.pop(entity, None)
        self._cooling.pop(entity, None)
        self.regimes.by_entity.pop(entity, None)

    def advance(self, entity: str, profile: int, recent: int, observations: Sequence[Judged]) -> Advance:
        """Take the next observations of one entity, in log order, under the rules of its profile.

        A close empties `recent`: what one incident was made of does not open the next. Where a lasting change has an effect on the entity it
        stops after that observation.
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
            decision = self.regimes.follow(entity, profile, at, recent, self._open.get(entity), rule.is_recovered) if at.is_judged else None
            if decision is None:
                continue
            turns.append(decision.turn)
            if decision.effect is Effect.RESTARTS:
                turns.append(self._open.pop(entity).announce(Transition.CLOSED, entity, at, None, decision.remark))
                recent = 0
            if decision.effect is not None:
                return Advance(turns, recent, incident_ids, decision.effect)
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
        incident_id = self._identify(entity, at.offset, self._track)
        incident = open_incident(incident_id, at, recent & rule.trigger_mask, owed.suppressed if owed is not None else 0)
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
        return incident.announce(Transition.CLOSED, entity, at, rule.cooldown_text, recovery=rule.recovery_text)

    def _identify(self, entity: str, offset: int, track: str) -> str:
        """The same id in every replay of the log."""
        identity = [self._detector_id, self._partition.topic, self._partition.number, entity, offset]
        identity += [] if track == "readings" else [track]
        return hashlib.sha256(msgspec.json.encode(identity)).hexdigest()[:16]

    def to_bytes(self) -> bytes:
        """The state as canonical JSON: equal states give equal bytes."""
        belongs = (self._track, self._detector_id, self._partition.topic, self._partition.number)
        state = _State(FORMAT, *belongs, self._suppressed_total, self._open, self._cooling, self.regimes.by_entity)
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
        if any(not change.is_accepted and entity not in state.open for entity, change in state.changes.items()):
            raise CheckpointInvalid(f"incidents of {self._partition}: a change is held without an open incident")
        self._open, self._cooling, self.regimes.by_entity = state.open, state.cooling, state.changes
        self._suppressed_total = state.suppressed_total
