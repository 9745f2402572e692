"""Changes that last: when an incident is no fault any more but how the entity lives now, and what becomes of it then.

It stands beside the incidents of one partition, pure and by event time only. An incident that has lasted for `regime.after` and is still
anomalous for the most part is announced as one `regime_change`. Held, the entity keeps alarming and learns nothing until the incident
recovers; accepted, the incident closes and the entity starts anew with its next record. Memory: one entry per announced change that
is not over yet.
"""

from __future__ import annotations

import copy
import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from anomaly_daemon.domain.records import Transition
from anomaly_daemon.incidents.incident import Judged, OpenIncident, Turn, is_back
from anomaly_daemon.settings import Regime, format_duration

HISTORY = 63
OBSERVATIONS_MIN = 8  # fewer say nothing of what lasts, however far apart they come
IDENTITY = "regime_change"


class Effect(enum.Enum):
    """What a decision does to its entity from the next record on: it learns nothing, learns again, or starts anew."""

    FREEZES = "freezes"
    THAWS = "thaws"
    RESTARTS = "restarts"


@dataclass(frozen=True, slots=True)
class RegimeRule:
    """One profile's settings, ready for arithmetic. is_reversible: whether what an entity learned can be held still, and begun anew."""

    policy: Literal["hold", "accept", "ask"]
    after_us: int | None
    after_text: str
    share: float
    is_reversible: bool

    @classmethod
    def of(cls, settings: Regime, *, is_reversible: bool) -> RegimeRule:
        """The rule of these settings."""
        after_us, text = (None, "") if settings.after is None else (round(settings.after * 1e6), format_duration(settings.after))
        return cls(settings.policy, after_us, text, settings.share, is_reversible)

    def is_sustained(self, incident: OpenIncident, at: Judged, recent: int) -> bool:
        """Whether an incident has lasted, and is as anomalous now as it was: the share over all of it and over its newest observations."""
        if self.after_us is None or at.time_us - incident.starts_at_us < self.after_us or incident.observations < OBSERVATIONS_MIN:
            return False
        newest = min(HISTORY, incident.observations)
        share = min(incident.anomalies / incident.observations, (recent & ((1 << newest) - 1)).bit_count() / newest)
        return share >= self.share


class RegimeChange(msgspec.Struct, forbid_unknown_fields=True):
    """What is kept of an announced change. incident: the one that lasts, under the change's own id.

    is_accepted: the entity started anew, and `settled` counts what was judged outside an incident since; else the change is held.
    """

    incident: OpenIncident
    is_accepted: bool
    is_frozen: bool
    settled: int


@dataclass(frozen=True, slots=True)
class Decision:
    """A turn of a change. remark: why the incident closes where the entity starts anew. effect: None where only something is said."""

    turn: Turn
    effect: Effect | None = None
    remark: str | None = None


class RegimeChanges:
    """The changes of one partition. identify: (entity, offset of the incident's opening record) → the change's id."""

    def __init__(self, identify: Callable[[str, int], str], rules: Sequence[RegimeRule]) -> None:
        self._identify = identify
        self.rules = rules
        self.by_entity: dict[str, RegimeChange] = {}

    def is_restarted(self, entity: str) -> bool:
        """Whether the entity started anew and is not settled yet: held against the priors, its new level would be strange again."""
        change = self.by_entity.get(entity)
        return change is not None and change.is_accepted

    def is_frozen(self, entity: str) -> bool:
        """Whether the entity learns nothing at present."""
        change = self.by_entity.get(entity)
        return change is not None and change.is_frozen

    def kept(self, entity: str) -> RegimeChange | None:
        """A copy of what is kept of an entity."""
        return copy.deepcopy(self.by_entity.get(entity))

    def follow(
        self,
        entity: str,
        profile: int,
        at: Judged,
        recent: int,
        incident: OpenIncident | None,
        is_recovered: Callable[[int, int], bool],
    ) -> Decision | None:
        """Take a judged observation, after the incident took it. incident: the one that is open now. is_recovered: see the incident's rule."""
        change = self.by_entity.get(entity)
        if incident is not None:
            if change is not None and not change.is_accepted:
                change.incident.observations += 1
                if at.is_anomaly:
                    change.incident.absorb(at)
            if at.is_anomaly and self.rules and self.rules[profile].is_sustained(incident, at, recent):
                return self._lasts(entity, change, self.rules[profile], at, incident)
            return None
        if change is None:
            return None
        if not change.is_accepted:
            is_known = change.is_frozen and is_back(at.anomaly_score, change.incident.threshold, change.incident.peak_score)
            over = "over: as before the change" if is_known else "over: no longer beyond the threshold"
            return self._end(entity, change, at, over, Effect.THAWS if change.is_frozen else None)
        change.settled += 1
        if at.is_anomaly or not is_recovered(recent, change.settled):
            return None
        return self._end(entity, change, at, "settled: the entity started anew and is normal by what it showed since")

    def _lasts(self, entity: str, change: RegimeChange | None, rule: RegimeRule, at: Judged, incident: OpenIncident) -> Decision | None:
        """The incident lasts: that is said once, and again when the answer is another."""
        is_accepted = rule.policy == "accept"
        if change is not None and not change.is_accepted and not is_accepted:
            return None
        told = msgspec.structs.replace(
            incident,
            incident_id=self._identify(entity, incident.first_offset) if change is None else change.incident.incident_id,
            sequence=0 if change is None else change.incident.sequence,
            starts_at_us=incident.starts_at_us if change is None else change.incident.starts_at_us,
            first_offset=incident.first_offset if change is None else change.incident.first_offset,
        )
        is_frozen = rule.is_reversible and not is_accepted
        self.by_entity[entity] = RegimeChange(told, is_accepted, is_frozen, 0)
        transition = Transition.OPENED if change is None else Transition.UPDATED
        lasted = f"has lasted for {rule.after_text} and more"
        turn = told.announce(transition, entity, at, None, f"{lasted}; {_CONSEQUENCES[rule.policy]}")
        effect = Effect.RESTARTS if is_accepted else Effect.FREEZES if is_frozen else None
        return Decision(replace(turn, kind="regime_change"), effect, f"{lasted} and is accepted as the new normal" if is_accepted else None)

    def _end(self, entity: str, change: RegimeChange, at: Judged, remark: str, effect: Effect | None = None) -> Decision:
        del self.by_entity[entity]
        turn = change.incident.announce(Transition.CLOSED, entity, at, None, remark)
        return Decision(replace(turn, kind="regime_change"), effect)


_CONSEQUENCES: Mapping[str, str] = {
    "hold": "held: the entity keeps alarming and learns nothing until it is as before (regime.policy: hold)",
    "accept": "accepted: the entity starts anew, and what it shows from now on is its normal (regime.policy: accept)",
    "ask": (
        "held until it is answered: an override for this entity with `regime: {policy: accept}` makes it the new normal, "
        "with `{policy: hold}` it keeps alarming; then reload the settings"
    ),
}
