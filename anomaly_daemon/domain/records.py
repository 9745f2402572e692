"""What travels, in travel order: record, observation, score, incident, alert, batch output.

Anything there are thousands of per batch is a column (struct of arrays); anything there are few of is a frozen row.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Headers = tuple[tuple[str, bytes], ...]
Offset = int


@dataclass(frozen=True, slots=True, order=True)
class Partition:
    """One partition of a topic: the unit of order, of ownership and of state."""

    topic: str
    number: int
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Every record is looked up by its partition: its hash is worked out once."""
        object.__setattr__(self, "_hash", hash((self.topic, self.number)))

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        return f"{self.topic}[{self.number}]"


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record as the log holds it. A msgspec struct: made once per record, five times faster than a dataclass."""

    partition: Partition
    offset: Offset
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Message(msgspec.Struct, frozen=True, gc=False):
    """One record to be appended to a topic; `partition_number` None lets the log choose by key."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int | None = None
    partition_number: int | None = None


class ChangeKind(enum.Enum):
    """What happened to the ownership of partitions."""

    ASSIGNED = "assigned"
    REVOKED = "revoked"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class PartitionChange:
    """A fact about ownership, in the order it happened."""

    kind: ChangeKind
    partitions: tuple[Partition, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """What one poll brought.

    changes: to be handled before the records. The records hold none of a partition that these changes touch.
    lease:   the source's proof of membership, taken before the poll; opaque, handed back with the commit.
    is_last: what is left in the log would not fill another batch; False where the source cannot say.
    """

    records: Sequence[Record] = ()
    changes: tuple[PartitionChange, ...] = ()
    lease: object | None = None
    is_last: bool = False


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a partition retains: offsets `earliest` ≤ o < `end`.

    held_back: where the log ends with what open transactions keep from being read; None where there are none.
    """

    earliest: Offset
    end: Offset
    held_back: Offset | None = None


class Reason(enum.Enum):
    """Why a record was rejected. Closed: metrics and dead letters use these words and no others."""

    TOMBSTONE = "tombstone"
    OVERSIZED = "oversized"
    ENCODING = "encoding"
    MALFORMED_JSON = "malformed_json"
    SCHEMA = "schema"
    ENTITY_MISSING = "entity_missing"
    ENTITY_INVALID = "entity_invalid"
    TIME_MISSING = "time_missing"
    TIME_INVALID = "time_invalid"
    TIME_OUT_OF_RANGE = "time_out_of_range"
    FEATURE_TYPE = "feature_type"
    FEATURE_OUT_OF_RANGE = "feature_out_of_range"
    FEATURES_MISSING = "features_missing"


@dataclass(frozen=True, slots=True)
class Rejection:
    """A record that cannot be judged, why, and a sentence for whoever mends it."""

    record: Record
    reason: Reason
    detail: str


DEAD_LETTER = "dead_letter."  # what the headers begin with that a dead letter bears beside the record's own


class Fault(enum.Enum):
    """What is wrong with a record as a record. Closed: alerts use these words and no others."""

    CLOCK_SKEW = "clock_skew"
    LATE = "late"
    STUCK = "stuck"
    OUT_OF_RANGE = "out_of_range"


@dataclass(frozen=True, slots=True)
class Observations:
    """The accepted records of a batch, in log order; N rows.

    times_us:   int64 [N], event time, microseconds since 1970 UTC.
    readings:   float64 [N, numbers], the number fields as sent, in the order of the settings; NaN = missing.
    categories: int64 [N, categories], a stable 63-bit hash of each category field; 0 = missing.
    """

    records: list[Record]
    entities: list[str]
    times_us: NDArray[np.int64]
    readings: NDArray[np.float64]
    categories: NDArray[np.int64]


class Phase(enum.IntEnum):
    """Whether an entity's own statistics are calibrated yet; in warm-up what training saw counts too."""

    WARMUP = 0
    LIVE = 1


@dataclass(frozen=True, slots=True)
class Scores:
    """What was known of each observation when it was judged; N rows in log order, all float64 unless said.

    anomaly_score [0, 1]; tail_probability (0, 1] of a normal record scoring as high; threshold on the scale of
    anomaly_score; is_anomaly bool; grade float64 0–1, how far beyond the threshold; phase int8 (`Phase`);
    deviations of the log score above its mean, anomalous where above the entity's z, −inf where it is held back at any; NaN in a silent
    warm-up, or where the method knows none;
    evidence: one column per channel, raw (before calibration), NaN where the channel had nothing to say.
    """

    anomaly_score: NDArray[np.float64]
    tail_probability: NDArray[np.float64]
    threshold: NDArray[np.float64]
    is_anomaly: NDArray[np.bool_]
    grade: NDArray[np.float64]
    phase: NDArray[np.int8]
    deviations: NDArray[np.float64]
    evidence: Mapping[str, NDArray[np.float64]]


class Status(enum.Enum):
    """Whether an incident goes on."""

    FIRING = "firing"
    RESOLVED = "resolved"


class Transition(enum.Enum):
    """What an alert announces; the value is the CloudEvents type's last part."""

    OPENED = "opened"
    UPDATED = "updated"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class FeatureReading:
    """One feature at the alert's record: what it was, what was expected, and its share of the evidence.

    actual, expected, lower, upper are in the unit of the settings' feature (after its kind's transform); None = missing.
    """

    feature: str
    actual: float | None
    expected: float | None
    lower: float | None
    upper: float | None
    contribution: float
    imputed: bool


@dataclass(frozen=True, slots=True)
class ChannelShare:
    """What one channel of evidence had to say at the alert's record: its share of the fused score."""

    channel: str
    contribution: float


@dataclass(frozen=True, slots=True)
class WindowPoint:
    """One recent point: actual and reconstructed value per feature, in the order of the alert's features.

    steps_back: observations of the entity before the alert's own record, which is 0. The times of earlier ones are not kept.
    """

    steps_back: int
    actual: tuple[float | None, ...]
    reconstructed: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Alert:
    """One transition of an incident, as published. `body` is the JSON object of `alert.schema.json`.

    offset: of the record that caused the transition, in `partition`: the alert is said once, when that offset is committed.
    """

    partition: Partition
    offset: Offset
    entity: str
    incident_id: str
    transition: Transition
    time: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ScoredBatch:
    """The rows of exported scores: one per record in log order, rejected records included (their numbers are NaN).

    incident_ids: parallel to `observations`; None outside an incident. dropped: of entities that nobody asked for; they have no row.
    """

    observations: Observations
    scores: Scores
    incident_ids: list[str | None]
    rejections: tuple[Rejection, ...]
    dropped: Sequence[Record] = ()


@dataclass(frozen=True, slots=True)
class BatchOutput:
    """All effects of a batch: messages (alerts and dead letters) and offsets, applied in one atomic call.

    next_offsets: per partition the next offset to read, never the last one read. alerts, rejections: what the messages tell.
    """

    messages: tuple[Message, ...] = ()
    next_offsets: Mapping[Partition, Offset] = field(default_factory=dict)
    lease: object | None = None
    alerts: tuple[Alert, ...] = ()
    rejections: tuple[Rejection, ...] = ()
    scored: ScoredBatch | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of one partition after every record before `offset`.

    fingerprint: of the model and of the settings that shape state; a checkpoint of another one is not used.
    entities:    least recently seen first; row i of every column belongs to entities[i].
    columns:     name → [entities, …].
    incidents:   JSON bytes of the incident machine's state for this partition.
    watermark_us: the largest event time seen; None before the first record.
    budget:      JSON bytes of where the z stands that meets alerts per day; empty where they are not asked for.
    """

    partition: Partition
    offset: Offset
    fingerprint: str
    entities: list[str]
    columns: Mapping[str, NDArray[Any]]
    incidents: bytes
    watermark_us: int | None
    budget: bytes = b""
