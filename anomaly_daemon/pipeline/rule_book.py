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

    parse: text → rules; raises ValueError for one that this version cannot read.
    """

    def __init__(self, store: RuleStore, current: str, parse: Callable[[str], Rules]) -> None:
        self._store, self._current, self._parse = store, current, parse
        self._ahead: dict[Partition, list[tuple[Offset, Rules]]] = {}
        # What counts in place of what the store says: it has, or may have, part of a cut that was refused.
        self._withdrawn: dict[Partition, list[Entry]] = {}

    def cut(self, committed: Mapping[Partition, Offset], positions: Mapping[Partition, Offset], text: str) -> None:
        """From the committed offsets on the rules are `text`. Raises OSError where that cannot be noted of all: the reload is refused.

        What was noted of some is then taken back, at once or, where the store does not let it, as soon as it does. A partition
        whose position is still before its committed offset goes on under what it passes through, and turns there.
        """
        rules = self._parse(text)
        before = {partition: self._kept(partition) for partition in committed}
        try:
            for partition, offset in committed.items():
                self._note(partition, offset, text, 0)
        except OSError:
            self._withdrawn |= before
            self.settle()
            raise
        for partition, offset in committed.items():
            ahead = [entry for entry in self._ahead.get(partition, []) if entry[0] < offset]
            self._ahead[partition] = [*ahead, (offset, rules)] if positions[partition] < offset else []
        self._current = text

    def recover(self, partition: Partition, start: Offset, committed: Offset, earliest: Offset) -> Rules:
        """The rules in force at `start`; others follow up to `committed`, from where on it is those of now."""
        now = self._parse(self._current)
        try:
            entries = self._note(partition, committed, self._current, earliest)
        except OSError as error:
            log.warning(
                "rules_unreadable",
                partition=str(partition),
                error=str(error),
                remedy="see checkpoints.url; the rules of now are taken for records before the committed offset too",
            )
            entries = []
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
        self._ahead.pop(partition, None)
        self.settle()
        self._withdrawn.pop(partition, None)

    def settle(self) -> None:
        """Take back what is left of a refused cut, where the store lets it: before somebody else reads it."""
        for partition, entries in list(self._withdrawn.items()):
            with suppress(OSError):
                self._save(partition, entries)

    def next_cuts(self) -> dict[Partition, Offset]:
        """Of the partitions whose rules at hand are not those of now, the offset from which the next are in force."""
        return {partition: ahead[0][0] for partition, ahead in self._ahead.items() if ahead}

    def turn(self, partition: Partition) -> Rules:
        """The rules from the next cut on, which is passed."""
        return self._ahead[partition].pop(0)[1]

    def _note(self, partition: Partition, offset: Offset, text: str, earliest: Offset) -> list[Entry]:
        """The entries with `text` in force from `offset` on; those that no retained record was under are dropped."""
        kept = self._kept(partition)
        entries = [entry for entry in kept if entry[0] < offset]
        if not entries or entries[-1][1] != text:
            entries.append((offset, text))
        while len(entries) > 1 and entries[1][0] <= earliest:
            entries.pop(0)
        if len(entries) > ENTRIES_MAX:
            log.warning("rules_forgotten", partition=str(partition), entries=len(entries) - ENTRIES_MAX, reason="reloads beyond the bound")
            entries = entries[-ENTRIES_MAX:]
        if entries != kept or partition in self._withdrawn:
            self._save(partition, entries)
        return entries

    def _kept(self, partition: Partition) -> list[Entry]:
        return self._withdrawn[partition] if partition in self._withdrawn else self._store.load_rules(partition)

    def _save(self, partition: Partition, entries: Sequence[Entry]) -> None:
        self._store.save_rules(partition, entries)
        self._withdrawn.pop(partition, None)
