"""The one recovery path, of crash, rebalance, failed commit and restart: the newest valid checkpoint S ≤ committed C, then S..C without effects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import structlog

from anomaly_daemon.domain.errors import CheckpointInvalid, LogCorrupt, LogUnavailable
from anomaly_daemon.domain.ports import Clock, Source
from anomaly_daemon.domain.records import Bounds, Offset, Partition
from anomaly_daemon.pipeline.process import Processor
from anomaly_daemon.pipeline.rule_book import RuleBook
from anomaly_daemon.pipeline.saving import Checkpointer
from anomaly_daemon.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)

# Longer than any broker tells an end that is not its log's any more.
_OLD_END_S = 60.0


@dataclass(frozen=True, slots=True)
class Recovered:
    """Where a partition stands: from `start` on records are processed, from `committed` on with effects, and it ended at `end`.

    is_first: the group never committed it.
    """

    start: Offset
    committed: Offset
    end: Offset
    is_first: bool


class Recovery:
    """Puts the state of partitions in place and the source where their records are to be processed from."""

    def __init__(
        self,
        source: Source,
        processor: Processor,
        checkpoints: Checkpointer,
        clock: Clock,
        metrics: Metrics,
        rule_book: RuleBook | None,
        *,
        fingerprint: str | None,
        rewind_records_max: int | None,
        is_from_end: bool,
    ) -> None:
        """fingerprint: None where no checkpoint is used. rewind_records_max: see LoopSettings. is_from_end: where a group begins that is new."""
        self._source, self._processor, self._checkpoints, self._clock, self._metrics = source, processor, checkpoints, clock, metrics
        self._rule_book, self._fingerprint, self._rewind_records_max, self._is_from_end = rule_book, fingerprint, rewind_records_max, is_from_end
        self._beyond_since_s: float | None = None
        self._told_gaps: dict[Partition, Offset] = {}

    def recover(self, partitions: Sequence[Partition]) -> Iterator[tuple[Partition, Recovered]]:
        """Each as it is done. Raises LogUnavailable, LogCorrupt."""
        committed, bounds = self._source.committed(partitions), self._source.bounds(partitions)
        self._refuse_beyond_the_end(committed, bounds)
        for partition in partitions:
            retained = bounds[partition]
            offset = committed.get(partition, retained.end if self._is_from_end else retained.earliest)
            start = max(retained.earliest, self._restore(partition, offset, retained.earliest))
            if retained.earliest > offset:
                self._tell_gap(partition, offset, retained.earliest)
            counts_from = max(offset, retained.earliest)
            if self._rule_book is not None:
                self._processor.govern(partition, self._rule_book.recover(partition, start, counts_from, retained.earliest))
            self._source.seek(partition, start)
            self._metrics.recoveries.inc()
            log.info("partition_recovered", partition=str(partition), start=start, committed=offset, replayed_silently=max(0, offset - start))
            yield partition, Recovered(start, counts_from, retained.end, partition not in committed)

    def _refuse_beyond_the_end(self, committed: Mapping[Partition, Offset], bounds: Mapping[Partition, Bounds]) -> None:
        """What is appended there next would pass for said. A broker may tell an old end for a while; a log that lost its end needs a person."""
        ends = {partition: retained.end if retained.held_back is None else retained.held_back for partition, retained in bounds.items()}
        beyond = next((partition for partition, offset in committed.items() if offset > ends[partition]), None)
        if beyond is None:
            self._beyond_since_s = None
            return
        told = f"{beyond} ends at {ends[beyond]}, and the group committed {committed[beyond]}: the log lost its end, or went back"
        if self._beyond_since_s is None:
            self._beyond_since_s = self._clock.monotonic_s()
        if self._clock.monotonic_s() - self._beyond_since_s < _OLD_END_S:
            raise LogUnavailable(f"{told}; looking again")
        raise LogCorrupt(f"{told}; restore it, or let the group begin where it ends (kafka-consumer-groups --reset-offsets --to-latest)")

    def _tell_gap(self, partition: Partition, committed: Offset, earliest: Offset) -> None:
        """Retention overtook the group: those records are gone, which nobody may have to find out by himself. Once, however often recovery fails."""
        if self._told_gaps.get(partition) == earliest:
            return
        self._told_gaps[partition] = earliest
        self._metrics.records_lost.inc(earliest - committed)
        log.error(
            "records_lost_to_retention",
            partition=str(partition),
            committed=committed,
            earliest=earliest,
            records=earliest - committed,
            remedy="keep the topic for longer than the daemon may be away; state starts at the earliest retained record",
        )

    def _restore(self, partition: Partition, committed: Offset, earliest: Offset) -> Offset:
        """Put the partition's state in place; returns the offset from which records must be processed."""
        checkpoint = None if self._fingerprint is None else self._checkpoints.load(partition, self._fingerprint, committed)
        if checkpoint is not None and checkpoint.offset >= earliest:
            try:
                self._processor.restore(checkpoint)
                return checkpoint.offset
            except CheckpointInvalid as error:
                log.warning("checkpoint_refused", partition=str(partition), offset=checkpoint.offset, error=str(error))
        self._processor.begin(partition)
        rewind = self._rewind_records_max
        start = earliest if rewind is None else max(earliest, committed - rewind)
        if committed > start and self._fingerprint is None:
            log.info("state_warmed_up", partition=str(partition), start=start, reported_from=committed)
        elif committed > start:
            log.warning("state_rebuilt_from_log", partition=str(partition), start=start, committed=committed, reason="no checkpoint that fits")
        return start
