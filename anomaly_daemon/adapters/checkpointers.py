"""What the loop saves to and recovers from: a store that is written beside it, one that is only read, and none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any, TypeVar

import structlog

from anomaly_daemon.adapters import heap
from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.domain.ports import CheckpointStore
from anomaly_daemon.domain.records import Checkpoint, Offset, Partition
from anomaly_daemon.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)
T = TypeVar("T")

WRITER, ASKER = "checkpoint-writer", "checkpoint-asker"
_ANSWER_TIMEOUT_S = 120.0
_RULES_TIMEOUT_S = 5.0  # a reload holds the loop up meanwhile
_TRIM_EVERY_S = 10.0


class BackgroundCheckpoints:
    """A store that one thread writes to and one asks, so that one which hangs holds up neither the loop nor, for longer than told, a recovery.

    Of a partition one checkpoint is under way at most. Now and then, after one is written, memory that is free goes back to the
    system: else what a rebalance leaves in pieces stays for good.
    """

    def __init__(self, store: CheckpointStore, metrics: Metrics | None = None, timeout_s: float = _ANSWER_TIMEOUT_S) -> None:
        """metrics: where those written and those that failed are counted. timeout_s: what the loop waits for, at most."""
        self._store, self._metrics, self._timeout_s = store, metrics, timeout_s
        self._writer, self._asker = _Thread(WRITER), _Thread(ASKER)
        self._writing: dict[Partition, Future[Any]] = {}
        self._next_trim_s = 0.0

    def save(self, checkpoint: Checkpoint) -> bool:
        """Start writing; False when the partition's last one is not done yet."""
        earlier = self._writing.get(checkpoint.partition)
        if earlier is not None and not earlier.done():
            return False
        self._writing[checkpoint.partition] = self._writer.do(lambda: self._write(checkpoint))
        return True

    def load(self, partition: Partition, fingerprint: str, not_after: Offset) -> Checkpoint | None:
        """What the store has, once what is being written of it is done; None too where it does not answer. not_after: the committed offset."""
        is_awaited = threading.Event()
        is_awaited.set()

        def find() -> Checkpoint | None:
            if partition in self._writing:
                wait([self._writing[partition]])
            # A checkpoint is saved behind a commit only. One ahead of it would be taken for this log's once that offset is reached.
            self._store.forget_after(partition, not_after, is_awaited.is_set)
            return self._store.load(partition, fingerprint, not_after)

        try:
            return self._asker.ask(find, self._timeout_s)
        except OSError as error:
            is_awaited.clear()  # what is committed may move on
            log.error(
                "checkpoints_unreadable", partition=str(partition), error=str(error), remedy="the log is used; see that checkpoints.url answers"
            )
            return None

    def load_rules(self, partition: Partition) -> list[tuple[Offset, str]]:
        """See RuleStore."""
        return self._asker.ask(lambda: self._store.load_rules(partition), min(_RULES_TIMEOUT_S, self._timeout_s))

    def save_rules(self, partition: Partition, entries: Sequence[tuple[Offset, str]]) -> None:
        """See RuleStore."""
        self._asker.ask(lambda: self._store.save_rules(partition, entries), min(_RULES_TIMEOUT_S, self._timeout_s))

    def flush(self, timeout_s: float) -> None:
        """Wait for what is under way, so long at most; a checkpoint is a cache, the rest is dropped."""
        wait(self._writing.values(), timeout_s)

    def close(self) -> None:
        """Begin nothing more; what hangs ends with the process."""
        for writing in self._writing.values():
            writing.cancel()
        for thread in (self._writer, self._asker):
            thread.end()

    def _write(self, checkpoint: Checkpoint) -> None:
        try:
            self._store.save(checkpoint)
        except OSError as error:
            log.error(
                "checkpoint_failed",
                partition=str(checkpoint.partition),
                offset=checkpoint.offset,
                error=str(error),
                remedy="the daemon goes on; without a checkpoint a restart takes longer",
            )
            if self._metrics is not None:
                self._metrics.checkpoint_failures.inc()
        else:
            if self._metrics is not None:
                self._metrics.checkpoints.inc()
            log.debug("checkpoint_written", partition=str(checkpoint.partition), offset=checkpoint.offset, entities=len(checkpoint.entities))
        if time.monotonic() >= self._next_trim_s:
            heap.give_back()
            self._next_trim_s = time.monotonic() + _TRIM_EVERY_S


class SavedCheckpoints:
    """What a daemon saved, for a replay: only ever read."""

    def __init__(self, store: CheckpointStore, timeout_s: float = _ANSWER_TIMEOUT_S) -> None:
        """timeout_s: what the store is waited for, at most."""
        self._store, self._timeout_s, self._asker = store, timeout_s, _Thread(ASKER)

    def save(self, _checkpoint: Checkpoint) -> bool:
        """Nothing: a replay leaves the daemon's checkpoints alone."""
        return True

    def load(self, partition: Partition, fingerprint: str, not_after: Offset) -> Checkpoint | None:
        """The newest valid one. Raises InputError where there is none, or no answer: the replay was asked to begin from it."""
        try:
            found = self._asker.ask(lambda: self._store.load(partition, fingerprint, not_after), self._timeout_s)
        except OSError as error:
            raise InputError(f"--start-from checkpoint: {error}; see that checkpoints.url answers, or use --warm-up in its place") from None
        if found is None:
            raise InputError(
                f"--start-from checkpoint: none of {partition} at or before offset {not_after} under these settings and this model; "
                "begin the range later, or use --warm-up in its place"
            )
        return found

    def flush(self, _timeout_s: float) -> None:
        """Nothing is under way."""


class NoCheckpoints:
    """None are saved, and there are none."""

    def save(self, _checkpoint: Checkpoint) -> bool:
        """Nothing."""
        return True

    def load(self, _partition: Partition, _fingerprint: str, _not_after: Offset) -> None:
        """None."""
        return

    def flush(self, _timeout_s: float) -> None:
        """Nothing is under way."""


class _Thread:
    """Does one thing after another, and ends with the process, done or not."""

    def __init__(self, name: str) -> None:
        self._todo: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._under_way: Future[Any] | None = None
        self._late: Future[Any] | None = None
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def do(self, work: Callable[[], T]) -> Future[T]:
        """Once everything before is done."""
        done: Future[T] = Future()
        self._todo.put((done, work))
        return done

    def ask(self, work: Callable[[], T], timeout_s: float) -> T:
        """What comes of it, or its exception. Raises OSError after `timeout_s`; then at once until what hangs is done."""
        if self._late is not None and not self._late.done():
            raise OSError("the store has not answered for long; it is not asked again before it does")
        asked = self.do(work)
        try:
            return asked.result(timeout_s)
        except TimeoutError:
            if asked.done():
                raise
            self._late = self._under_way
            asked.cancel()
            raise OSError(f"the store has not answered for {timeout_s:g} s") from None

    def end(self) -> None:
        """Once everything is done."""
        self._todo.put(None)

    def _run(self) -> None:
        while (errand := self._todo.get()) is not None:
            done, work = errand
            if not done.set_running_or_notify_cancel():
                continue
            self._under_way = done
            try:
                done.set_result(work())
            except BaseException as error:  # whoever asked raises it
                done.set_exception(error)
            del errand, done, work  # a checkpoint is large
            self._under_way = None
