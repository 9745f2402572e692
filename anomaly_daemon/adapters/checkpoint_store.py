"""Checkpoints on any fsspec file system, written beside the loop by one thread."""

from __future__ import annotations

import re
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import fsspec
import structlog

from anomaly_daemon.domain.errors import CheckpointInvalid, SettingsError
from anomaly_daemon.domain.ports import CheckpointStore
from anomaly_daemon.domain.records import Checkpoint, Offset, Partition
from anomaly_daemon.state import checkpoint as bytes_of

log = structlog.get_logger(__name__)

_NAME = re.compile(r"(\d{20})-([0-9a-f]{16})\.safetensors$")


class FsspecCheckpointStore:
    """One folder per group and partition, one file per checkpoint: OFFSET-FINGERPRINT.safetensors, the last `keep` kept."""

    def __init__(self, url: str, group: str, keep: int) -> None:
        try:
            self._files, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise SettingsError(f"checkpoints.url: {url}: {error}; use a folder or a file system whose fsspec package is installed") from None
        self._url, self._root, self._keep = url, f"{root.rstrip('/')}/{_safe(group)}", keep

    def save(self, checkpoint: Checkpoint) -> None:
        """Write beside, then rename: a reader sees a whole checkpoint or none."""
        folder = self._folder(checkpoint.partition)
        self._files.makedirs(folder, exist_ok=True)
        final = f"{folder}/{checkpoint.offset:020d}-{checkpoint.fingerprint[:16]}.safetensors"
        with self._files.open(f"{final}.part", "wb") as file:
            file.write(bytes_of.encode(checkpoint))
        self._files.mv(f"{final}.part", final)
        names = self._names(checkpoint.partition)
        for name in names[: -self._keep]:
            self._files.rm(name)

    def load(self, partition: Partition, fingerprint: str, not_after: Offset) -> Checkpoint | None:
        """The newest valid one; those that are damaged or foreign are told and passed over."""
        for name in reversed(self._names(partition)):
            match = _NAME.search(name)
            assert match is not None
            if int(match[1]) > not_after:
                continue
            if match[2] != fingerprint[:16]:
                log.info("checkpoint_passed_over", file=name, reason="made under another model or other settings that shape state")
                continue
            try:
                checkpoint = bytes_of.decode(self._files.cat_file(name))
                _check_belongs(checkpoint, partition, fingerprint, int(match[1]))
            except (CheckpointInvalid, OSError) as error:
                log.warning("checkpoint_refused", file=name, error=str(error), remedy="an older one or the log is used; delete the file")
                continue
            return checkpoint
        return None

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
    """One writing thread and one checkpoint of a partition under way at most: the loop hands over and goes on."""

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
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
        """What the store has, once whatever is being written of this partition is done."""
        if partition in self._writing:
            wait([self._writing[partition]])
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
        else:
            log.debug("checkpoint_written", partition=str(checkpoint.partition), offset=checkpoint.offset, entities=len(checkpoint.entities))


def _check_belongs(checkpoint: Checkpoint, partition: Partition, fingerprint: str, offset: Offset) -> None:
    """The file's name and its content must say the same."""
    if (checkpoint.partition, checkpoint.fingerprint, checkpoint.offset) != (partition, fingerprint, offset):
        raise CheckpointInvalid(f"it holds {checkpoint.partition} at {checkpoint.offset}: it was renamed or belongs to another daemon")


def _safe(name: str) -> str:
    """A folder name for a topic or group."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)
