from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.evaluation.labels import Labels
from anomaly_daemon.evaluation.measures import MEASURES, Evaluation, evaluate
from anomaly_daemon.evaluation.scores import read_scores
from tests.score_cases import SECOND_US, Stream, columns_of, labels_of, write_scores

ROWS = 200


def rows(first: int, last: int) -> frozenset[int]:
    return frozenset(range(first, last + 1))


def stream(labels: frozenset[int], flags: frozenset[int]) -> Stream:
    """Labelled records score highest, so every ranking is perfect."""
    return Stream(tuple(0.9 if row in labels else row / 1000 for row in range(ROWS)), labels, flags)


FOUND = stream(rows(100, 109), rows(102, 104))
MISSED = stream(rows(150, 159), frozenset())
CALM = stream(frozenset(), rows(20, 20))


def measured(folder: Path, streams: dict[str, Stream], labels: Labels | None = None, **options: object) -> Evaluation:
    path = write_scores(folder / "scores.parquet", columns_of(streams))
    return evaluate(read_scores(path), labels_of(streams) if labels is None else labels, **options)  # type: ignore[arg-type]


def test_rankings_are_averaged_over_entities_with_anomalies_and_counts_are_added_over_all(tmp_path: Path) -> None:
    evaluation = measured(tmp_path, {"found": FOUND, "missed": MISSED, "calm": CALM})
    pooled = evaluation.pooled["verdicts"].values()

    assert (pooled["average_precision"], pooled["best_f1_oracle"]) == (1, 1)
    assert pooled["f1"] == pytest.approx(2 * 3 / (4 + 20))
    assert (pooled["events"], pooled["events_caught"], pooled["alarms"], pooled["alarms_true"]) == (2, 1, 2, 1)
    assert pooled["false_alarms_per_day"] == pytest.approx(1 / (3 * (ROWS - 1) / 86_400))
    assert pooled["delay_s_median"] == 2
    assert evaluation.entities["missed"].values()["event_recall"] == 0
    assert evaluation.entities["calm"].ranking is None


def test_controls_stand_beside_the_detector(tmp_path: Path) -> None:
    pooled = measured(tmp_path, {"found": FOUND}).pooled
    ones, random = pooled["all ones"].values(), pooled["random"].values()

    assert ones["average_precision"] == pytest.approx(10 / ROWS)
    assert (ones["event_recall"], ones["false_alarm_rate"], ones["missed_alarm_rate"]) == (1, 1, 0)
    assert 0 < random["average_precision"] < 0.5  # type: ignore[operator]


def test_random_control_depends_on_its_seed_alone(tmp_path: Path) -> None:
    one, same, other = (measured(tmp_path, {"found": FOUND}, seed=seed).pooled["random"].values() for seed in (3, 3, 4))

    assert one == same
    assert one["vus_pr"] != other["vus_pr"]


def test_controls_may_be_left_out(tmp_path: Path) -> None:
    assert list(measured(tmp_path, {"found": FOUND}, has_controls=False).pooled) == ["verdicts"]


def test_incidents_are_measured_as_announced(tmp_path: Path) -> None:
    incidents = dict.fromkeys(range(103, 113), "one") | dict.fromkeys(range(113, 115), "two")
    evaluation = measured(tmp_path, {"found": dataclasses.replace(FOUND, incidents=incidents)})
    found = evaluation.pooled["incidents"].values()

    assert (found["alarms"], found["alarms_true"], found["delay_rows_median"], found["vus_pr"]) == (2, 1, 3, None)


def test_records_for_training_are_not_judged(tmp_path: Path) -> None:
    labels = dataclasses.replace(labels_of({"found": FOUND}), judged_from={"found": 101 * SECOND_US})
    pooled = measured(tmp_path, {"found": FOUND}, labels).pooled["verdicts"].values()

    assert (pooled["records"], pooled["records_labelled"], pooled["delay_rows_median"]) == (ROWS - 101, 9, 1)
    assert pooled["average_precision"] == 1


def test_scores_for_training_alone_are_refused(tmp_path: Path) -> None:
    labels = dataclasses.replace(labels_of({"found": FOUND}), judged_from={"found": ROWS * SECOND_US})

    with pytest.raises(InputError, match="all scored records of found were for training"):
        measured(tmp_path, {"found": FOUND}, labels)


def test_entity_without_a_label_is_normal_where_intervals_are_listed(tmp_path: Path) -> None:
    evaluation = measured(tmp_path, {"found": FOUND, "calm": CALM}, labels_of({"found": FOUND}))

    assert list(evaluation.entities) == ["found", "calm"]
    assert "labels.csv: names no anomaly of calm: taken as normal throughout" in evaluation.notes


def test_entity_without_a_label_is_not_judged_where_records_are_labelled(tmp_path: Path) -> None:
    labels = dataclasses.replace(labels_of({"found": FOUND}), unnamed="unknown")
    evaluation = measured(tmp_path, {"found": FOUND, "calm": CALM}, labels)

    assert list(evaluation.entities) == ["found"]
    assert "labels.csv: says nothing of calm: not judged" in evaluation.notes


def test_without_an_anomaly_only_false_alarms_are_measured_and_it_says_why(tmp_path: Path) -> None:
    evaluation = measured(tmp_path, {"calm": CALM})
    pooled = evaluation.pooled["verdicts"].values()

    needing = ("vus_pr", "vus_roc", "average_precision", "best_f1_oracle", "f1", "event_recall", "event_precision", "event_f1", "missed_alarm_rate")
    assert [pooled[name] for name in needing] == [None] * len(needing)
    assert pooled["false_alarms_per_day"] == pytest.approx(86_400 / (ROWS - 1))
    assert any(note.startswith("no judged record is labelled: only false alarms") for note in evaluation.notes)


def test_entity_labelled_throughout_is_left_out_of_the_rankings_and_named(tmp_path: Path) -> None:
    whole = stream(rows(0, ROWS - 1), rows(0, 0))

    alone = measured(tmp_path, {"whole": whole})
    beside = measured(tmp_path, {"whole": whole, "found": FOUND})

    assert alone.pooled["verdicts"].ranking is None
    assert "no entity has both labelled and unlabelled records: VUS, average precision and best F1 need both" in alone.notes
    assert beside.pooled["verdicts"].values()["average_precision"] == 1
    assert "labelled throughout, so left out of VUS, average precision and best F1: whole" in beside.notes


def test_window_of_vus_is_the_period_of_the_labels_or_what_is_asked_for(tmp_path: Path) -> None:
    with_period = dataclasses.replace(labels_of({"found": FOUND}), period_rows={"found": 10})
    flat = dataclasses.replace(FOUND, scores=tuple(np.linspace(0, 1, ROWS) ** 2))
    by_period = measured(tmp_path, {"found": flat}, with_period)
    asked, default = measured(tmp_path, {"found": flat}, window_rows=10), measured(tmp_path, {"found": flat})

    assert by_period.entities["found"].ranking == asked.entities["found"].ranking != default.entities["found"].ranking
    assert any("buffer of up to 125 records" in note for note in default.notes)
    assert not any("buffer" in note for note in (*by_period.notes, *asked.notes))


def test_every_measure_has_a_row_in_the_table_and_a_name_in_the_json(tmp_path: Path) -> None:
    evaluation = measured(tmp_path, {"calm": CALM, "found": FOUND})
    header, table = evaluation.table()
    written = json.loads(json.dumps(evaluation.as_json(), allow_nan=False))

    assert header == ("measure", "verdicts", "all ones", "random")
    assert [row[0] for row in table] == [measure.title for measure in MEASURES]
    assert dict(zip(header, table[2], strict=True)) == {
        "measure": "average precision",
        "verdicts": "1.000",
        "all ones": "0.050",
        "random": table[2][3],
    }
    assert list(written["pooled"]["verdicts"]) == [measure.name for measure in MEASURES]
    assert written["entities"]["calm"]["vus_pr"] is None
    assert written["notes"] == list(evaluation.notes)
