"""The page of a comparison: incidents of two sides on one timeline, what changed, and what differs that may explain it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from anomaly_daemon.evaluation.comparison import Change, Comparison, Side, SideIncident
from anomaly_daemon.evaluation.report import plots
from anomaly_daemon.evaluation.report.page import write_page
from anomaly_daemon.evaluation.report.words import counted, moment, shortened

CHANGES_SHOWN_MAX: Final = 2000
DIFFERENCES_SHOWN_MAX: Final = 200
ENTITIES_DRAWN_MAX: Final = 30
_TEXT_CHARACTERS_MAX: Final = 300

Row = tuple[str, ...]


def write_comparison(path: Path, comparison: Comparison) -> None:
    """See the package."""
    shown = comparison.changes[:CHANGES_SHOWN_MAX]
    entities = list(dict.fromkeys(change.latest.entity for change in shown))
    on_timeline = entities[:ENTITIES_DRAWN_MAX]
    drawn = {"changes": plots.changes([change for change in shown if change.latest.entity in set(on_timeline)], on_timeline)} if shown else {}
    values = {
        "title": f"Comparison: {shortened(comparison.before.name)} and {shortened(comparison.after.name)}",
        "comparison": comparison,
        "sides": _side_rows(comparison.before, comparison.after),
        "changes": [_change_row(change) for change in shown],
        "changes_left_out": len(comparison.changes) - len(shown),
        "entities_left_out": len(entities) - len(on_timeline),
        "differences": [
            (one.cause, shortened(one.key), *(shortened(text or "nothing", _TEXT_CHARACTERS_MAX) for text in (one.before, one.after)))
            for one in comparison.differences[:DIFFERENCES_SHOWN_MAX]
        ],
        "differences_left_out": max(0, len(comparison.differences) - DIFFERENCES_SHOWN_MAX),
    }
    write_page(path, "comparison.html.j2", drawn, values)


def _change_row(change: Change) -> Row:
    """Kind, entity, start, end, severity, peak, causes: before → after where they differ."""
    sides = [one for one in (change.before, change.after) if one is not None]
    return (
        change.kind,
        shortened(change.latest.entity),
        _turned([moment(one.starts_at_us) for one in sides]),
        _turned([_end(one) for one in sides]),
        _turned([one.severity for one in sides]),
        _turned(["" if one.peak_score is None else f"{one.peak_score:.3f}" for one in sides]),
        ", ".join(change.causes),
    )


def _side_rows(before: Side, after: Side) -> list[Row]:
    """What each side is."""
    columns = [_side_cells(side) for side in (before, after)]
    return [(title, *(column[title] for column in columns)) for title in columns[0]]


def _side_cells(side: Side) -> dict[str, str]:
    ranges = [f"{partition} from {offsets.start} to before {offsets.stop}" for partition, offsets in sorted((side.ranges or {}).items())]
    return {
        "name": shortened(side.name),
        "source": "export" if side.is_export else "alerts",
        "incidents": counted(len(side.incidents)),
        "detector": _listed(sorted(side.detector_ids)),
        "model": _listed([str(model) for model in sorted(side.models)]),
        "settings": _listed(sorted(side.settings_hashes)),
        "version": side.version or "–",
        "range": _listed(ranges),
    }


def _end(incident: SideIncident) -> str:
    if incident.is_open:
        return "still open"
    return moment(incident.ends_at_us)


def _turned(texts: Sequence[str]) -> str:
    return " → ".join(dict.fromkeys(texts))


def _listed(texts: Sequence[str], texts_max: int = 5) -> str:
    more = f" and {len(texts) - texts_max} more" if len(texts) > texts_max else ""
    return ", ".join(shortened(text) for text in texts[:texts_max]) + more or "–"
