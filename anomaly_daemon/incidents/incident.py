"""One incident: what it has shown so far and how it announces itself. `incidents` decides when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from anomaly_daemon.domain.records import Fault, Offset, Transition

Kind = Literal["point", "collective", "level_shift", "regime_change", "silence", "data_quality"]
OF_READINGS: Final[tuple[Kind, ...]] = ("point", "collective", "level_shift")
Severity = Literal["low", "medium", "high", "critical"]

POINT_ANOMALIES_MAX = 3
# A single wild value keeps an average over 30 observations, the longest of a chart's by default, away from its place for about so many.
SHIFT_ANOMALIES_MIN = 30

# Lower bound of the peak grade, the word, and OpenTelemetry's severity number: FATAL, ERROR, WARN3, WARN.
SEVERITIES: tuple[tuple[float, Severity, int], ...] = ((0.75, "critical", 21), (0.5, "high", 17), (0.25, "medium", 15), (0.0, "low", 13))


@dataclass(frozen=True, slots=True)
class Judged:
    """What was decided of one observation, in Python's own numbers, all finite where it is judged.

    is_judged: False in a silent warm-up; such an observation neither opens, feeds nor closes anything.
    evidence:  the fused score; chart_evidence: what of it the control charts added.
    faults:    on the quality track: what makes it anomalous there.
    """

    offset: Offset
    time_us: int
    is_anomaly: bool
    is_judged: bool
    anomaly_score: float
    tail_probability: float
    threshold: float
    grade: float
    evidence: float = 0.0
    chart_evidence: float = 0.0
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """One transition of an incident, as it stands at the observation `at`.

    sequence:         1 when it opens, one more with every turn.
    since_us:         event time of the observation of the turn before; of this one when it opens.
    first_offset, starts_at_us: of the opening observation, the one that completed the trigger window.
    last_offset:      of the last anomalous observation.
    ends_at_us:       closed only: latest event time of an anomalous observation; the recovery after it is our doubt, not the anomaly.
    peak_*:           of the anomalous observation with the highest score; peak_probability the smallest tail probability of any.
    observations, anomalies: judged since the trigger window's first anomaly, that window included.
    kind:             point up to three anomalous observations, then collective; level_shift where the charts say most of it and it lasts.
    severity:         by the highest grade so far.
    suppressed:       triggers that completed during the cooldown before it opened.
    suppression_rule: the cooldown in force, for a person; None where there is none.
    remark:           what a person should know beside the numbers; None where there is nothing.
    recovery:         of a close by recovery: what it took, such as `10 of the last 10`.
    opened_threshold: the threshold at the opening observation.
    faults:           on the quality track: all that it has shown.
    """

    transition: Transition
    incident_id: str
    sequence: int
    entity: str
    at: Judged
    since_us: int
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
    suppression_rule: str | None
    remark: str | None = None
    recovery: str | None = None
    opened_threshold: float = 0.0
    faults: tuple[Fault, ...] = ()

    @property
    def is_back(self) -> bool:
        """See `is_back`."""
        return is_back(self.at.anomaly_score, self.opened_threshold, self.peak_score)


class OpenIncident(msgspec.Struct, forbid_unknown_fields=True):
    """What is kept of an open incident; `announced_*` are of its last turn, `since_opening` counts judged observations after the opening one.

    evidence, chart_evidence: summed over its anomalous observations from the opening one on. threshold: at the opening one.
    """

    incident_id: str
    sequence: int
    threshold: float
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
    evidence: float
    chart_evidence: float
    faults: tuple[Fault, ...] = ()

    @property
    def kind(self) -> Kind:
        """What it has grown to."""
        if self.faults:
            return "data_quality"
        if self.anomalies <= POINT_ANOMALIES_MAX:
            return "point"
        return "level_shift" if self.anomalies >= SHIFT_ANOMALIES_MIN and self.chart_evidence > self.evidence / 2 else "collective"

    def absorb(self, at: Judged) -> None:
        """Add an anomalous observation to what the incident has shown."""
        self.anomalies += 1
        self.evidence += at.evidence
        self.chart_evidence += at.chart_evidence
        self.faults += tuple(fault for fault in at.faults if fault not in self.faults)
        self.last_offset = at.offset
        self.last_anomaly_us = max(self.last_anomaly_us, at.time_us)
        self.peak_grade = max(self.peak_grade, at.grade)
        self.peak_probability = min(self.peak_probability, at.tail_probability)
        if at.anomaly_score > self.peak_score:
            self.peak_score, self.peak_time_us, self.peak_offset = at.anomaly_score, at.time_us, at.offset

    def is_worse_than_announced(self) -> bool:
        """Whether its severity has risen since the last turn."""
        return severity_of(self.peak_grade)[1] > self.announced_severity

    def announce(
        self,
        transition: Transition,
        entity: str,
        at: Judged,
        suppression_rule: str | None,
        remark: str | None = None,
        recovery: str | None = None,
    ) -> Turn:
        """The incident's next turn, of which it takes note."""
        severity, severity_number = severity_of(self.peak_grade)
        since_us = min(self.announced_us, at.time_us)
        self.sequence += 1
        self.announced_us, self.announced_severity = at.time_us, severity_number
        return Turn(
            transition=transition,
            incident_id=self.incident_id,
            sequence=self.sequence,
            entity=entity,
            at=at,
            since_us=since_us,
            first_offset=self.first_offset,
            last_offset=self.last_offset,
            starts_at_us=self.starts_at_us,
            ends_at_us=self.last_anomaly_us if transition is Transition.CLOSED else None,
            peak_score=self.peak_score,
            peak_time_us=self.peak_time_us,
            peak_offset=self.peak_offset,
            peak_probability=self.peak_probability,
            observations=self.observations,
            anomalies=self.anomalies,
            kind=self.kind,
            severity=severity,
            severity_number=severity_number,
            suppressed=self.suppressed,
            suppression_rule=suppression_rule,
            remark=remark,
            recovery=recovery,
            opened_threshold=self.threshold,
            faults=self.faults,
        )


def is_back(score: float, threshold: float, peak: float) -> bool:
    """Whether a score is nearer to the threshold that was exceeded than to the peak, on a logarithmic scale of s; all s / (1 + s).

    A threshold that learned a lasting change lets through scores near the peak; the averages of a chart take a while to come back whole.
    """
    return score <= threshold or (score < 1 and score**2 * (1 - threshold) * (1 - peak) <= threshold * peak * (1 - score) ** 2)


def severity_of(grade: float) -> tuple[Severity, int]:
    """The word for a peak grade, and OpenTelemetry's severity number."""
    return next(((word, number) for bound, word, number in SEVERITIES if grade >= bound), SEVERITIES[-1][1:])


def open_incident(incident_id: str, at: Judged, trigger_bits: int, suppressed: int) -> OpenIncident:
    """The incident that `at` opens, not announced yet.

    trigger_bits: verdicts of the trigger window, newest in bit 0; the leading set bit is its first anomaly.
    """
    return OpenIncident(
        incident_id=incident_id,
        sequence=0,
        threshold=at.threshold,
        first_offset=at.offset,
        last_offset=at.offset,
        starts_at_us=at.time_us,
        last_anomaly_us=at.time_us,
        peak_score=at.anomaly_score,
        peak_time_us=at.time_us,
        peak_offset=at.offset,
        peak_probability=at.tail_probability,
        peak_grade=at.grade,
        observations=trigger_bits.bit_length(),
        anomalies=trigger_bits.bit_count(),
        since_opening=0,
        announced_us=at.time_us,
        announced_severity=0,
        suppressed=suppressed,
        evidence=at.evidence,
        chart_evidence=at.chart_evidence,
        faults=at.faults,
    )
