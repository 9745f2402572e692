"""Checkpoints, and the rules noted beside them, on any fsspec file system."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fsspec
import msgspec
import structlog
from fsspec.implementations.local import LocalFileSystem

from anomaly_daemon.adapters.local_folders import why_unwritable
from anomaly_daemon.domain.errors import CheckpointInvalid, SettingsError
from anomaly_daemon.domain.records import Checkpoint, Offset, Partition
from anomaly_daemon.settings import masked
from anomaly_daemon.state import checkpoint as bytes_of

log = structlog.get_logger(__name__)

_RULES, _PART = "rules.json", ".part"
_NAME = re.compile(rf"\d{{20}}-[0-9a-f]{{16}}\.safetensors({re.escape(_PART)})?$")
_RULES_BYTES_MAX = 256 << 20
_NAME_MAX = 180


class _Rules(msgspec.Struct, forbid_unknown_fields=True):
    """The rules file as written. digest: of the entries, so that a damaged one never passes for other rules."""

    digest: str
    entries: list[tuple[Offset, str]]


class FsspecCheckpointStore:
    """One folder per group and partition, one file per checkpoint: OFFSET-FINGERPRINT.safetensors, the last `keep` kept.

    The URL may hold a password: what is told of it or by its file system is masked.
    """

    def __init__(self, url: str, group: str, keep: int, bytes_max: int | None = None) -> None:
        """group: of one log, so that no two logs meet in a folder. bytes_max: a larger file is not read.

        Raises SettingsError where the file system is unknown or cannot be reached.
        """
        self._url, self._keep, self._bytes_max = url, keep, bytes_max
        try:
            with self._telling():
                self._files, root = fsspec.core.url_to_fs(url)
        except OSError as error:
            raise self._refusal(f"{error}; use a folder or a file system that is up and whose fsspec package is installed") from None
        self._base = root.rstrip("/")
        self._root = f"{self._base}/{_safe(group)}"

    def examine(self) -> str:
        """What can be said of it without writing. Raises SettingsError where a save is bound to fail."""
        if isinstance(self._files, LocalFileSystem):
            why = why_unwritable(Path(self._base))
            if why is not None:
                raise self._refusal(f"{why}; name a folder that this user may write to")
            return self._url
        try:
            with self._telling(), suppress(FileNotFoundError):  # the first save makes it
                self._files.info(self._base)
        except OSError as error:
            raise self._refusal(f"{error}; is it up, and may this user read and write there?") from None
        return f"{masked(self._url)} answers; whether it can be written shows at the first checkpoint"

    def save(self, checkpoint: Checkpoint) -> None:
        """Write beside, then rename: a reader sees a whole checkpoint or none. Raises OSError."""
        with self._telling():
            folder = self._folder(checkpoint.partition)
            self._files.makedirs(folder, exist_ok=True)
            final = f"{folder}/{checkpoint.offset:020d}-{checkpoint.fingerprint[:16]}.safetensors"
            self._clear(f"{final}{_PART}")
            try:
                with self._files.open(f"{final}{_PART}", "wb") as file:
                    for piece in bytes_of.pieces(checkpoint):
                        file.write(piece)
                self._files.mv(f"{final}{_PART}", final)
            except Exception:
                with suppress(Exception):  # half a checkpoint would only fill the disk further
                    self._files.rm(f"{final}{_PART}")
                raise
            # Those beyond this offset, of somebody else, must not cost it its place.
            earlier = [entry for entry in self._entries(checkpoint.partition) if _is_plain(entry) and _offset_of(entry) <= checkpoint.offset]
            whole = [entry for entry in earlier if _is_whole(entry)]
            for entry in whole[: -self._keep] + [entry for entry in earlier if not _is_whole(entry)]:
                self._files.rm(entry["name"])

    def load(self, partition: Partition, fingerprint: str, not_after: Offset) -> Checkpoint | None:
        """The newest valid one; those that are damaged or foreign are told and passed over, as all are when the store cannot be read."""
        try:
            with self._telling():
                entries = self._entries(partition)
        except OSError as error:
            log.error("checkpoints_unreadable", url=masked(self._url), error=str(error), remedy="the log is used; see that checkpoints.url answers")
            return None
        is_told = False
        for entry in filter(_is_whole, reversed(entries)):
            name, offset = str(entry["name"]), _offset_of(entry)
            if offset > not_after:
                continue
            if not name.endswith(f"-{fingerprint[:16]}.safetensors"):
                if not is_told:
                    log.warning(
                        "checkpoint_passed_over",
                        file=self._told(name),
                        reason="made under another model or other settings that shape state",
                        remedy="what was announced under those may never be closed, what is open under these goes on in the middle; "
                        "put them back, or begin with another input.group and detector_id",
                    )
                is_told = True
                continue
            try:
                checkpoint = bytes_of.decode(self._read(entry, self._bytes_max))
                _check_belongs(checkpoint, partition, fingerprint, offset)
            except (CheckpointInvalid, OSError) as error:
                log.warning("checkpoint_refused", file=self._told(name), error=str(error), remedy="an older one or the log is used; delete the file")
                continue
            return checkpoint
        return None

    def forget_after(self, partition: Partition, offset: Offset, is_wanted: Callable[[], bool] = lambda: True) -> None:
        """See CheckpointStore. Where that fails it is told: the state that a later recovery begins from could be another's."""
        try:
            with self._telling():
                entries = [entry for entry in self._entries(partition) if _is_whole(entry) and _is_plain(entry)]
                ahead = [str(entry["name"]) for entry in entries if _offset_of(entry) > offset] if is_wanted() else []
                for name in ahead:
                    self._files.rm(name)
        except OSError as error:
            log.error(
                "checkpoints_unreadable",
                url=masked(self._url),
                error=str(error),
                remedy=f"delete those of {partition} beyond {offset} before a restart",
            )
            return
        if ahead:
            files = [self._told(name) for name in ahead]
            log.warning("checkpoints_forgotten", partition=str(partition), files=files, committed=offset, reason="the committed offset went back")

    def load_rules(self, partition: Partition) -> list[tuple[Offset, str]]:
        """See RuleStore; a file that cannot be read as one is told and passed over."""
        name = f"{self._folder(partition)}/{_RULES}"
        with self._telling():
            self._files.invalidate_cache()
            entry = self._files.info(name) if self._files.exists(name) else None
        if entry is None:
            return []
        try:
            kept = msgspec.json.decode(self._read(entry, _RULES_BYTES_MAX), type=_Rules)
            why = None if kept.digest == _digest(kept.entries) else "its content does not match its digest: it is damaged"
        except (CheckpointInvalid, msgspec.DecodeError, UnicodeDecodeError) as error:
            kept, why = _Rules("", []), str(error)
        if why is not None:
            log.warning("rules_refused", file=self._told(name), error=why, remedy="the rules of now are taken for all records; delete the file")
            return []
        return kept.entries

    def save_rules(self, partition: Partition, entries: Sequence[tuple[Offset, str]]) -> None:
        """See RuleStore: written beside, then renamed."""
        final = f"{self._folder(partition)}/{_RULES}"
        with self._telling():
            self._files.makedirs(self._folder(partition), exist_ok=True)
            self._clear(f"{final}{_PART}")
            self._files.pipe_file(f"{final}{_PART}", msgspec.json.encode(_Rules(_digest(entries), list(entries))))
            self._files.mv(f"{final}{_PART}", final)

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

    def _entries(self, partition: Partition) -> list[dict[str, Any]]:
        """What bears the name of a checkpoint of a partition, unfinished ones too, lowest offset first, as the file system describes it."""
        folder = self._folder(partition)
        self._files.invalidate_cache()
        if not self._files.exists(folder):
            return []
        found = [entry for entry in self._files.ls(folder, detail=True) if _NAME.search(str(entry["name"]))]
        return sorted(found, key=lambda entry: str(entry["name"]).rsplit("/", 1)[-1])

    def _read(self, entry: dict[str, Any], bytes_max: int | None) -> bytes:
        """The content. Raises CheckpointInvalid, before a byte is read, for what may have no end or would not fit into memory; OSError."""
        if not _is_plain(entry):
            raise CheckpointInvalid("it is a link, a folder or a device, not a file")
        if bytes_max is not None and int(entry["size"]) > bytes_max:
            raise CheckpointInvalid(f"it has {entry['size']} bytes, and one of these settings has {bytes_max} at most")
        with self._telling():
            content: bytes = self._files.cat_file(entry["name"])
        return content

    def _clear(self, path: str) -> None:
        """Nothing stands where a file is to be written: a link there would lead the writing elsewhere."""
        with suppress(FileNotFoundError):
            self._files.rm_file(path)


def _check_belongs(checkpoint: Checkpoint, partition: Partition, fingerprint: str, offset: Offset) -> None:
    """The file's name and its content must say the same."""
    if (checkpoint.partition, checkpoint.fingerprint, checkpoint.offset) != (partition, fingerprint, offset):
        raise CheckpointInvalid(f"it holds {checkpoint.partition} at {checkpoint.offset}: it was renamed or belongs to another daemon")


def _is_plain(entry: dict[str, Any]) -> bool:
    return entry["type"] == "file" and not entry.get("islink", False)


def _is_whole(entry: dict[str, Any]) -> bool:
    return not str(entry["name"]).endswith(_PART)


def _offset_of(entry: dict[str, Any]) -> Offset:
    """By the name of a checkpoint's file."""
    return int(str(entry["name"]).rsplit("/", 1)[-1][:20])


def _digest(entries: Sequence[tuple[Offset, str]]) -> str:
    return hashlib.sha256(msgspec.json.encode(entries)).hexdigest()


def _safe(name: str) -> str:
    """A folder name for a topic or group: never one that leads elsewhere, nor another's, nor longer than file systems take."""
    safe = quote(name, safe="") if name.strip(".") else name.replace(".", "%2E")
    return safe if len(safe) <= _NAME_MAX else f"{safe[:_NAME_MAX]}~{hashlib.sha256(name.encode()).hexdigest()}"
