import base64
import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anomaly_daemon.domain.errors import InputError, StopAtOnce
from anomaly_daemon.evaluation.labels import Labels
from anomaly_daemon.evaluation.measures import evaluate
from anomaly_daemon.evaluation.report import write_report
from anomaly_daemon.evaluation.report.facts import ReportFacts
from anomaly_daemon.evaluation.scores import read_scores
from tests.browser.cases import FACTS, NOTES, SETTINGS, START_US, STEP_US, alert, write_alerts, write_export

ENTITIES = [f"pump-{number}" for number in range(12)]


def _written(folder: Path, alerts: list[dict[str, Any]], rows: int = 12_000, facts: ReportFacts = FACTS, **export: Any) -> str:
    write_export(folder / "scores.parquet", rows, ENTITIES, **export)
    write_alerts(folder / "alerts.jsonl", alerts)
    write_report(folder / "report.html", folder / "scores.parquet", folder / "alerts.jsonl", facts)
    return (folder / "report.html").read_text(encoding="utf-8")


def _text(page: str) -> str:
    """What a reader sees, in one line."""
    body = page[page.index("<body>") : page.index('<script type="application/json"')]
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", body)))


def _content(page: str) -> Any:
    return json.loads(page.split('id="content">', 1)[1].split("</script>", 1)[0])


def test_report_says_what_was_run(tmp_path: Path) -> None:
    text = _text(_written(tmp_path, [alert(1)]))

    for said in (
        "readings, all of it",
        "pumps 1",
        "ewma, z 4; by overrides 5",
        "consumed 1,003",
        "scored 1,000",
        "schema 2 0.199 %",
        "match: pump-1",
    ):
        assert said in text


def test_report_without_an_incident_says_so(tmp_path: Path) -> None:
    assert "Nothing was announced in this range." in _text(_written(tmp_path, []))


def test_incident_in_full_names_its_features_by_their_share_with_band_and_threshold(tmp_path: Path) -> None:
    text = _text(_written(tmp_path, [alert(1)]))

    assert "threshold 0.6 (ewma)" in text
    assert "confidence 1. Records readings[0] 1 to 4;" in text
    assert re.search(r"pressure 4.2 ▲ 3.1 2.8 3.4 70 % speed 4.2 ▲ 3.1 2.8 3.4 20 %", text)


def test_an_incident_without_a_score_has_no_table_of_features_and_no_peak(tmp_path: Path) -> None:
    unscored = dict.fromkeys(("anomaly_score", "observations", "threshold", "probability", "confidence"))
    silent = {"kind": "silence", "features": [], "window": [], **unscored}
    ended = {"message": "pump-1: back after 25 min of silence.", "reasons": []}
    opened, closed = alert(1, ends_at=None, **silent), alert(1, sequence=2, **{**silent, "explanation": ended})
    page = _written(tmp_path, [{**one, "peak": None} for one in (opened, closed)])

    text = _text(page)
    assert "pump-1: back after 25 min of silence." in text
    assert "Features at that record" not in text
    assert '"peak",["none"]' in page


def test_incidents_beyond_the_limits_are_counted_not_shown(tmp_path: Path) -> None:
    page = _written(tmp_path, [alert(number, ENTITIES[number % 12], peak=1 / (1 + number)) for number in range(1100)])

    assert page.count('<details class="incident"') == 100
    assert page.count('<tr id="row-') == 1000
    assert "Left out: the 100 incidents of the lowest peaks." in _text(page)
    assert "In full: the 100 of the highest peak, of 1,100." in _text(page)


def test_counts_above_each_level_are_exact(tmp_path: Path) -> None:
    page = _written(tmp_path, [], rows=24_000)
    deviations = np.nan_to_num(pq.read_table(tmp_path / "scores.parquet")["deviations"].to_numpy(), nan=-99)

    row = re.search(r'<td class="number">4</td><td class="number">([\d,]+)</td>', page)

    assert row is not None
    assert int(row[1].replace(",", "")) == np.count_nonzero(deviations > 4) > 0


def test_planted_extreme_of_one_record_survives_the_downsampling(tmp_path: Path) -> None:
    page = _written(tmp_path, [], rows=60_000)
    highest = pq.read_table(tmp_path / "scores.parquet")["anomaly_score"].to_numpy().max()

    numbers = _content(page)["series"]["each"][0]["numbers"]

    assert np.nanmax(np.frombuffer(base64.b64decode(numbers[1]), "<f4")) == np.float32(highest)


def test_measures_stand_in_the_report_with_their_controls(tmp_path: Path) -> None:
    write_export(tmp_path / "scores.parquet", 24_000, ENTITIES)
    write_alerts(tmp_path / "alerts.jsonl", [])
    planted = np.array([[START_US + 999 * STEP_US, START_US + 1001 * STEP_US]])
    evaluation = evaluate(read_scores(tmp_path / "scores.parquet"), Labels({"pump-1": planted}, "labels.csv"))

    write_report(tmp_path / "report.html", tmp_path / "scores.parquet", tmp_path / "alerts.jsonl", FACTS, evaluation)

    text = _text((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "measure verdicts incidents all ones random" in text
    assert re.search(r"VUS-PR [\d.]+ – [\d.]+ [\d.]+", text)


@pytest.mark.parametrize(("method", "said"), [("ewma", "z records above"), ("static", "level records above"), ("quantile", "decades records above")])
def test_alarms_are_counted_on_the_scale_that_the_method_is_set_on(tmp_path: Path, method: str, said: str) -> None:
    settings = {**SETTINGS, "threshold": {"method": method, "z": 4.0, "level": 0.5, "tail": 1e-3}}
    write_export(tmp_path / "scores.parquet", 12_000, ENTITIES, notes={**NOTES, "settings": settings})
    if method != "ewma":
        table = pq.read_table(tmp_path / "scores.parquet")
        unknown = pa.array(np.full(12_000, np.nan))
        pq.write_table(table.set_column(table.schema.get_field_index("deviations"), "deviations", unknown), tmp_path / "scores.parquet")
    write_alerts(tmp_path / "alerts.jsonl", [])

    write_report(tmp_path / "report.html", tmp_path / "scores.parquet", tmp_path / "alerts.jsonl", FACTS)

    assert said in _text((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_page_names_no_address_and_lets_only_its_own_scripts_run(tmp_path: Path) -> None:
    page = _written(tmp_path, [alert(1)])

    assert "default-src 'none'; script-src 'sha256-" in unescape(page)
    assert "unsafe-eval" not in page.split("</head>")[0]
    assert not re.search(r"<(?:script|img|link)[^>]+(?:src|href)=\"(?!data:,)", page)


def test_markup_in_a_name_is_text(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>&\"'"
    page = _written(tmp_path, [alert(1, hostile)])

    assert "<script>alert(1)" not in page
    assert hostile in _text(page)


def test_export_without_a_scored_record_is_refused_with_the_remedy(tmp_path: Path) -> None:
    write_export(tmp_path / "scores.parquet", 5, ENTITIES)
    table = pq.read_table(tmp_path / "scores.parquet")
    place = table.schema.get_field_index("entity")
    pq.write_table(table.set_column(place, "entity", pa.array([None] * 5, pa.string())), tmp_path / "scores.parquet")
    write_alerts(tmp_path / "alerts.jsonl", [])

    with pytest.raises(InputError, match="none of its 5 records was scored: nothing to report; see the dead letters"):
        write_report(tmp_path / "report.html", tmp_path / "scores.parquet", tmp_path / "alerts.jsonl", FACTS)

    assert not (tmp_path / "report.html").exists()


def test_export_without_a_record_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no record; export a range or files that have some"):
        _written(tmp_path, [], rows=0)


def test_notes_of_another_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="written by another version \\(format 2, this one reads 1\\); export the scores anew"):
        _written(tmp_path, [], notes={**NOTES, "format": 2})


def test_export_without_notes_is_reported_all_the_same(tmp_path: Path) -> None:
    write_export(tmp_path / "scores.parquet", 1200, ENTITIES)
    table = pq.read_table(tmp_path / "scores.parquet")
    pq.write_table(table.replace_schema_metadata(None), tmp_path / "scores.parquet")
    write_alerts(tmp_path / "alerts.jsonl", [alert(1)])

    write_report(tmp_path / "report.html", tmp_path / "scores.parquet", tmp_path / "alerts.jsonl", FACTS)

    assert "Anomaly report: scores.parquet" in _text((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    before = _written(tmp_path, [alert(1)])
    (tmp_path / "report.html.part").mkdir()

    with pytest.raises(StopAtOnce, match="the report cannot be written: Is a directory; make room, or name a file elsewhere"):
        write_report(tmp_path / "report.html", tmp_path / "scores.parquet", tmp_path / "alerts.jsonl", FACTS)

    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before
