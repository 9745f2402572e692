"""Poll, take note of partition changes, process, commit, checkpoint when due: the service.

What one commit does, in order: (1) alerts, (2) dead letters and (3) offsets become visible in one atomic call of the
sink; (4) only then is the batch exported and counted; (5) a checkpoint, a cache of this point in the log, may follow.
Whatever goes wrong before (3) is undone by recovering from the log, the only undo there is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import structlog

from anomaly_daemon.domain.errors import CommitFailed, NoRoom, Recoverable
from anomaly_daemon.domain.ports import Clock, ScoreExport, Sink, Source
from anomaly_daemon.domain.records import Batch, BatchOutput, ChangeKind, Offset, Partition, PartitionChange
from anomaly_daemon.incidents.alerts import AlertContext
from anomaly_daemon.pipeline.accounting import count_batch, count_state
from anomaly_daemon.pipeline.pieces import next_offsets, of_bytes
from anomaly_daemon.pipeline.portion import undone_by_recovery
from anomaly_daemon.pipeline.process import Processor
from anomaly_daemon.pipeline.recovery import Recovery
from anomaly_daemon.pipeline.rejection_log import RejectionLog
from anomaly_daemon.pipeline.rule_book import RuleBook
from anomaly_daemon.pipeline.rules import Rules
from anomaly_daemon.pipeline.saving import Checkpointer, Saving
from anomaly_daemon.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)

_BACKOFF_FIRST_S, _BACKOFF_MAX_S = 0.25, 5.0
_PASS_OVER_EVERY_S, _SETTLE_EVERY_S = 10.0, 1.0
# Of records, all of which may become dead letters: on a slow way the commit of more would run out of time, again and again.
_COMMIT_BYTES_MAX = 4 << 20
_EVENTS: Mapping[type[Recoverable], str] = {CommitFailed: "commit_failed", NoRoom: "room_exhausted"}


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """What the loop itself needs to know.

    rewind_records_max: without a checkpoint, records before the committed offset to go through; None: all retained.
    is_checkpointed: False for thresholds whose state cannot be saved; recovery then goes through the log.
    batch_interval_s: from one poll to the next at least, where the one before brought records and hardly any are left.
    start: where a group that never committed begins, of what is retained.
    """

    fingerprint: str
    poll_timeout_s: float
    checkpoint_every_s: float
    drain_timeout_s: float
    rewind_records_max: int | None
    is_checkpointed: bool
    until_end: bool = False
    batch_interval_s: float = 0.0
    start: Literal["earliest", "latest"] = "earliest"


@dataclass(frozen=True, slots=True)
class Reload:
    """Settings read again. text: the rules, as a RuleBook notes them; accept: called with the offsets of the cut once they are in force."""

    settings: LoopSettings
    text: str
    rules: Rules
    context: AlertContext
    window_points: int
    accept: Callable[[Mapping[str, Offset]], None]


class Loop:
    """Owns source, sink and state in one thread; signals only set flags."""

    def __init__(
        self,
        source: Source,
        sink: Sink,
        processor: Processor,
        checkpoints: Checkpointer,
        clock: Clock,
        metrics: Metrics,
        settings: LoopSettings,
        export: ScoreExport | None = None,
        reload: Callable[[], Reload | None] | None = None,
        progress: Callable[[int, int], None] | None = None,
        rule_book: RuleBook | None = None,
        is_reload_due: Callable[[], bool] = lambda: False,
    ) -> None:
        self._source, self._sink, self._processor, self._checkpoints = source, sink, processor, checkpoints
        self._clock, self._metrics, self._settings, self._export, self._reload = clock, metrics, settings, export, reload
        self._progress, self._rule_book, self._is_reload_due = progress, rule_book, is_reload_due
        self._saving = Saving(processor, checkpoints, clock, settings.fingerprint, settings.checkpoint_every_s)
        self._recovery = Recovery(
            source,
            processor,
            checkpoints,
            clock,
            metrics,
            rule_book,
            fingerprint=settings.fingerprint if settings.is_checkpointed else None,
            rewind_records_max=settings.rewind_records_max,
            is_from_end=settings.start == "latest",
        )
        self._rejection_log = RejectionLog(clock)
        self._committed: dict[Partition, Offset] = {}
        self._position: dict[Partition, Offset] = {}
        self._ends: dict[Partition, Offset] = {}
        self._reached: dict[Partition, Offset] = {}
        self._begun: dict[Partition, Offset] = {}
        self._to_recover: set[Partition] = set()
        # Where the group begins and has not said so yet.
        self._starts: dict[Partition, Offset] = {}
        self._is_stopping = self._is_reload_asked = False
        self._failures = 0
        self._trusted_s = 0.0
        self._next_poll_s = self._next_pass_s = self._next_settling_s = 0.0

    @property
    def positions(self) -> dict[Partition, Offset]:
        """The next offset of each partition at hand."""
        return dict(self._position)

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._is_stopping

    def stop(self) -> None:
        """Finish the batch under way, then leave; safe in a signal handler."""
        self._is_stopping = True

    def ask_reload(self) -> None:
        """Read the settings again after the batch under way; safe in a signal handler."""
        self._is_reload_asked = True

    def run(self) -> None:
        """Serve until stopped, or to the end of the log where the settings say so."""
        while not (self._is_stopping or self._is_at_end()):
            try:
                with undone_by_recovery():
                    self._step()
                if self._clock.monotonic_s() > self._trusted_s:
                    self._failures = 0
            except Recoverable as error:
                # What the failed step had taken from the log is neither committed nor in a trustworthy state.
                self._to_recover |= set(self._position)
                if isinstance(error, CommitFailed):
                    self._metrics.commit_failures.inc()
                log.warning(_EVENTS.get(type(error), "log_unavailable"), error=str(error), failures=self._failures)
                self._wait()
        self._leave()

    def _step(self) -> None:
        if self._is_reload_due():
            self._is_reload_asked = True
        batch = self._poll()
        self._note(batch.changes)
        if self._to_recover:
            recovered = frozenset(self._to_recover)
            self._recover(sorted(recovered))
            # What this poll brought of them is not what comes next: recovery has moved their position.
            batch = replace(batch, records=[record for record in batch.records if record.partition not in recovered])
        if not batch.changes:  # whose lease is that of before them
            self._commit_starts(batch.lease)
            if self._is_reload_asked:
                self._apply_reload(batch.lease)
        if not batch.records:
            self._reached = self._source.positions()
        else:
            for records in of_bytes(batch.records, _COMMIT_BYTES_MAX):
                for piece in self._under_one_rule(replace(batch, records=records)):
                    self._take(piece)
        if not batch.changes:
            self._pass_over(batch.lease)
        self._rejection_log.tell()
        self._saving.step(self._caught_up())
        if self._rule_book is not None and not self._rule_book.is_settled and self._clock.monotonic_s() >= self._next_settling_s:
            self._rule_book.settle()
            self._next_settling_s = self._clock.monotonic_s() + _SETTLE_EVERY_S

    def _poll(self) -> Batch:
        """While the log is followed, not before the batch before has lasted its interval: each is a transaction, however small."""
        wait_s = self._next_poll_s - self._clock.monotonic_s()
        if wait_s > 0:
            self._clock.sleep(wait_s)
        begun_s = self._clock.monotonic_s()
        batch = self._source.poll(self._settings.poll_timeout_s)
        self._next_poll_s = begun_s + self._settings.batch_interval_s if batch.records and batch.is_last else 0.0
        return batch

    def _under_one_rule(self, batch: Batch) -> Iterator[Batch]:
        """The batch, cut where a recovery passes the offset of a reload."""
        if self._rule_book is None:
            yield batch
            return
        records = batch.records
        while cuts := self._rule_book.next_cuts():
            passed = ((place, one.partition) for place, one in enumerate(records) if one.offset >= cuts.get(one.partition, one.offset + 1))
            place, partition = next(passed, (None, None))
            if place is None or partition is None:
                break
            if place:
                yield replace(batch, records=records[:place])
            records = records[place:]
            self._processor.govern(partition, self._rule_book.turn(partition))
        yield replace(batch, records=records)

    def _take(self, batch: Batch) -> None:
        """One batch, from its records to its commit."""
        started_s = time.perf_counter()
        output = self._processor.process(batch, self._committed)
        processed_s = time.perf_counter()
        self._commit(output)
        if self._export is not None:
            self._export.write(output)
        self._position |= next_offsets(batch.records)
        self._metrics.stage_seconds.labels("process").observe(processed_s - started_s)
        self._metrics.stage_seconds.labels("commit").observe(time.perf_counter() - processed_s)
        count_batch(self._metrics, batch, output, self._committed)
        count_state(self._metrics, self._processor)
        self._tell_shortages()
        self._rejection_log.note(output.rejections)
        self._committed |= output.next_offsets
        if self._progress is not None:
            done, total = ((sum(where[partition] - begun for partition, begun in self._begun.items())) for where in (self._position, self._ends))
            self._progress(done, total)

    def _tell_shortages(self) -> None:
        """The device ran out of memory and less was asked of it: the results are the same, the speed is not."""
        shortages = self._processor.take_shortages()
        if shortages:
            self._metrics.memory_shortages.inc(shortages)
            log.warning(
                "device_memory_exhausted",
                records_at_once_max=self._processor.portion.rows_max,
                entities_in_memory_max=self._processor.table.resident_max,
                remedy="slower from here on; lower engine.resident_max or input.batch_records_max, or free memory on the device",
            )

    def _commit_starts(self, lease: object | None) -> None:
        """Before the first record: what begins at the end would else begin at a later one after a failure, and leave out what came meanwhile."""
        if self._starts and lease is not None:
            self._commit(BatchOutput(next_offsets=self._starts, lease=lease))
        self._starts = {}

    def _pass_over(self, lease: object | None) -> None:
        """Offsets behind the last record that hold none, such as a transaction's end mark, count as processed now and then.

        Where retention has taken all, they are what is left, and a state from before them would pass for one with records missing.
        """
        if lease is None or self._clock.monotonic_s() < self._next_pass_s:
            return
        self._next_pass_s = self._clock.monotonic_s() + _PASS_OVER_EVERY_S
        reached = self._source.positions()
        passed = {one: reached[one] for one, offset in self._position.items() if one in reached and self._committed[one] <= offset < reached[one]}
        if passed:
            self._commit(BatchOutput(next_offsets=passed, lease=lease))
            self._position |= passed
            self._committed |= passed

    def _commit(self, output: BatchOutput) -> None:
        """One transaction; nothing where the batch lies before the committed offsets."""
        if output.messages or output.next_offsets:
            self._sink.commit(output)
            self._metrics.commits.inc()
            self._failures = 0

    def _note(self, changes: Sequence[PartitionChange]) -> None:
        """Partitions that go are let go, after a checkpoint while they are still ours; those that come are recovered."""
        for change in changes:
            log.info("partitions_changed", kind=change.kind.value, partitions=[str(partition) for partition in change.partitions])
            for partition in change.partitions:
                if change.kind is ChangeKind.ASSIGNED:
                    self._to_recover.add(partition)
                    continue
                if change.kind is ChangeKind.REVOKED and partition not in self._to_recover and partition in self._caught_up():
                    self._saving.save_now(partition, self._position[partition])
                if change.kind is ChangeKind.REVOKED and self._export is not None:
                    self._export.end(partition)
                self._forget(partition)

    def _forget(self, partition: Partition) -> None:
        self._saving.forget(partition)
        self._processor.drop(partition)
        if self._rule_book is not None:
            self._rule_book.forget(partition)
        for facts in (self._committed, self._position, self._ends, self._begun, self._starts):
            facts.pop(partition, None)
        self._to_recover.discard(partition)

    def _recover(self, partitions: Sequence[Partition]) -> None:
        """Where each stands afterwards is where the loop goes on."""
        for partition in partitions:
            self._saving.stop_copying(partition)
        for partition, found in self._recovery.recover(partitions):
            if found.is_first:
                self._starts[partition] = found.committed
            self._committed[partition], self._position[partition] = found.committed, found.start
            self._ends.setdefault(partition, found.end)
            self._begun.setdefault(partition, found.start)
            if self._export is not None:
                self._export.begin(partition, found.committed)
            self._saving.begin(partition)
            self._to_recover.discard(partition)

    def _caught_up(self) -> dict[Partition, Offset]:
        """Partitions whose state is that of their committed offset, as far as state can be saved at all."""
        if not self._settings.is_checkpointed:
            return {}
        return {partition: position for partition, position in self._position.items() if position >= self._committed[partition]}

    def _apply_reload(self, lease: object | None) -> None:
        """A reload is a cut in the log: everything before it is committed; it is noted, then the rules change."""
        reload = self._reload() if self._reload is not None else None
        if reload is not None and lease is not None:
            # Whoever stood still and lost its partitions learns it here, and notes no cut where others have judged on.
            self._commit(BatchOutput(next_offsets=self._committed, lease=lease))
        self._is_reload_asked = False
        if reload is None:
            return
        try:
            if self._rule_book is not None:
                self._rule_book.cut(self._committed, self._position, reload.text)
        except OSError as error:
            log.error("settings_refused", error=str(error), remedy="the cut cannot be noted at checkpoints.url; the old settings stay in force")
            self._metrics.config_reloaded(is_successful=False)
            return
        self._settings, self._saving.every_s = reload.settings, reload.settings.checkpoint_every_s
        self._processor.apply(reload.rules, reload.context, reload.window_points)
        for partition, position in self._position.items():
            if position >= self._committed[partition]:
                self._processor.govern(partition, reload.rules)
        reload.accept({str(partition): offset for partition, offset in self._committed.items()})

    def _is_at_end(self) -> bool:
        """Whether every partition at hand is processed to where it ended when it came."""
        if not self._settings.until_end or not self._ends or self._to_recover or self._starts:
            return False
        return all(max(self._position[partition], self._reached.get(partition, 0)) >= end for partition, end in self._ends.items())

    def _wait(self) -> None:
        """Bounded exponential back-off, until a commit succeeds or nothing has failed for long: a step that only recovers shows nothing."""
        self._clock.sleep(min(_BACKOFF_MAX_S, _BACKOFF_FIRST_S * 2.0 ** min(self._failures, 10)))
        self._failures += 1
        self._trusted_s = self._clock.monotonic_s() + _BACKOFF_MAX_S

    def _leave(self) -> None:
        """What a drain still does: a checkpoint of every partition, within the deadline; one that is being written comes first."""
        deadline_s = self._clock.monotonic_s() + self._settings.drain_timeout_s
        self._checkpoints.flush(self._settings.drain_timeout_s)
        for partition, offset in sorted(self._caught_up().items()):
            if partition not in self._to_recover:
                self._saving.save_now(partition, offset)
        self._checkpoints.flush(max(0.0, deadline_s - self._clock.monotonic_s()))
        if self._rule_book is not None:
            self._rule_book.settle()
        self._rejection_log.tell(is_last=True)
        log.info("stopped", **self._metrics.facts())
