"""A file that stands under its name whole or not at all: written beside it as NAME.part, renamed when it is finished."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from anomaly_daemon.domain.errors import InputError, StopAtOnce


def refuse_target(path: Path, *, is_forced: bool) -> None:
    """Raises InputError where no file may be put at `path`: a folder, no parent folder, or something there already and no `--force`."""
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; name a file in it")
        if not path.parent.is_dir():
            raise InputError(f"{path}: there is no folder {path.parent}; make it first")
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is no regular file; name one")
        size = path.stat().st_size if path.exists() else 0
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}; name another file") from None
    if size and not is_forced:
        raise InputError(f"{path}: already holds something ({size:,} bytes); give another name, or --force to replace it when done")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"{path}: no permission to write in {path.parent}; name a file elsewhere")


def refuse_targets(targets: Sequence[Path | None], inputs: Iterable[Path], *, is_forced: bool) -> None:
    """All files that a verb is to write. Raises InputError as `refuse_target` does, where two are one, and where one is an input.

    inputs: files, or folders with all in them, that no `--force` gives leave to replace.
    """
    read = {one.resolve(): one for one in inputs}
    seen: set[Path] = set()
    for path in (target for target in targets if target is not None):
        refuse_target(path, is_forced=is_forced)
        place = path.resolve()
        if place in seen:
            raise InputError(f"{path}: is named twice; each output needs a file of its own")
        seen.add(place)
        for one in (place, *place.parents):
            if one in read and (one == place or one.is_dir()):
                raise InputError(f"{path}: {read[one]} is read here or is the daemon's own; name another file, --force or not")


def write_whole(path: Path, text: str) -> None:
    """What fits into memory, whole or not at all. Raises StopAtOnce."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise StopAtOnce(f"{path}: cannot be written: {error.strerror}; make room, or name a file elsewhere") from None


class WholeFile:
    """`stream` writes the part; only `finish` puts it under its name. A part that a killed process left is overwritten.

    Raises InputError as `refuse_target` does, and while another process writes the same part.
    """

    def __init__(self, path: Path, *, is_forced: bool) -> None:
        target = path.resolve()
        self._target, self.part = target, target.with_name(target.name + ".part")
        self._reserved, self._is_finished = 0, False
        refuse_target(path, is_forced=is_forced)
        try:
            self.stream: BinaryIO = os.fdopen(os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "w+b")
        except OSError as error:
            raise InputError(f"{path}: {self.part} cannot be written: {error.strerror}; name another file") from None
        try:
            fcntl.flock(self.stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            refuse_target(path, is_forced=is_forced)  # again: whoever held the lock may just have finished
            self.stream.truncate(0)
        except OSError as error:
            self.stream.close()
            why = "another process is exporting to it" if isinstance(error, BlockingIOError) else error.strerror
            raise InputError(f"{path}: {self.part} cannot be written: {why}; name another file") from None
        except InputError:
            self.stream.close()
            raise

    def reserve(self, count: int) -> None:
        """Make sure that the next `count` bytes can be written, whatever else fills the disk. Raises OSError where they cannot."""
        end = self.stream.tell() + count
        if end > self._reserved:
            os.posix_fallocate(self.stream.fileno(), self._reserved, end - self._reserved)
            self._reserved = end

    def finish(self) -> None:
        """Cut off what was reserved for nothing, make the file durable, and put it under its name. Raises OSError."""
        self.stream.truncate()
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.part.replace(self._target)
        self._is_finished = True

    def discard(self) -> None:
        """Leave nothing behind, and what was there before as it is."""
        self.close()
        self.part.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the part, which goes away where it was not finished; may be called twice."""
        if self.stream.closed:
            return
        if not self._is_finished:
            self.part.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # what is left to be written is wanted by nobody
            self.stream.close()
