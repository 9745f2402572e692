"""Pages to look at: the report on a run, a tuning's trade-off, a comparison. Each is one HTML file that opens offline.

    write_report(Path("report.html"), Path("scores.parquet"), Path("alerts.jsonl"), facts, evaluation)

An export is gone through twice in row groups; memory depends on the number of entities and incidents, not of records.
An existing file is replaced; the file is whole or not there. Plots and templates are imported when a page is written, not before.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from anomaly_daemon.evaluation.report.facts import ReportFacts

if TYPE_CHECKING:
    from anomaly_daemon.evaluation.comparison import Comparison
    from anomaly_daemon.evaluation.measures import Evaluation
    from anomaly_daemon.evaluation.tuning.tuned import Tuned

__all__ = ["ReportFacts", "write_comparison", "write_report", "write_trade_off"]


def write_report(path: Path, scores: Path, alerts: Path, facts: ReportFacts, evaluation: Evaluation | None = None) -> None:
    """Write the report on exported scores.

    scores: Parquet as `replay --export` writes it. alerts: JSON Lines, an alert's body each. evaluation: the measures, where there are labels.
    Raises InputError where either file is missing, damaged, or holds nothing to report, StopAtOnce where `path` cannot be written.
    """
    from anomaly_daemon.evaluation.report.run_report import write_report as write

    write(path, scores, alerts, facts, evaluation)


def write_trade_off(path: Path, tuned: Tuned, patch: str) -> None:
    """Write what a tuning found: figures before and after, the curve it chose on, the patch. Raises StopAtOnce where `path` cannot be written."""
    from anomaly_daemon.evaluation.report.trade_off_page import write_trade_off as write

    write(path, tuned, patch)


def write_comparison(path: Path, comparison: Comparison) -> None:
    """Write what differs between two sides' incidents, and why. Raises StopAtOnce where `path` cannot be written."""
    from anomaly_daemon.evaluation.report.comparison_page import write_comparison as write

    write(path, comparison)
