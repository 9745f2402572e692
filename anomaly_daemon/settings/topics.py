"""What is read and what is written."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from anomaly_daemon.settings.section import Section
from anomaly_daemon.settings.values import KAFKA_NAME, PARTITIONS_MAX, Duration, LimitOrNone, spelled

TopicName = Annotated[str, Field(pattern=f"^{KAFKA_NAME}$")]
_BATCH_INTERVAL_MAX_S = 10.0


class Input(Section):
    """The topics read and the group that reads them."""

    topics: tuple[TopicName, ...] = Field(("readings",), min_length=1, description="Topics to read.")
    group: str = Field("anomaly-daemon", min_length=1, description="Consumer group.")
    member: str | None = Field(
        None,
        min_length=1,
        description="Stable name of this instance in the group, and in its transactional id; default: the host's name.",
    )
    start: Literal["earliest", "latest"] = Field("earliest", description="Where a group that never committed begins.")
    batch_records_max: int = Field(4096, ge=1, le=65536, description="Records of one batch, and so of one transaction, at most.")
    batch_interval: Duration = spelled(
        "50ms",
        "From the begin of one batch to that of the next at least, unless the log is behind: each is a transaction, and costs the broker as much "
        "whether it holds one record or hundreds. A record that comes alone does not wait. 0: none.",
    )
    poll_timeout: Duration = spelled("200ms", "How long a poll waits when there is nothing.")

    @field_validator("batch_interval")
    @classmethod
    def _check(cls, seconds: float) -> float:
        if seconds > _BATCH_INTERVAL_MAX_S:
            raise ValueError(f"at most {_BATCH_INTERVAL_MAX_S:g}s: alerts wait for it, and so do signals and rebalances")
        return seconds


class Output(Section):
    """The topics written."""

    alerts_topic: TopicName = Field("alerts", description="Where incidents are announced.")
    dead_letter_topic: TopicName = Field("dead-letters", description="Where rejected records go, bytes unchanged, reason in the headers.")
    dead_letter_bytes_max: int = Field(
        1_040_000,
        ge=10_000,
        le=64_000_000,
        description=(
            "A longer record is cut in the dead-letter topic, and the header dead_letter.cut says so; it stays whole in the topic read. Below "
            "max.message.bytes of the dead-letter topic, by default 1048588: beyond it the daemon stops at such a record."
        ),
    )


class TopicCreation(Section):
    """Whether missing topics are made."""

    create_topics: bool = Field(False, description="Make missing topics instead of refusing to start.")
    partitions: int = Field(4, ge=1, le=PARTITIONS_MAX, description="Partitions of a topic that is made.")
    retention: LimitOrNone = Field(
        None, description="Records older than this are deleted; Kafka: of a topic that is made. None: kept; Kafka: as the broker has it."
    )
    retention_bytes: int | None = Field(
        None,
        ge=1_000_000,
        description="Beyond this size of a topic the oldest records are deleted; Kafka: of each partition of a topic that is made.",
    )
