"""Which settings an entity lives under: ordered matchers, the first that fits wins."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass


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

    def index(self, entity: str) -> int:
        """1 + the position of the first matcher that fits, else 0."""
        for position, pattern in enumerate(self._patterns, start=1):
            if pattern.match(entity):
                return position
        return 0
