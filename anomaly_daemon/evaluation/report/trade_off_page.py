"""The page of a tuning: figures before and after, the curve it chose on, the settings patch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anomaly_daemon.evaluation.report import plots
from anomaly_daemon.evaluation.report.page import write_page
from anomaly_daemon.evaluation.report.words import counted, percent, shortened, spelled
from anomaly_daemon.evaluation.tuning.figures import PartFigures, TradeOff
from anomaly_daemon.evaluation.tuning.tuned import Tuned

Row = tuple[str, ...]


def write_trade_off(path: Path, tuned: Tuned, patch: str) -> None:
    """See the package."""
    curve = tuned.trade_off
    is_labelled = any(point.event_recall is not None for point in curve.points)
    drawn = {"volume": plots.loudness(curve)}
    if is_labelled:
        drawn["events"] = plots.events(curve)
    values = {
        "title": f"Tuning: {tuned.wish.text}",
        "tuned": tuned,
        "patch": patch,
        "parts": ("figure", *(f"{when}, {one.part}" for when in ("before", "after") for one in tuned.after)),
        "figures": _figure_rows(tuned),
        "curve_head": (curve.setting, "incidents a day", *(("event recall", "event precision") if is_labelled else ()), "remark"),
        "curve_rows": _curve_rows(curve, is_labelled=is_labelled),
        "is_labelled": is_labelled,
    }
    write_page(path, "trade_off.html.j2", drawn, values)


def _figure_rows(tuned: Tuned) -> list[Row]:
    """A line a figure, a column a part: before, then after; an en dash where nothing could be counted."""
    before: tuple[PartFigures | None, ...] = tuned.before or (None,) * len(tuned.after)
    columns = [None if one is None else _cells(one) for one in (*before, *tuned.after)]
    titles = next(column for column in reversed(columns) if column is not None)
    return [(title, *("–" if column is None else column[title] for column in columns)) for title in titles]


def _cells(one: PartFigures) -> dict[str, str]:
    """Title → text; the same titles for every part."""
    cells = {
        "days": spelled(one.days),
        "incidents": counted(one.incidents),
        "incidents a day": spelled(one.incidents_per_day),
        "noisiest entity, its share": "–" if one.noisiest is None else f"{shortened(one.noisiest)}, {percent(one.noisiest_share)}",
    }
    if one.detection is not None:
        found = one.detection
        cells |= {
            "event recall": spelled(found.event_recall),
            "event precision": spelled(found.event_precision),
            "event F1": spelled(found.event_f1),
            "false alarms a day, of an entity": spelled(found.false_alarms_per_day),
            "median delay, seconds": spelled(found.delay_s_median),
        }
    return cells


def _curve_rows(curve: TradeOff, *, is_labelled: bool) -> list[Row]:
    """A line a point; the last cell says which is in force and which was chosen."""
    sensitivities = np.array([point.sensitivity for point in curve.points])
    marks: dict[int, list[str]] = {}
    for level, remark in ((curve.present, "nearest to the present"), (curve.chosen, "chosen")):
        if len(sensitivities):
            marks.setdefault(int(np.abs(sensitivities - level).argmin()), []).append(remark)
    rows = []
    for place, point in enumerate(curve.points):
        ranked = (spelled(point.event_recall), spelled(point.event_precision)) if is_labelled else ()
        rows.append((spelled(point.sensitivity), spelled(point.incidents_per_day), *ranked, ", ".join(marks.get(place, ()))))
    return rows
