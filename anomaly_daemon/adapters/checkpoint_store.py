"""Checkpoints on any fsspec file system, written beside the loop by one thread."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
import msgspec
import structlog
from fsspec.implementations.local import LocalFileSystem

from anomaly_daemon.adapters.local_folders import why_unwritable
from anomaly_daemon.domain.errors import CheckpointInvalid, InputError, SettingsError
from anomaly_daemon.domain.ports import CheckpointStore
from anomaly_daemon.domain.records import Checkpoint, Offset, Partition
from anomaly_daemon.settings import masked
from anomaly_daemon.state import checkpoint as bytes_of
from anomaly_daemon.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)

_RULES = "rules.json"
_NAME = re.compile(r"(\d{20})-([0-9a-f]{16})\.safetensors$")


class FsspecCheckpointStore:
    """One folder per group and partition, one file per checkpoint: OFFSET-FINGERPRINT.safetensors, the last `keep` kept.

    The URL may hold a password: what is told of it or by its file system is masked.
    """

    def __init__(self, url: str, group: str, keep: int) -> None:
        """Raises SettingsError where the file system is unknown or cannot be reached."""
        self._url, self._keep = url, keep
        try:
            with self._telling():
                self._files, root = fsspec.core.url_to_fs(url)
        except OSError as error:
            raise self._refusal(f"{error}; use a folder or a file system that is up and whose fsspec package is installed") from None
        self._root = f"{root.rstrip('/')}/{_safe(group)}"

    def examine(self) -> str:
        """What can be said of it without writing. Raises SettingsError where a save is bound to fail."""
        if isinstance(self._files, LocalFileSystem):
            why = why_unwritable(Path(self._root))
            if why is not None:
                raise self._refusal(f"{why}; name a folder that this user may write to")
            return self._url
        try:
            with self._telling(), suppress(FileNotFoundError):  # the first save makes it
                self._files.info(self._root)
        except OSError as error:
            raise self._refusal(f"{error}; is it up, and may this user read and write there?") from None
        return f"{masked(self._url)} answers; whether it can be written shows at the first checkpoint"

    def save(self, checkpoint: Checkpoint) -> None:
        """Write beside, then rename: a reader sees a whole checkpoint or none. Raises OSError."""
        with self._telling():
            folder = self._folder(checkpoint.partition)
            self._files.makedirs(folder, exist_ok=True)
            final = f"{folder}/{checkpoint.offset:020d}-{checkpoint.fingerprint[:16]}.safetensors"
            with self._files.open(f"{final}.part", "wb") as file:
                for piece in bytes_of.pieces(checkpoint):
                    file.write(piece)
            self._files.mv(f"{final}.part", final)
            names = self._names(checkpoint.partition)
            for name in names[: -self._keep]:
                self._files.rm(name)

    def load(self, partition: Partition, fingerprint: str, not_after: Offset) -> Checkpoint | None:
        """The newest valid one; those that are damaged or foreign are told and passed over, as all are when the store cannot be read."""
        try:
            with self._telling():
                names = self._names(partition)
        except OSError as error:
            log.error("checkpoints_unreadable", url=masked(self._url), error=str(error), remedy="the log is used; see that checkpoints.url answers")
            return None
        for name in reversed(names):
            match = _NAME.search(name)
            assert match is not None
            if int(match[1]) > not_after:
                continue
            if match[2] != fingerprint[:16]:
                log.info("checkpoint_passed_over", file=self._told(name), reason="made under another model or other settings that shape state")
                continue
            try:
                with self._telling():
                    content = self._files.cat_file(name)
                checkpoint = bytes_of.decode(content)
                _check_belongs(checkpoint, partition, fingerprint, int(match[1]))
            except (CheckpointInvalid, OSError) as error:
                log.warning("checkpoint_refused", file=self._told(name), error=str(error), remedy="an older one or the log is used; delete the file")
                continue
            return checkpoint
        return None

    def discard_after(self, partition: Partition, offset: Offset) -> None:
        """Those beyond what is committed: of a topic that was since made anew, or of offsets since set back. Told; what cannot be removed stays."""
        try:
            with self._telling():
                ahead = [name for name in self._names(partition) if int(name.rsplit("/", 1)[-1].partition("-")[0]) > offset]
                for name in ahead:
                    self._files.rm(name)
                    log.warning("checkpoint_discarded", file=self._told(name), committed=offset, reason="it is ahead of what is committed")
        except OSError as error:
            log.error("checkpoints_unreadable", url=masked(self._url), error=str(error), remedy="see that checkpoints.url answers")

    def load_rules(self, partition: Partition) -> list[tuple[Offset, str]]:
        """See RuleStore; a file that cannot be read as one is told and passed over."""
        name = f"{self._folder(partition)}/{_RULES}"
        with self._telling():
            self._files.invalidate_cache()
            content = self._files.cat_file(name) if self._files.exists(name) else b"[]"
        try:
            return msgspec.json.decode(content, type=list[tuple[int, str]])
        except msgspec.DecodeError as error:
            log.warning("rules_refused", file=name, error=str(error), remedy="the rules of now are taken for all records; delete the file")
            return []

    def save_rules(self, partition: Partition, entries: Sequence[tuple[Offset, str]]) -> None:
        """See RuleStore: written beside, then renamed."""
        final = f"{self._folder(partition)}/{_RULES}"
        with self._telling():
            self._files.makedirs(self._folder(partition), exist_ok=True)
            self._files.pipe_file(f"{final}.part", msgspec.json.encode(list(entries)))
            self._files.mv(f"{final}.part", final)

    def _refusal(self, why: str) -> SettingsError:
        return SettingsError(f"checkpoints.url: {masked(self._url)}: {why}")

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Raises OSError in place of whatever the file system raises: each has kinds of its own, and some quote the URL."""
        try:
            yield
        except Exception as error:
            raise OSError(self._told(str(error) or type(error).__name__)) from None

    def _told(self, text: str) -> str:
        """The text without the user and password that the URL may hold."""
        user, is_given, _ = self._url.partition("://")[2].rpartition("@")
        return text.replace(user, "***") if is_given and user else text

    def _folder(self, partition: Partition) -> str:
        return f"{self._root}/{_safe(partition.topic)}-{partition.number}"

    def _names(self, partition: Partition) -> list[str]:
        """Files of a partition, lowest offset first."""
        folder = self._folder(partition)
        self._files.invalidate_cache()
        if not self._files.exists(folder):
            return []
        return sorted(
            (str(name) for name in self._files.ls(folder, detail=False) if _NAME.search(str(name))), key=lambda name: name.rsplit("/", 1)[-1]
        )


class BackgroundCheckpoints:
    """One writing thread and one checkpoint of a partition under way at most: the loop hands over and goes on.

    metrics: where those written and those that failed are counted.
    """

    def __init__(self, store: CheckpointStore, metrics: Metrics | None = None) -> None:
        self._store, self._metrics = store, metrics
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: dict[Partition, Future[Any]] = {}

    def save(self, checkpoint: Checkpoint) -> bool:
        """Start writing; False when the partition's last one is not done yet."""
        earlier = self._writing.get(checkpoint.partition)
        if earlier is not None and not earlier.done():
            return False
        self._writing[checkpoint.partition] = self._writer.submit(self._write, checkpoint)
        return True

    def load(self, partition: Partition, fingerprint: str, not_after: Offset) -> Checkpoint | None:
        """What the store has, once whatever is being written of this partition is done. not_after: what is committed."""
        if partition in self._writing:
            wait([self._writing[partition]])
        # A checkpoint is saved behind a commit only. One ahead of it would be taken for this log's once that offset is reached.
        self._store.discard_after(partition, not_after)
        return self._store.load(partition, fingerprint, not_after)

    def flush(self, timeout_s: float) -> None:
        """Wait for what is under way, so long at most; a checkpoint is a cache, the rest is dropped."""
        wait(self._writing.values(), timeout_s)

    def close(self) -> None:
        """End the thread."""
        self._writer.shutdown(wait=False, cancel_futures=True)

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


class SavedCheckpoints:
    """What a daemon saved, for a replay: only ever read."""

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store

    def save(self, _checkpoint: Checkpoint) -> bool:
        """Nothing: a replay leaves the daemon's checkpoints alone."""
        return True

    def load(self, partition: Partition, fingerprint: str, not_after: Offset) -> Checkpoint | None:
        """The newest valid one. Raises InputError where there is none: the replay was asked to begin from it."""
        found = self._store.load(partition, fingerprint, not_after)
        if found is None:
            raise InputError(
                f"--start-from checkpoint: none of {partition} at or before offset {not_after} under these settings and this model; "
                "begin the range later, or use --warm-up in its place"
            )
        return found

    def flush(self, _timeout_s: float) -> None:
        """Nothing is under way."""


def _check_belongs(checkpoint: Checkpoint, partition: Partition, fingerprint: str, offset: Offset) -> None:
    """The file's name and its content must say the same."""
    if (checkpoint.partition, checkpoint.fingerprint, checkpoint.offset) != (partition, fingerprint, offset):
        raise CheckpointInvalid(f"it holds {checkpoint.partition} at {checkpoint.offset}: it was renamed or belongs to another daemon")


def _safe(name: str) -> str:
    """A folder name for a topic or group."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)
