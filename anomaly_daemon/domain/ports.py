"""The seams: what the pipeline asks of the outside, each with one contract suite that every adapter runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from anomaly_daemon.domain.records import Batch, BatchOutput, Bounds, Checkpoint, Message, Offset, Partition


class Source(Protocol):
    """Where records come from, in offset order per partition."""

    def poll(self, timeout_s: float) -> Batch:
        """Wait up to `timeout_s` for records or partition changes; an empty batch when there are none.

        A partition that a change touches brings no record in the same batch, and none later until `seek`.
        Raises LogUnavailable when the log does not answer.
        """
        ...

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, Offset]:
        """The next offset that the group has to process, of those partitions that it ever committed; of none without a group."""
        ...

    def bounds(self, partitions: Sequence[Partition]) -> dict[Partition, Bounds]:
        """What each partition retains now."""
        ...

    def offsets_at(self, partitions: Sequence[Partition], time_ms: int) -> dict[Partition, Offset]:
        """The first offset of each whose timestamp is not before; its end where there is none. Of files, timestamp is the event time."""
        ...

    def positions(self) -> dict[Partition, Offset]:
        """The next offset that `poll` will bring of each owned partition; offsets that hold no record are passed over."""
        ...

    def seek(self, partition: Partition, offset: Offset) -> None:
        """Make `offset` the next one that `poll` brings of an owned partition."""
        ...

    def close(self) -> None:
        """Leave the group and let go of every resource; may be called twice."""
        ...


class Sink(Protocol):
    """Where the effects of a batch go."""

    def commit(self, output: BatchOutput) -> None:
        """Apply messages and offsets, all or nothing, durably.

        Raises CommitFailed (outcome unknown or fenced by a newer generation: recover), LogUnavailable or Fenced.
        """
        ...

    def close(self) -> None:
        """Let go of every resource; may be called twice."""
        ...


class Topics(Protocol):
    """The administrative side of a log: used by check, load, simulate and at start."""

    def log_id(self) -> str:
        """What tells this log from any other, and stays as it is: letters, digits, hyphens and underscores."""
        ...

    def partitions(self, topics: Sequence[str]) -> dict[str, int]:
        """Partition count of those topics that exist."""
        ...

    def create(self, topic: str, partitions: int) -> None:
        """Create a topic; nothing happens when it exists."""
        ...

    def kept_s(self, topic: str) -> float | None:
        """For how long after its timestamp the topic keeps a record; None: for ever, or nobody may know."""
        ...

    def is_compacted(self, topic: str) -> bool:
        """Whether records give way to later ones of their key; False too where nobody may know."""
        ...

    def append(self, messages: Iterable[Message]) -> int:
        """Append outside any group, in order, durably; returns how many. Raises TopicError where a topic is missing."""
        ...

    def close(self) -> None:
        """Let go of every resource; may be called twice."""
        ...


class CheckpointStore(Protocol):
    """Keeps the last checkpoints of each partition: a cache of the log, so losing it costs only time."""

    def save(self, checkpoint: Checkpoint) -> None:
        """Write durably, atomically, and prune older ones beyond the number kept."""
        ...

    def load(self, partition: Partition, fingerprint: str, not_after: Offset) -> Checkpoint | None:
        """The newest valid checkpoint of this fingerprint with offset ≤ not_after; invalid ones are told and passed over."""
        ...

    def load_rules(self, partition: Partition) -> list[tuple[Offset, str]]:
        """The rules noted beside them, lowest offset first: from that offset on, those of that text. Raises OSError."""
        ...

    def save_rules(self, partition: Partition, entries: Sequence[tuple[Offset, str]]) -> None:
        """Replace them, durably and at once. Raises OSError."""
        ...

    def forget_after(self, partition: Partition, offset: Offset, is_wanted: Callable[[], bool]) -> None:
        """Remove those of a higher offset, and say so: they are of a log that went back, as to a backup, and may tell of other records.

        is_wanted: asked when they are found, before any is removed.
        """
        ...


class Clock(Protocol):
    """For waiting and telemetry only: decisions use event time."""

    def monotonic_s(self) -> float:
        """Seconds on a clock that never goes back."""
        ...

    def now_us(self) -> int:
        """Microseconds since 1970 UTC."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class ScoreExport(Protocol):
    """Takes each committed batch's scores, in order."""

    def begin(self, partition: Partition, offset: Offset) -> None:
        """The first offset of a partition whose row is wanted; a later call for the same partition changes nothing before `end`."""
        ...

    def end(self, partition: Partition) -> None:
        """The partition goes to another member, whose rows are not wanted should it come back."""
        ...

    def write(self, output: BatchOutput) -> None:
        """Append the rows of a batch that are wanted and not there yet: after a recovery some come a second time.

        Raises StopAtOnce when rows taken before could not be stored.
        """
        ...

    def close(self) -> None:
        """Finish the file; may be called twice. Raises StopAtOnce when rows that were taken are not in it and nobody was told."""
        ...
