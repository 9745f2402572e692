from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from anomaly_daemon import wiring
from anomaly_daemon.cli import main
from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.domain.records import Partition
from anomaly_daemon.evaluation.notes import ExportNotes, notes_of
from anomaly_daemon.evaluation.scores import ScoreFile
from anomaly_daemon.evaluation.tuning import methods as tuning_methods
from anomaly_daemon.evaluation.tuning.choice import followers, lowest, sensitivity_of
from anomaly_daemon.evaluation.tuning.patch import patch
from anomaly_daemon.evaluation.tuning.rows import keep_rows
from anomaly_daemon.settings import Settings
from tests import small, tuning_cases

RECORDS = small.stream(3, 5, 900, with_bad=True) + small.stream(4, 3, 600, partition=Partition("readings", 1))
COMMON = ("threshold.window=100", "threshold.tail=0.02", "engine.entity_ttl=25m")
HOLDING = ("threshold.span=2", "threshold.recovery=0.5")


def settings(method: str) -> Settings:
    overrides = "overrides=[{match: pump-1, threshold: {level: 0.5, z: 1}}]"
    holding = HOLDING if method in ("ewma", "static") else ()
    return small.settings(*COMMON, *holding, small.EVERY_CHANNEL, f"threshold.method={method}", "threshold.level=0.6", overrides)


@pytest.mark.parametrize("batch_rows", [16_384, 97])
@pytest.mark.parametrize("method", tuning_methods.COMPARED)
def test_another_method_says_of_exported_evidence_what_it_says_in_a_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, batch_rows: int
) -> None:
    monkeypatch.setattr(tuning_methods, "_BATCH_ROWS", batch_rows)
    other = "static" if method == "ewma" else "ewma"
    wanted, sensitivity = settings(method), sensitivity_of(method)

    with ScoreFile(tuning_cases.export(tmp_path / "other.parquet", RECORDS, settings(other))) as file:
        judged = tuning_methods.rejudge(file, notes_of(file), wanted, wiring.build_rules(wanted))
    with ScoreFile(tuning_cases.export(tmp_path / "own.parquet", RECORDS, wanted)) as file:
        ttl_us = int(wanted.engine.entity_ttl * 1e6)
        replayed = keep_rows(file, sensitivity, lowest(wanted, sensitivity), followers(wanted), ttl_us)

    assert len(judged.value) > 100
    for name in ("stream", "value", "offset", "time_us", "ordinal", "row", "unseen_us", "bounds"):
        assert np.array_equal(getattr(judged, name), getattr(replayed, name)), name
    assert judged.judged == replayed.judged


def test_a_method_chosen_brings_exactly_the_incidents_promised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Of which few records stand out.
    assignments = (*COMMON, *HOLDING, "threshold.method=static", "evidence.channels=[prediction, reconstruction]")
    config = tuning_cases.settings_file(tmp_path, *assignments)
    scores = tuning_cases.export(tmp_path / "scores.parquet", RECORDS, small.settings(*assignments))

    found = tuning_cases.tuned(capsys, config, scores, "--budget", "60/day", "--method", "all")

    assert [one["method"] for one in found["methods"]] == ["static", "ewma", "spot", "quantile"]
    assert "threshold.method" in found["changes"]
    assert tuning_cases.promised(found) == tuning_cases.incidents(RECORDS, tuning_cases.under(config, tmp_path / "patch.yaml")) != set()
    assert "needs a restart" in found["patch"]


@pytest.mark.parametrize("method", tuning_methods.COMPARED)
def test_a_patch_to_a_method_takes_out_what_that_does_not_heed(tmp_path: Path, method: str) -> None:
    held = ("threshold.span=2", "threshold.recovery=0.5", "threshold.reference_observations=100")
    present = small.settings(*held)
    wanted = tuning_methods.under(present, method)
    (tmp_path / "patch.yaml").write_text(patch(present, wanted, {}, ()))

    assert tuning_cases.under(tuning_cases.settings_file(tmp_path, *held), tmp_path / "patch.yaml").threshold == wanted.threshold


def test_evidence_after_a_checkpoint_tells_nothing_of_another_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = tuning_cases.export(tmp_path / "scores.parquet", RECORDS[:600], small.settings(), started_from="checkpoint")
    config = tuning_cases.settings_file(tmp_path)

    code = main(["tune", "-c", str(config), "--scores", str(scores), "--budget", "5/day", "--method", "static"])

    assert code == 2
    assert "had taught the detector already" in capsys.readouterr().err
    with ScoreFile(scores) as file, pytest.raises(InputError, match="without --warm-up"):
        tuning_methods.check_rejudgeable(file, notes_of(file))


def test_evidence_of_models_of_some_entities_own_tells_nothing_of_another_method(tmp_path: Path) -> None:
    (noted,) = wiring.describe(small.settings(), small.artifact("model.per=entity"), mode="replay", started_from="nothing", spans={}).values()
    scores = tuning_cases.export(tmp_path / "scores.parquet", RECORDS[:60], small.settings())

    with ScoreFile(scores) as file, pytest.raises(InputError, match="models of their own served some entities; leave --method out"):
        tuning_methods.check_rejudgeable(file, msgspec.json.decode(noted, type=ExportNotes))
