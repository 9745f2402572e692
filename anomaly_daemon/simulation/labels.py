"""Planted anomalies as intervals: written to a CSV of their own, read back, and compared with what was announced."""

from __future__ import annotations

import csv
import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.simulation.stream import Label, iso_time, parse_iso_us

COLUMNS = ("entity", "start", "end", "kind", "channels")


class Ledger:
    """Holds each label until its last record is written, so that an interrupted simulation labels no more than it wrote."""

    def __init__(self, file: TextIO | None) -> None:
        self._writer = None if file is None else csv.writer(file, lineterminator="\n")
        self._pending: list[tuple[int, Label]] = []
        self.kinds: Counter[str] = Counter()
        if self._writer is not None:
            self._writer.writerow(COLUMNS)

    def add(self, labels: Iterable[Label]) -> None:
        """Take note of anomalies under way or to come."""
        for label in labels:
            heapq.heappush(self._pending, (label.end_us, label))

    def settle(self, until_us: int) -> None:
        """Write those that ended before this time."""
        while self._pending and self._pending[0][0] < until_us:
            self._write(heapq.heappop(self._pending)[1], until_us)

    def finish(self, until_us: int) -> None:
        """Write those that began before this time, cut off there, and forget those that did not."""
        self.settle(until_us)
        for _, label in sorted(self._pending):
            if label.start_us < until_us:
                self._write(label, until_us)
        self._pending.clear()

    def _write(self, label: Label, until_us: int) -> None:
        self.kinds[label.kind] += 1
        if self._writer is not None:
            end_us = min(label.end_us, until_us)
            self._writer.writerow((label.entity, iso_time(label.start_us), iso_time(end_us), label.kind, " ".join(label.channels)))


def read_labels(path: Path) -> list[Label]:
    """The labels of a file that `Ledger` wrote. Raises InputError where it is not one."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [_label(row) for row in rows]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; `anomaly-daemon simulate … --labels {path}` writes it") from None
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: not a labels file with the columns {', '.join(COLUMNS)}: {error}") from None


def _label(row: dict[str, str]) -> Label:
    return Label(row["entity"], parse_iso_us(row["start"]), parse_iso_us(row["end"]), row["kind"], tuple(row["channels"].split()))


@dataclass(frozen=True, slots=True)
class Span:
    """An announced interval of one entity, ends included."""

    entity: str
    start_us: int
    end_us: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """found, missed: the labels, in their order; false: announced spans that touch no label of their entity."""

    found: list[Label]
    missed: list[Label]
    false: list[Span]


def compare(labels: Sequence[Label], spans: Sequence[Span], grace_us: int = 0) -> Comparison:
    """Which labels some span of the same entity overlaps, and which spans overlap none.

    grace_us: an anomaly still counts as met this long after its end: evidence of it comes late.
    """

    def is_met(label: Label, span: Span) -> bool:
        return label.entity == span.entity and label.start_us <= span.end_us and span.start_us <= label.end_us + grace_us

    found = [label for label in labels if any(is_met(label, span) for span in spans)]
    missed = [label for label in labels if label not in found]
    false = [span for span in spans if not any(is_met(label, span) for label in labels)]
    return Comparison(found, missed, false)
