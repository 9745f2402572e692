"""Which rules were in force from which offset on: a reload is a cut in the log, and a recovery from before it honours it.

Noted per partition beside its checkpoints, before the first record under the new rules is processed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

import structlog

from anomaly_daemon.domain.records import Offset, Partition
from anomaly_daemon.pipeline.rules import Rules

log = structlog.get_logger(__name__)

ENTRIES_MAX = 1000
Entry = tuple[Offset, str]


class RuleStore(Protocol):
    """Keeps the entries of each partition, lowest offset first: from that offset on, the rules of that text."""

    def load_rules(self, partition: Partition) -> list[Entry]:
        """What is kept; nothing where there is nothing. Raises OSError."""
        ...

    def save_rules(self, partition: Partition, entries: Sequence[Entry]) -> None:
        """Replace it, durably and at once. Raises OSError."""
        ...


class RuleBook:
    """The rules of now, as text, and those that a recovery still has to pass through.

    What is known of a partition at hand counts, not what the store says of it meanwhile: that may be part of a cut that was refused.
    parse: text → rules; raises ValueError for one that this version cannot read.
    """

    def __init__(self, store: RuleStore, current: str, parse: Callable[[str], Rules]) -> None:
        self._store, self._current, self._parse = store, current, parse
        self._ahead: dict[Partition, list[tuple[Offset, Rules]]] = {}
        self._known: dict[Partition, list[Entry]] = {}
        # The store has, or may have, other entries than are known; and what is yet to be noted behind entries that could not be read.
        self._unsaved: set[Partition] = set()
        self._unread: dict[Partition, tuple[Offset, Offset]] = {}

    @property
    def is_settled(self) -> bool:
        """Whether the store has all that is known."""
        return not (self._unsaved or self._unread)

    def cut(self, committed: Mapping[Partition, Offset], positions: Mapping[Partition, Offset], text: str) -> None:
        """From the committed offsets on the rules are `text`. Raises OSError where that cannot be noted of all: the reload is refused.

        What was noted of some is then taken back, at once or, where the store does not let it, when it does. A partition
        whose position is still before its committed offset goes on under what it passes through, and turns there.
        """
        rules = self._parse(text)
        for partition in list(self._unread):
            self._read(partition)
        entries = {partition: _with(self._known.get(partition, []), offset, text, 0) for partition, offset in committed.items()}
        try:
            for partition in committed:
                self._save(partition, entries[partition])
        except OSError:
            self._unsaved |= committed.keys()
            self.settle()
            raise
        self._known |= entries
        for partition, offset in committed.items():
            ahead = [entry for entry in self._ahead.get(partition, []) if entry[0] < offset]
            self._ahead[partition] = [*ahead, (offset, rules)] if positions[partition] < offset else []
        self._current = text

    def recover(self, partition: Partition, start: Offset, committed: Offset, earliest: Offset) -> Rules:
        """The rules in force at `start`; others follow up to `committed`, from where on it is those of now."""
        known = self._known.get(partition, [])
        try:
            kept = known if partition in self._unsaved else self._store.load_rules(partition) or known
        except OSError as error:
            log.warning(
                "rules_unreadable",
                partition=str(partition),
                error=str(error),
                remedy="see checkpoints.url; where none are known the rules of now are taken for records before the committed offset too",
            )
            kept = known
            if not known:
                self._unread[partition] = (committed, earliest)
        entries = self._known[partition] = _with(kept, committed, self._current, earliest)
        if entries != kept and partition not in self._unread:
            self._unsaved.add(partition)
        self.settle()
        now = self._parse(self._current)
        found = []
        for offset, text in entries:
            try:
                found.append((offset, self._parse(text) if text != self._current else now))
            except ValueError as error:
                log.warning("rules_passed_over", partition=str(partition), offset=offset, error=str(error))
        before = [rules for offset, rules in found if offset <= start]
        self._ahead[partition] = [(offset, rules) for offset, rules in found if offset > start]
        return before[-1] if before else found[0][1] if found else now

    def forget(self, partition: Partition) -> None:
        """The partition is no longer at hand."""
        self.settle()
        for facts in (self._ahead, self._known, self._unread):
            facts.pop(partition, None)
        self._unsaved.discard(partition)

    def settle(self) -> None:
        """What the store could not take before it is given now, as far as it lets it."""
        with suppress(OSError):
            for partition in list(self._unread):
                self._read(partition)
            for partition in sorted(self._unsaved):
                self._save(partition, self._known[partition])

    def next_cuts(self) -> dict[Partition, Offset]:
        """Of the partitions whose rules at hand are not those of now, the offset from which the next are in force."""
        return {partition: ahead[0][0] for partition, ahead in self._ahead.items() if ahead}

    def turn(self, partition: Partition) -> Rules:
        """The rules from the next cut on, which is passed."""
        return self._ahead[partition].pop(0)[1]

    def _read(self, partition: Partition) -> None:
        """What was to be noted is noted behind what the store has. Raises OSError."""
        offset, earliest = self._unread[partition]
        self._known[partition] = _with(self._store.load_rules(partition), offset, self._current, earliest)
        del self._unread[partition]
        self._save(partition, self._known[partition])

    def _save(self, partition: Partition, entries: Sequence[Entry]) -> None:
        self._unsaved.add(partition)  # what raises may have written all the same
        self._store.save_rules(partition, entries)
        self._unsaved.discard(partition)


def _with(kept: Sequence[Entry], offset: Offset, text: str, earliest: Offset) -> list[Entry]:
    """These, with `text` in force from `offset` on; those that no retained record was under are left out."""
    entries = [entry for entry in kept if entry[0] < offset]
    if not entries or entries[-1][1] != text:
        entries.append((offset, text))
    while len(entries) > 1 and entries[1][0] <= earliest:
        entries.pop(0)
    if len(entries) > ENTRIES_MAX:
        log.warning("rules_forgotten", entries=len(entries) - ENTRIES_MAX, reason="reloads beyond the bound")
    return entries[-ENTRIES_MAX:]
