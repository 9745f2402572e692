"""Alerts of what is known without a score: that an entity is silent, or that its records are at fault.

The body follows `alert.schema.json` as that of `alerts` does; what only a score has is null.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any, Final

import msgspec

from anomaly_daemon.domain.records import Alert, FeatureReading, Offset, Partition, Status, Transition
from anomaly_daemon.incidents.alerts import SCHEMA_VERSION, AlertContext, fingerprint, made_by, made_of, rfc3339
from anomaly_daemon.incidents.incident import Kind, severity_of
from anomaly_daemon.incidents.silence import SilenceTurn
from anomaly_daemon.incidents.wording import spoken

# Nothing grades what has no score: every silence and every fault is medium.
GRADE: Final = 0.25


@dataclass(frozen=True, slots=True)
class Notice:
    """One turn of such an incident, in words.

    time_us, offset: of the record that made it known. since_us: of the turn before. observations: None where there are none to count.
    """

    transition: Transition
    kind: Kind
    track: str
    incident_id: str
    sequence: int
    entity: str
    offset: Offset
    time_us: int
    since_us: int
    starts_at_us: int
    ends_at_us: int | None
    first_offset: Offset
    last_offset: Offset
    observations: int | None
    message: str
    reasons: tuple[str, ...]
    features: tuple[FeatureReading, ...] = ()
    suppressed: int = 0
    suppression_rule: str | None = None


_ENDINGS: Final = {
    "returned": "a record of it came",
    "expired": "it was silent for longer than engine.entity_ttl",
    "forgotten": "it was forgotten to make room for others (engine.entities_max)",
}


def notice_alert(notice: Notice, context: AlertContext, partition: Partition) -> Alert:
    """The alert of a notice."""
    severity, severity_number = severity_of(GRADE)
    body: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "detector_id": context.detector_id,
        "incident_id": notice.incident_id,
        "sequence": notice.sequence,
        "fingerprint": fingerprint(context.detector_id, notice.entity, notice.track),
        "status": (Status.RESOLVED if notice.transition is Transition.CLOSED else Status.FIRING).value,
        "kind": notice.kind,
        "severity": severity,
        "severity_number": severity_number,
        **dict.fromkeys(("anomaly_score", "anomaly_grade", "confidence", "probability", "threshold", "direction")),
        "entity": notice.entity,
        "data_start_time": rfc3339(notice.since_us),
        "data_end_time": rfc3339(notice.time_us),
        "starts_at": rfc3339(notice.starts_at_us),
        "ends_at": None if notice.ends_at_us is None else rfc3339(notice.ends_at_us),
        "detected_at": None,
        "peak": None,
        "observations": notice.observations,
        "features": [asdict(one) for one in notice.features],
        "channels": [],
        "explanation": {"message": notice.message, "reasons": list(notice.reasons)},
        "window": [],
        "phase": None,
        **made_by(context),
        **made_of(partition, notice.first_offset, notice.last_offset),
        "suppression": {"count": notice.suppressed, "rule": notice.suppression_rule},
    }
    return Alert(partition, notice.offset, notice.entity, notice.incident_id, notice.transition, rfc3339(notice.time_us), body)


def silence_notice(turn: SilenceTurn, offset: Offset, detector_id: str, partition: Partition) -> Notice:
    """What a turn of silence says. offset: of the record that made it known. The incident is named by the last record seen."""
    identity = [detector_id, partition.topic, partition.number, turn.entity, turn.heard.offset, "silence"]
    lasted, heard_at = spoken(turn.now_us - turn.heard.time_us), rfc3339(turn.heard.time_us)
    words = {
        "silent": f"silent for {lasted}, last heard at {heard_at}",
        "returned": f"back after {lasted} of silence",
        "expired": f"silent for {lasted}, longer than engine.entity_ttl: it is not expected any more",
        "forgotten": f"silent for {lasted}, and forgotten to make room for others (engine.entities_max): it is not expected any more",
    }
    last = f"its last record{'' if turn.event == 'silent' else ' before the silence'} is offset {turn.heard.offset}"
    is_open = turn.event == "silent"
    return Notice(
        transition=Transition.OPENED if is_open else Transition.CLOSED,
        kind="silence",
        track="silence",
        incident_id=hashlib.sha256(msgspec.json.encode(identity)).hexdigest()[:16],
        sequence=1 if is_open else 2,
        entity=turn.entity,
        offset=offset,
        time_us=turn.now_us,
        since_us=turn.heard.time_us,
        starts_at_us=turn.heard.time_us,
        ends_at_us=None if is_open else turn.now_us,
        first_offset=turn.heard.offset,
        last_offset=turn.heard.offset,
        observations=None,
        message=f"{turn.entity}: {words[turn.event]}.",
        reasons=(last,) if is_open else (f"silence for {lasted} from {heard_at}", f"closed because {_ENDINGS[turn.event]}", last),
    )
