"""The plots of a report, as Bokeh figures: glyphs in colours that stand on light and dark, the rest from the page's own CSS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, InlineStyleSheet
from bokeh.models.annotations import Legend
from bokeh.models.renderers import DataRenderer
from bokeh.plotting import figure

from anomaly_daemon.evaluation.comparison import Change
from anomaly_daemon.evaluation.report.incidents import SEVERITIES, Incident
from anomaly_daemon.evaluation.report.survey import Survey
from anomaly_daemon.evaluation.report.tallies import LEVELS, Floats, Histogram
from anomaly_daemon.evaluation.report.words import plotted, spelled
from anomaly_daemon.evaluation.tuning.figures import TradeOff

# At least 3:1 on white and on the dark page; told apart by lightness, dash and shape too, not by hue alone.
BLUE: Final = "#2f7fc1"
ORANGE: Final = "#c77700"
PURPLE: Final = "#b0429b"
GREY: Final = "#7d858f"
MARKS: Final = {"critical": (PURPLE, "star", 15), "high": (ORANGE, "square", 9), "medium": (BLUE, "triangle", 10), "low": (GREY, "circle", 7)}
CHANGE_MARKS: Final = {"added": (PURPLE, "plus"), "gone": (GREY, "x"), "moved": (ORANGE, "diamond"), "re-graded": (BLUE, "triangle")}
_IN_FORCE_MAX: Final = 20

# The page defines these variables for light, dark and print; Bokeh asks for them whenever it paints.
_STYLE: Final = """
:host {
  --bk-background-fill-color: transparent; --bk-border-fill-color: transparent; --bk-outline-line-color: var(--rule);
  --bk-axis-line-color: var(--quiet); --bk-major-tick-line-color: var(--quiet); --bk-minor-tick-line-color: transparent;
  --bk-major-label-text-color: var(--text); --bk-axis-label-text-color: var(--text); --bk-title-text-color: var(--text);
  --bk-label-text-color: var(--text); --bk-grid-line-color: var(--rule);
  --bk-major-label-text-font: system-ui, sans-serif; --bk-axis-label-text-font: system-ui, sans-serif; --bk-label-text-font: system-ui, sans-serif;
  --bk-axis-label-text-font-style: normal; --bk-major-label-text-font-size: 12px; --bk-axis-label-text-font-size: 13px;
}
"""
# A legend is elements of its own, with the text's colour set on each of them.
_LEGEND_STYLE: Final = ".bk-label { color: var(--text) !important; } .bk-item.bk-inactive { opacity: 0.45; }"


def timeline(incidents: Sequence[Incident], entities: Sequence[str], last_us: int) -> figure:
    """Incidents as bars from start to end with a mark at the peak, a line an entity. Source `timeline` tells the rank of each, from 1."""
    rows = [f"{place}. {plotted(entity, 28)}" for place, entity in enumerate(entities, start=1)]
    row_of = dict(zip(entities, rows, strict=True))
    plot = _figure(height=110 + 24 * len(rows), y_range=rows[::-1], x_axis_type="datetime", x_axis_label="event time, UTC")
    marked: list[DataRenderer] = []
    for severity in SEVERITIES:
        ranked = [(rank, one) for rank, one in enumerate(incidents, start=1) if one.severity == severity and one.entity in row_of]
        if not ranked:
            continue
        colour, marker, size = MARKS[severity]
        source = ColumnDataSource(
            {
                "rank": np.array([rank for rank, _ in ranked]),
                "row": [row_of[one.entity] for _, one in ranked],
                "start": _milliseconds([one.starts_us for _, one in ranked]),
                "end": _milliseconds([last_us if one.ends_us is None else one.ends_us for _, one in ranked]),
                "peak_at": _milliseconds([one.peak_us for _, one in ranked]),
                "peak": ["none" if one.peak_score is None else f"{one.peak_score:.3f}" for _, one in ranked],
                "kind": [plotted(one.kind, 40) for _, one in ranked],
            },
            name=f"timeline {severity}",
        )
        bars = plot.segment("start", "row", "end", "row", source=source, line_color=colour, line_width=6, line_alpha=0.55)
        marks = plot.scatter("peak_at", "row", source=source, marker=marker, size=size, color=colour, legend_label=severity)
        marked += [bars, marks]
    tips = [("incident", "@rank @kind"), ("of", "@row"), ("from", "@start{%F %T}"), ("to", "@end{%F %T}"), ("peak score", "@peak")]
    plot.add_tools(HoverTool(renderers=marked, tooltips=tips, formatters={"@start": "datetime", "@end": "datetime"}))
    plot.add_tools("tap")
    return _with_legend(plot)


def scores() -> figure:
    """The frame for scores over time; the page fills sources `scores`, `thresholds` and `anomalies` with the series that is chosen."""
    plot = _figure(height=300, x_axis_type="datetime", x_axis_label="event time, UTC", y_axis_label="anomaly score")
    thresholds = ColumnDataSource({"x": [], "low": [], "high": []}, name="thresholds")
    plot.varea("x", "low", "high", source=thresholds, color=ORANGE, alpha=0.22, legend_label="threshold, lowest to highest")
    plot.line("x", "high", source=thresholds, color=ORANGE, line_dash="dashed", legend_label="threshold, lowest to highest")
    plot.line("x", "y", source=ColumnDataSource({"x": [], "y": []}, name="scores"), color=BLUE, legend_label="score, lowest to highest")
    anomalies = ColumnDataSource({"x": [], "y": []}, name="anomalies")
    plot.scatter("x", "y", source=anomalies, marker="triangle", size=7, color=PURPLE, legend_label="above the threshold")
    return _with_legend(plot)


def window() -> figure:
    """The frame for one feature of one incident; the page fills source `window` and `band`."""
    plot = _figure(height=170, is_small=True)
    points = ColumnDataSource({"x": [], "actual": [], "reconstructed": []}, name="window")
    band = ColumnDataSource({"x": [], "lower": [], "upper": [], "expected": []}, name="band")
    plot.segment("x", "lower", "x", "upper", source=band, color=ORANGE, line_width=7, line_alpha=0.5, legend_label="expected")
    plot.line("x", "reconstructed", source=points, color=ORANGE, line_dash="dashed", legend_label="reconstructed")
    plot.scatter("x", "expected", source=band, marker="dash", size=14, color=ORANGE, line_width=3, legend_label="expected")
    plot.line("x", "actual", source=points, color=BLUE, legend_label="actual")
    plot.scatter("x", "actual", source=points, size=5, color=BLUE, legend_label="actual")
    return _with_legend(plot)


def distribution(found: Survey) -> figure:
    """How many judged records have which score, below their threshold and above, and where the thresholds lie."""
    plot = _figure(height=300, y_axis_type="log", x_axis_label="anomaly score", y_axis_label="records")
    for counted, colour, dash, label in (
        (found.normal, BLUE, "solid", "at most the threshold"),
        (found.anomalous, PURPLE, "dashed", "above the threshold"),
        (found.thresholds, ORANGE, "dotted", "thresholds in force"),
    ):
        if counted.counts.any():
            plot.step(_centres(counted), _positive(counted.counts), mode="center", color=colour, line_dash=dash, line_width=2, legend_label=label)
    return _with_legend(plot)


def deviations(counted: Histogram, in_force: Sequence[float]) -> figure:
    """Deviations of the log score against the normal distribution, from which the threshold's tail probability is taken."""
    plot = _figure(height=300, y_axis_type="log", x_axis_label="deviations of the log score above its mean", y_axis_label="records")
    centres, total = _centres(counted), counted.counts.sum()
    width = counted.edges[1] - counted.edges[0]
    normal = total * width * np.exp(-(centres**2) / 2) / np.sqrt(2 * np.pi)
    is_shown = normal >= 0.5
    plot.step(centres, _positive(counted.counts), mode="center", color=BLUE, line_width=2, legend_label="observed")
    plot.line(centres[is_shown], normal[is_shown], color=GREY, line_dash="dashed", line_width=2, legend_label="normal distribution")
    _mark_in_force(plot, in_force, _positive(counted.counts))
    return _with_legend(plot)


def calibration(found: Survey) -> figure:
    """Observed share of records against the nominal tail probability, on log axes."""
    plot = _figure(
        height=340, x_axis_type="log", y_axis_type="log", x_axis_label="nominal tail probability", y_axis_label="observed share of records"
    )
    plot.line([1e-4, 1], [1e-4, 1], color=GREY, line_dash="dashed", line_width=2, legend_label="calibrated")
    for tails, colour, marker, label in (
        (found.all_tails, BLUE, "circle", "all judged records"),
        (found.calm_tails, ORANGE, "square", "outside incidents"),
    ):
        if not tails.records:
            continue
        share = _positive(tails.observed()) / tails.records
        plot.line(LEVELS, share, color=colour, line_width=2, legend_label=label)
        plot.scatter(LEVELS[::4], share[::4], color=colour, marker=marker, size=7, legend_label=label)
    bars = [(level, *interval) for level, _, _, interval in found.all_tails.tabled() if interval is not None and interval[0] > 0]
    if bars:
        level, low, high = zip(*bars, strict=True)
        plot.segment(level, low, level, high, color=BLUE, line_width=2, line_alpha=0.6, legend_label="95 % between entities")
    plot.xaxis.ticker = plot.yaxis.ticker = FixedTicker(ticks=[1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1])
    return _with_legend(plot)


def volume(found: Survey, incidents: int) -> figure:
    """What a threshold would let through: records and runs of them above each level, a day of event time."""
    days = found.roll.days
    unit, divisor = ("a day", days) if days else ("in the range", 1.0)
    scale = found.scale
    plot = _figure(height=340, y_axis_type="log", x_axis_label=scale.title, y_axis_label=f"number {unit}, all entities together")
    for counted, colour, dash, label in (
        (found.crossings.records(), BLUE, "solid", "records above"),
        (found.crossings.runs(), ORANGE, "dashed", "runs above"),
    ):
        plot.line(scale.grid, _positive(counted) / divisor, color=colour, line_dash=dash, line_width=2, legend_label=label)
    _mark_in_force(plot, scale.in_force, _positive(found.crossings.records()) / divisor)
    if scale.in_force and incidents:
        plot.scatter([scale.in_force[0]], [incidents / divisor], marker="star", size=16, color=PURPLE, legend_label="incidents")
    return _with_legend(plot)


def loudness(curve: TradeOff) -> figure:
    """Incidents a day at each sensitivity, with the present one, the chosen one and the budget."""
    plot = _figure(height=340, x_axis_label=curve.setting, y_axis_label="incidents a day")
    sensitivities = np.array([point.sensitivity for point in curve.points])
    rates = np.array([point.incidents_per_day for point in curve.points])
    plot.line(sensitivities, rates, color=BLUE, line_width=2, legend_label="incidents")
    plot.scatter(sensitivities, rates, color=BLUE, size=6, legend_label="incidents")
    if curve.budget_per_day is not None and len(sensitivities):
        ends = [sensitivities.min(), sensitivities.max()]
        plot.line(ends, [curve.budget_per_day] * 2, color=GREY, line_dash="dashed", line_width=2, legend_label="budget")
    _mark_choice(plot, curve, rates)
    return _with_legend(plot)


def events(curve: TradeOff) -> figure:
    """Event recall and precision at each sensitivity, with the present one and the chosen one."""
    plot = _figure(height=340, x_axis_label=curve.setting, y_axis_label="share of events, of alarms", y_range=(0, 1.02))
    sensitivities = np.array([point.sensitivity for point in curve.points])
    for shares, colour, marker, dash, label in (
        ([point.event_recall for point in curve.points], BLUE, "circle", "solid", "event recall"),
        ([point.event_precision for point in curve.points], ORANGE, "square", "dashed", "event precision"),
    ):
        values = np.array([np.nan if share is None else share for share in shares])
        plot.line(sensitivities, values, color=colour, line_dash=dash, line_width=2, legend_label=label)
        plot.scatter(sensitivities, values, color=colour, marker=marker, size=6, legend_label=label)
    _mark_choice(plot, curve, np.array([0.0, 1.0]))
    return _with_legend(plot)


def changes(changed: Sequence[Change], entities: Sequence[str]) -> figure:
    """Changed incidents as bars, before above after, a line an entity; a mark at the start tells what happened."""
    row_of = {entity: len(entities) - place for place, entity in enumerate(entities)}
    plot = _figure(height=110 + 30 * len(entities), x_axis_type="datetime", x_axis_label="event time, UTC", y_range=(0.4, len(entities) + 0.6))
    plot.yaxis.ticker = FixedTicker(ticks=list(row_of.values()))
    plot.yaxis.major_label_overrides = {row: plotted(entity, 28) for entity, row in row_of.items()}
    plot.ygrid.visible = False
    for side, lift, colour in (("before", 0.15, GREY), ("after", -0.15, BLUE)):
        found = [one for change in changed if (one := change.before if side == "before" else change.after) is not None]
        if found:
            rows = [row_of[one.entity] + lift for one in found]
            start = _milliseconds([one.starts_at_us for one in found])
            end = _milliseconds([one.starts_at_us if one.ends_at_us is None else one.ends_at_us for one in found])
            plot.segment(start, rows, end, rows, color=colour, line_width=7, line_alpha=0.7, legend_label=side)
    for kind, (colour, marker) in CHANGE_MARKS.items():
        marked = [change for change in changed if change.kind == kind]
        if marked:
            rows = [row_of[change.latest.entity] + (0.15 if change.after is None else -0.15) for change in marked]
            start = _milliseconds([change.latest.starts_at_us for change in marked])
            plot.scatter(start, rows, marker=marker, size=11, color=colour, line_width=2, legend_label=kind)
    return _with_legend(plot)


def _figure(*, height: int, is_small: bool = False, **options: Any) -> figure:
    """An empty plot as wide as its place; wheel and drag stay with the page until a tool is chosen."""
    tools = "" if is_small else "box_zoom,xpan,reset,save"
    plot = figure(height=height, sizing_mode="stretch_width", tools=tools, toolbar_location=None if is_small else "right", **options)
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    plot.toolbar.active_drag = None
    plot.stylesheets.append(InlineStyleSheet(css=_STYLE))
    plot.min_border_right = 12
    return plot


def _with_legend(plot: figure) -> figure:
    """The legend above the plot, in one line, where it hides nothing."""
    for legend in [one for one in plot.center if isinstance(one, Legend)]:
        legend.orientation = "horizontal"
        legend.border_line_color = legend.background_fill_color = legend.inactive_fill_color = None
        legend.stylesheets.append(InlineStyleSheet(css=_LEGEND_STYLE))
        legend.update(padding=0, margin=0)
        legend.spacing = 10
        legend.click_policy = "hide"
        plot.center = [one for one in plot.center if one is not legend]
        plot.add_layout(legend, "above")
    return plot


def _mark_in_force(plot: figure, levels: Sequence[float], counts: Floats) -> None:
    """A vertical line at each, as high as the counts, which are positive or NaN."""
    shown = levels[:_IN_FORCE_MAX]
    if shown and np.isfinite(counts).any():
        label = f"in force: {', '.join(spelled(one) for one in levels[:3])}{' …' if len(levels) > 3 else ''}"
        low, high = [np.nanmin(counts)] * len(shown), [np.nanmax(counts)] * len(shown)
        plot.segment(shown, low, shown, high, color=PURPLE, line_dash="dotted", line_width=2, legend_label=label)


def _mark_choice(plot: figure, curve: TradeOff, heights: Floats) -> None:
    """The present and the chosen sensitivity as vertical lines."""
    if not len(heights):
        return
    low, high = min(0.0, float(heights.min())), float(heights.max())
    marked = [(curve.present, GREY, "dotted", "present"), (curve.chosen, PURPLE, "dotdash", "chosen")]
    if curve.present == curve.chosen:
        marked = [(curve.chosen, PURPLE, "dotdash", "present and chosen")]
    for level, colour, dash, label in marked:
        plot.segment([level], [low], [level], [high], color=colour, line_dash=dash, line_width=2, legend_label=f"{label}: {spelled(level)}")


def _centres(counted: Histogram) -> Floats:
    return np.asarray((counted.edges[1:] + counted.edges[:-1]) / 2)


def _positive(counts: Any) -> Floats:
    """A log axis cannot show nothing: NaN leaves a gap."""
    return np.where(counts > 0, counts, np.nan)


def _milliseconds(times_us: Sequence[int]) -> Floats:
    return np.array(times_us, np.float64) / 1000
