"""The report on a run, put together: incidents, survey, plots, page."""

from __future__ import annotations

from pathlib import Path

from anomaly_daemon.evaluation.measures import Evaluation
from anomaly_daemon.evaluation.notes import notes_of
from anomaly_daemon.evaluation.report import compose, plots
from anomaly_daemon.evaluation.report.facts import ReportFacts
from anomaly_daemon.evaluation.report.incidents import read_bodies, read_incidents
from anomaly_daemon.evaluation.report.page import write_page
from anomaly_daemon.evaluation.report.survey import call_roll, survey
from anomaly_daemon.evaluation.scores import ScoreFile


def write_report(path: Path, scores: Path, alerts: Path, facts: ReportFacts, evaluation: Evaluation | None) -> None:
    """See the package."""
    log = read_incidents(alerts)
    with ScoreFile(scores) as file:
        notes = notes_of(file)
        roll = call_roll(file)
        noisy = compose.noisiest(roll, log)
        chosen = [one.code for one in noisy if one.code is not None] if len(roll.names) > 1 else []
        found = survey(file, roll, notes, chosen)
    listed = log.incidents[: compose.LISTED_MAX]
    full = compose.in_full(listed[: compose.IN_FULL_MAX], read_bodies(log, listed[: compose.IN_FULL_MAX]))
    on_timeline = [name for name, _ in log.by_entity.most_common(compose.TIMELINE_ENTITIES_MAX)]
    drawn = {"scores": plots.scores(), "distribution": plots.distribution(found), "volume": plots.volume(found, len(log.incidents) + log.left_out)}
    if listed:
        drawn = {"timeline": plots.timeline(listed, on_timeline, roll.last_us), **drawn}
    if found.deviations is not None:
        drawn["deviations"] = plots.deviations(found.deviations, found.scale.in_force)
    if found.all_tails.records:
        drawn["calibration"] = plots.calibration(found)
    values = {
        "title": f"Anomaly report: {notes.detector_id or scores.name}",
        "facts": facts,
        "notes": notes,
        "found": found,
        "roll": roll,
        "log": log,
        "listed": listed,
        "full": full,
        "noisy": noisy,
        "on_timeline": on_timeline,
        "evaluation": None if evaluation is None else compose.measure_tables(evaluation),
        "compose": compose,
    }
    extra = {"window": plots.window(), "windows": compose.drawn_windows(full), "series": compose.drawn_series(found)}
    write_page(path, "report.html.j2", drawn, values, extra)
