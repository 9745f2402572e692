from pathlib import Path

import pytest

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.evaluation.report.incidents import read_bodies, read_incidents
from tests.browser.cases import alert, write_alerts


def test_incident_is_as_its_latest_alert_says_and_shown_by_its_strongest(tmp_path: Path) -> None:
    opened = alert(1, anomaly_score=0.7, severity="low", ends_at=None)
    updated = alert(1, sequence=2, anomaly_score=0.9, severity="high", ends_at=None)
    closed = alert(1, sequence=3, anomaly_score=0.1, severity="high", explanation={"message": "pump-1: normal again.", "reasons": []})
    write_alerts(tmp_path / "alerts.jsonl", [opened, updated, closed])

    log = read_incidents(tmp_path / "alerts.jsonl")

    (incident,) = log.incidents
    ((body, ended),) = read_bodies(log, log.incidents)
    assert (incident.severity, incident.sequence, incident.ends_us is None) == ("high", 3, False)
    assert (body.sequence, body.anomaly_score, ended) == (2, 0.9, "pump-1: normal again.")


def test_incidents_come_by_peak_and_the_lowest_are_left_out_and_counted(tmp_path: Path) -> None:
    write_alerts(tmp_path / "alerts.jsonl", [alert(number, peak=number / 10) for number in range(9)])

    log = read_incidents(tmp_path / "alerts.jsonl", incidents_max=3)

    assert [one.peak_score for one in log.incidents] == [0.8, 0.7, 0.6]
    assert log.left_out == 6


@pytest.mark.parametrize("line", ["{", "{}", '{"schema_version": "0.1"}', "\xff"])
def test_line_that_is_no_alert_is_told_by_its_number(tmp_path: Path, line: str) -> None:
    write_alerts(tmp_path / "alerts.jsonl", [alert(1)])
    with (tmp_path / "alerts.jsonl").open("a", encoding="latin-1") as file:
        file.write(line + "\n")

    with pytest.raises(InputError, match=r"alerts.jsonl: line 2 is no alert of schema 1.0 .*; replay the range again"):
        read_incidents(tmp_path / "alerts.jsonl")


def test_missing_alerts_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the alerts cannot be read: No such file"):
        read_incidents(tmp_path / "alerts.jsonl")
