"""`diff`: which incidents differ between two replays, or between a replay and what live published, and why."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from anomaly_daemon.adapters.whole_file import refuse_targets
from anomaly_daemon.commands.incidents import PIPE_COLUMNS, SEVERITY_STYLES, plain, printable
from anomaly_daemon.domain.errors import InputError, TopicError
from anomaly_daemon.domain.times import EPOCH
from anomaly_daemon.evaluation.comparison import (
    Change,
    Comparison,
    Difference,
    Side,
    SideIncident,
    changes_between,
    compare,
    is_regraded,
    refuse_incomparable,
)
from anomaly_daemon.incidents.alerts import rfc3339
from anomaly_daemon.settings import load
from anomaly_daemon.telemetry import logging

LIVE: Final = "live"
TABLE_LINES: Final = 100
DIFFERENCES_TOLD: Final = 20
_KEYS_TOLD: Final = 3
_PARQUET: Final = b"PAR1"


def run(options: argparse.Namespace) -> int:
    """Compare, write the page, print, and with --fail-on-change tell by the exit code."""
    if options.limit is not None and options.limit < 1:
        raise InputError(f"--limit {options.limit}: show at least one")
    refuse_targets([options.report], [*map(Path, (options.before, options.after)), *options.config], is_forced=options.force)
    comparison = compared(*_sides(options))
    if options.report is not None:
        from anomaly_daemon.evaluation.report import write_comparison

        write_comparison(options.report, comparison)
    if options.format == "json":
        print(json.dumps(as_json(comparison, options.limit), ensure_ascii=False, allow_nan=False))
    else:
        console = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False)
        show(comparison, options.limit or TABLE_LINES, console)
    if options.fail_on_change and (comparison.changes or comparison.untold):
        print(f"anomaly-daemon diff: {_summary(comparison)}: exit code 1, as --fail-on-change asks", file=sys.stderr)
        return 1
    return 0


def compared(before: Side, after: Side) -> Comparison:
    """The whole comparison. Raises InputError where the sides have nothing in common."""
    from anomaly_daemon.evaluation.comparison.causes import differences_between

    refuse_incomparable(before, after)
    changes, same = changes_between(before.incidents, after.incidents)
    return compare(before, after, changes, same, differences_between(before, after, with_rows=bool(changes)))


def show(comparison: Comparison, lines: int, console: Console) -> None:
    """A line per change, what differs, notes, and a line that sums up."""
    if comparison.changes:
        console.print(as_table(comparison, lines))
        left_out = len(comparison.changes) - lines
        if left_out > 0:
            console.print(f"{left_out:,} more changes are left out; --limit {len(comparison.changes)} shows all")
    for difference in comparison.differences[:DIFFERENCES_TOLD]:
        words = f"{difference.before or 'nothing'} → {difference.after or 'nothing'}"
        console.print(Text(f"{difference.cause}: {plain(difference.key)}: {plain(words)}"), soft_wrap=True)
    if len(comparison.differences) > DIFFERENCES_TOLD:
        console.print(f"and {len(comparison.differences) - DIFFERENCES_TOLD:,} more differences; --format json names all")
    for note in comparison.notes:
        console.print(Text(f"note: {plain(note)}"), soft_wrap=True)
    console.print(_summary(comparison))


def as_table(comparison: Comparison, lines: int) -> Table:
    """The first so many changes, a line each."""
    table = Table(caption="times in UTC; before → after where they differ", caption_justify="left")
    for heading in ("change", "entity", "started", "ended", "severity"):
        table.add_column(heading)
    table.add_column("peak", justify="right")
    table.add_column("because of", ratio=1)
    for change in comparison.changes[:lines]:
        sides = [one for one in (change.before, change.after) if one is not None]
        table.add_row(
            change.kind,
            printable(change.latest.entity),
            _turned([_time(one.starts_at_us) for one in sides]),
            _turned([_end(one) for one in sides]),
            Text(_turned_word([one.severity for one in sides]), style=SEVERITY_STYLES[change.latest.severity]),
            _turned(["" if one.peak_score is None else f"{one.peak_score:.3f}" for one in sides]),
            printable(_because(change, comparison.differences)),
        )
    return table


def as_json(comparison: Comparison, limit: int | None) -> dict[str, Any]:
    """The comparison as one JSON object; `left_out` changes are beyond the limit."""
    shown = comparison.changes[:limit]
    return {
        "before": _side_json(comparison.before),
        "after": _side_json(comparison.after),
        "counts": {**comparison.counts, "same": comparison.same},
        "changes": [
            {
                "kind": change.kind,
                "entity": change.latest.entity,
                "is_regraded": change.before is not None and change.after is not None and is_regraded(change.before, change.after),
                "causes": list(change.causes),
                "before": None if change.before is None else _incident_json(change.before),
                "after": None if change.after is None else _incident_json(change.after),
            }
            for change in shown
        ],
        "left_out": len(comparison.changes) - len(shown),
        "differences": [{"cause": one.cause, "key": one.key, "before": one.before, "after": one.after} for one in comparison.differences],
        "notes": list(comparison.notes),
        "untold": list(comparison.untold),
    }


def _side_json(side: Side) -> dict[str, Any]:
    ranges = None if side.ranges is None else {str(partition): {"from": one.start, "to": one.stop} for partition, one in sorted(side.ranges.items())}
    return {
        "name": side.name,
        "source": "export" if side.is_export else "alerts",
        "version": side.version,
        "detector_ids": sorted(side.detector_ids),
        "models": [{"name": one.name, "version": one.version, "fingerprint": one.fingerprint} for one in sorted(side.models)],
        "settings_hashes": sorted(side.settings_hashes),
        "ranges": ranges,
        "incidents": len(side.incidents),
    }


def _incident_json(incident: SideIncident) -> dict[str, Any]:
    is_ended = incident.ends_at_us is not None and not incident.is_open
    return {
        "incident_id": incident.incident_id,
        "partition": str(incident.partition),
        "first_offset": incident.first_offset,
        "starts_at": rfc3339(incident.starts_at_us),
        "ends_at": rfc3339(incident.ends_at_us) if is_ended and incident.ends_at_us is not None else None,
        "is_open": incident.is_open,
        "is_partial": incident.is_partial,
        "severity": incident.severity,
        "peak": incident.peak_score,
    }


def _sides(options: argparse.Namespace) -> tuple[Side, Side]:
    """Both sides read, exports first: their range says which alerts count."""
    words = (options.before, options.after)
    sides: dict[int, Side] = {}
    for place in sorted(range(2), key=lambda place: not _is_export(words[place])):
        other = sides.get(1 - place)
        sides[place] = _read(words[place], other if other is not None and other.is_export else None, options)
    return sides[0], sides[1]


def _read(word: str, other: Side | None, options: argparse.Namespace) -> Side:
    from anomaly_daemon.evaluation.comparison.alerts import read_alerts
    from anomaly_daemon.evaluation.comparison.exports import read_export

    if word == LIVE:
        if other is None:
            raise InputError("live: the other side must be an export, whose range says which alerts count; write one with `replay --export`")
        return _read_live(options, other)
    return read_export(Path(word)) if _is_export(word) else read_alerts(Path(word), other)


def _is_export(word: str) -> bool:
    """By its first bytes; one that cannot be read is told as what its name says."""
    if word == LIVE:
        return False
    try:
        with Path(word).open("rb") as file:
            return file.read(len(_PARQUET)) == _PARQUET or word.endswith(".parquet")
    except OSError:
        return word.endswith(".parquet")


def _read_live(options: argparse.Namespace, other: Side) -> Side:
    """What the daemon published on the alerts topic of the settings."""
    from anomaly_daemon.evaluation.comparison.alerts import AlertsFold
    from anomaly_daemon.pipeline.topic_reader import TopicReader
    from anomaly_daemon.wiring import open_source, open_topics

    settings = load(options.config, options.assignments)
    logging.configure("warning", options.log_format or settings.logging.format)
    topic = settings.output.alerts_topic
    with closing(open_topics(settings)) as topics:
        if topic not in topics.partitions([topic]):
            raise TopicError(f"{settings.log}: no topic {topic}; nothing was published there, or -c FILE or output.alerts_topic names another")
    fold = AlertsFold(LIVE, other)
    with closing(open_source(settings, topics=(topic,))) as source:
        for record in chain.from_iterable(TopicReader(source).to_end()):
            fold.add(record.value or b"")
    if fold.foreign:
        print(f"{topic}: {fold.foreign} records are no alerts of schema 1.0 and were passed over", file=sys.stderr)
    return fold.side()


def _because(change: Change, differences: tuple[Difference, ...]) -> str:
    """The causes, the settings by name."""
    keys = [one.key for one in differences if one.cause == "settings"]
    more = f" and {len(keys) - _KEYS_TOLD} more" if len(keys) > _KEYS_TOLD else ""
    named = f"settings ({', '.join(keys[:_KEYS_TOLD])}{more})"
    return ", ".join(named if cause == "settings" else cause for cause in change.causes)


def _summary(comparison: Comparison) -> str:
    if not comparison.changes:
        told = "no incident differs" if not comparison.untold else "no incident that exports hold differs, of others they cannot tell"
        return f"{told}; {comparison.same:,} are the same"
    counts = ", ".join(f"{count:,} {kind}" for kind, count in comparison.counts.items())
    return f"{counts}; {comparison.same:,} are the same"


def _turned(texts: list[str]) -> Text:
    return Text(_turned_word(texts))


def _turned_word(texts: list[str]) -> str:
    return " → ".join(dict.fromkeys(texts))


def _end(incident: SideIncident) -> str:
    if incident.is_open:
        return "open"
    return "unknown" if incident.ends_at_us is None else _time(incident.ends_at_us)


def _time(time_us: int) -> str:
    return datetime.strftime((EPOCH + timedelta(microseconds=time_us)).astimezone(UTC), "%Y-%m-%d %H:%M:%S")
