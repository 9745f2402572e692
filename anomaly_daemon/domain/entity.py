"""Which settings an entity lives under: ordered matchers, the first that fits wins."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

_REMEMBERED_MAX = 100_000


@dataclass(frozen=True, slots=True)
class EntityMatcher:
    """Shell-style pattern over the whole entity name: `pump-*`, `site-?/pump-[0-9]`."""

    pattern: str

    def compiled(self) -> re.Pattern[str]:
        """The pattern as a regular expression."""
        return re.compile(fnmatch.translate(self.pattern))


class Profiles:
    """Entity → index of the first matcher that fits, 0 when none does (the defaults)."""

    def __init__(self, matchers: Sequence[EntityMatcher]) -> None:
        self._patterns = [matcher.compiled() for matcher in matchers]
        self._found: dict[str, int] = {}

    def index(self, entity: str) -> int:
        """1 + the position of the first matcher that fits, else 0."""
        if not self._patterns:
            return 0
        found = self._found.get(entity)
        if found is None:
            if len(self._found) >= _REMEMBERED_MAX:
                self._found.clear()
            fits = (position for position, pattern in enumerate(self._patterns, start=1) if pattern.match(entity))
            found = self._found[entity] = next(fits, 0)
        return found
