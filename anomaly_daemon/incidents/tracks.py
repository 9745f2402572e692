"""What one partition keeps of incidents: a track for readings, one for data quality, one for silence, and the watermark that timers run on."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from anomaly_daemon.domain.entity import Profiles
from anomaly_daemon.domain.errors import CheckpointInvalid
from anomaly_daemon.domain.records import Partition
from anomaly_daemon.incidents.machine import Advance, IncidentMachine, Judged
from anomaly_daemon.incidents.regime import RegimeRule
from anomaly_daemon.incidents.silence import Entry, Silence
from anomaly_daemon.incidents.watermark import Leap, Watermark
from anomaly_daemon.settings import Incidents


class _State(msgspec.Struct, forbid_unknown_fields=True):
    readings: msgspec.Raw
    quality: msgspec.Raw
    recent: dict[str, int]
    silence: list[Entry]
    leap: Leap | None


class Tracks:
    """An entity may be in an incident on each track at once: a pump that vibrates may fall silent, and its clock be ahead."""

    def __init__(
        self, detector_id: str, partition: Partition, profiles: Profiles, rules: Sequence[Incidents], regimes: Sequence[RegimeRule], ttl_us: int
    ) -> None:
        self.readings = IncidentMachine(detector_id, partition, rules, regimes)
        self.quality = IncidentMachine(detector_id, partition, rules, track="quality")
        self.silence = Silence(ttl_us, _limits_us(rules), profiles.index)
        self.watermark = Watermark()
        self._partition = partition
        self._recent: dict[str, int] = {}
        self.silence_us = _shortest(rules)

    @property
    def open_count(self) -> int:
        """Incidents open now."""
        return self.readings.open_count + self.quality.open_count + self.silence.open_count

    @property
    def suppressed_total(self) -> int:
        """Triggers that completed inside a cooldown, over the whole log prefix."""
        return self.readings.suppressed_total + self.quality.suppressed_total

    @property
    def is_quality_calm(self) -> bool:
        """Whether no record of late was at fault: then one that is not changes nothing."""
        return not self._recent and not self.quality.is_busy

    def is_at_fault(self, entity: str) -> bool:
        """Whether the quality track looks at every record of the entity."""
        return entity in self._recent or self.quality.is_tracked(entity)

    def advance_quality(self, entity: str, profile: int, records: Sequence[Judged]) -> Advance:
        """The next records of one entity on the quality track; its history is kept only while it holds a fault."""
        advance = self.quality.advance(entity, profile, self._recent.pop(entity, 0), records)
        if advance.recent:
            self._recent[entity] = advance.recent
        return advance

    def take_rules(self, profiles: Profiles, rules: Sequence[Incidents], regimes: Sequence[RegimeRule]) -> None:
        """Other rules from the next record on."""
        self.readings.take_rules(rules, regimes)
        self.quality.take_rules(rules)
        self.silence.take_rules(_limits_us(rules), profiles.index)
        self.silence_us = _shortest(rules)

    def forget(self, entity: str) -> None:
        """Drop what is kept of an entity's readings and quality; silence is told on its own, in the order of the log."""
        self.readings.forget(entity)
        self.quality.forget(entity)
        self._recent.pop(entity, None)

    def to_bytes(self) -> bytes:
        """The state as canonical JSON: equal states give equal bytes; the watermark itself stands in the checkpoint."""
        recent = dict(sorted(self._recent.items()))
        readings, quality = msgspec.Raw(self.readings.to_bytes()), msgspec.Raw(self.quality.to_bytes())
        return msgspec.json.encode(_State(readings, quality, recent, self.silence.entries(), self.watermark.leap))

    def restore(self, state_bytes: bytes, watermark_us: int | None) -> None:
        """Take over the state of `to_bytes`. Raises CheckpointInvalid when it is damaged or of another partition."""
        try:
            state = msgspec.json.decode(state_bytes, type=_State)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CheckpointInvalid(f"incidents of {self._partition}: not the state of incidents: {error}") from error
        self.readings.restore(bytes(state.readings))
        self.quality.restore(bytes(state.quality))
        self.silence.restore(state.silence)
        self._recent = state.recent
        self.watermark = Watermark(watermark_us, state.leap)


def _limits_us(rules: Sequence[Incidents]) -> list[int | None]:
    return [None if one.silence_after is None else round(one.silence_after * 1e6) for one in rules]


def _shortest(rules: Sequence[Incidents]) -> int | None:
    return min((limit for limit in _limits_us(rules) if limit is not None), default=None)
