"""When a partition's state is saved, and how without holding the loop up: one partition at a time, some rows a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from anomaly_daemon.domain.ports import Clock
from anomaly_daemon.domain.records import Checkpoint, Offset, Partition
from anomaly_daemon.pipeline.process import Processor
from anomaly_daemon.state.snapshot import Snapshot

_ROWS_COPIED_A_STEP = 4096


class Checkpointer(Protocol):
    """Saves checkpoints beside the loop."""

    def save(self, checkpoint: Checkpoint) -> bool:
        """Start writing; False when an earlier one of this partition is still being written."""
        ...

    def load(self, partition: Partition, fingerprint: str, not_after: Offset) -> Checkpoint | None:
        """The newest valid checkpoint at or before an offset."""
        ...

    def flush(self, timeout_s: float) -> None:
        """Wait until everything handed in is written."""
        ...


class Saving:
    """The checkpoints of the partitions at hand. A partition is saved only where its state is that of its committed offset."""

    def __init__(self, processor: Processor, checkpoints: Checkpointer, clock: Clock, fingerprint: str, every_s: float) -> None:
        self._processor, self._checkpoints, self._clock, self._fingerprint = processor, checkpoints, clock, fingerprint
        self.every_s = every_s
        self._due_s: dict[Partition, float] = {}
        self._copying: tuple[Checkpoint, Snapshot] | None = None

    def begin(self, partition: Partition) -> None:
        """The partition's state is in place: its first checkpoint is due one period from now."""
        self.stop_copying(partition)
        self._due_s[partition] = self._clock.monotonic_s() + self.every_s

    def forget(self, partition: Partition) -> None:
        """The partition is no longer at hand."""
        self.stop_copying(partition)
        self._due_s.pop(partition, None)

    def stop_copying(self, partition: Partition) -> None:
        """What is copied of this partition is whole, or no longer wanted."""
        if self._copying is not None and self._copying[0].partition == partition:
            self._processor.close_snapshot(partition)
            self._copying = None

    def step(self, caught_up: Mapping[Partition, Offset]) -> None:
        """Between two batches: go on with the one under way, or begin with the one due for longest. caught_up: partition → its offset."""
        if self._copying is None:
            self._open_due(caught_up)
        if self._copying is None:
            return
        checkpoint, rows = self._copying
        rows.copy(_ROWS_COPIED_A_STEP)
        if rows.is_whole and self._checkpoints.save(checkpoint):
            self.stop_copying(checkpoint.partition)

    def save_now(self, partition: Partition, offset: Offset) -> None:
        """At once and whole, before the partition goes."""
        self.stop_copying(partition)
        self._checkpoints.save(self._processor.snapshot(partition, offset, self._fingerprint))

    def _open_due(self, caught_up: Mapping[Partition, Offset]) -> None:
        now_s = self._clock.monotonic_s()
        for partition in sorted(self._due_s, key=self._due_s.__getitem__):
            if now_s < self._due_s[partition]:
                return
            if partition in caught_up:
                self._due_s[partition] = now_s + self.every_s
                self._copying = self._processor.open_snapshot(partition, caught_up[partition], self._fingerprint)
                return
