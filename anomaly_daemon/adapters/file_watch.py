"""Notices that settings files were changed, by looking at them once a second: works on every file system, and on mounted ConfigMaps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anomaly_daemon.domain.ports import Clock

_EVERY_S = 1.0
_Look = tuple[tuple[int, int, int] | None, ...]


class FileWatch:
    """Whether any of some files is another one than it was; one that is missing, or still being written, is not a change until it is whole."""

    def __init__(self, files: Sequence[Path], clock: Clock) -> None:
        self._files, self._clock = tuple(files), clock
        self._seen = self._last = self._look()
        self._next_s = clock.monotonic_s() + _EVERY_S

    def has_changed(self) -> bool:
        """Since the last time it said so; looks once a second at most."""
        now_s = self._clock.monotonic_s()
        if now_s < self._next_s:
            return False
        self._next_s = now_s + _EVERY_S
        before, found = self._last, self._look()
        self._last = found
        if None in found or found == self._seen or found != before:
            return False
        self._seen = found
        return True

    def _look(self) -> _Look:
        return tuple(_stamp(file) for file in self._files)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    """Changes whenever the file is written or replaced, through a link too."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
