from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from anomaly_daemon.cli import main
from anomaly_daemon.commands.train import doubts_of, strays_of
from anomaly_daemon.model.artifact import load
from anomaly_daemon.model.scaling import fit_fleet
from anomaly_daemon.settings import Threshold
from anomaly_daemon.statistics.score_prior import UNKNOWN, ScorePrior

START_S = 1_767_225_600
SETTINGS = """
record:
  time: {path: time, format: s}
  features: [{name: flow}, {name: pressure}]
model: {hidden: 8, code: 4}
training: {epochs: 2, steps: 10}
engine: {device: cpu}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pumps of 60 records, one a minute, as JSON Lines."""
    monkeypatch.chdir(tmp_path)
    Path("train.yaml").write_text(SETTINGS)
    for name, phase in (("pump-1", 0.0), ("pump-2", 1.0), ("fan-1", 2.0)):
        rows = [{"time": START_S + 60 * step, "flow": math.sin(step / 3 + phase), "pressure": math.cos(step / 5 + phase)} for step in range(60)]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


DEAF, LOUD = UNKNOWN._replace(variance=1.75**2), UNKNOWN._replace(quantiles=(3.5, 4.65, 4.81, 4.87, 4.95, 5.03, 5.12, 5.2))


@pytest.mark.parametrize(
    ("prior", "settings", "doubts"),
    [
        (UNKNOWN, Threshold(), []),
        (DEAF, Threshold(), ["a score 1,097 times the usual is none to alarm at z 4"]),
        (DEAF, Threshold(z=3), []),
        (DEAF, Threshold(method="static"), []),
        (UNKNOWN._replace(variance=1e9), Threshold(), ["a score 1,000,000 times the usual is none to alarm at z 4"]),
        (LOUD, Threshold(), ["of the records held out 5% or more score beyond z 4"]),
        (LOUD, Threshold(z=3), ["of the records held out 20% or more score beyond z 3"]),
        (LOUD, Threshold(z=5), []),
    ],
)
def test_scores_that_vary_too_widely_or_are_held_out_too_high_are_doubted(prior: ScorePrior, settings: Threshold, doubts: list[str]) -> None:
    assert doubts_of(prior, settings) == doubts


def test_a_feature_whose_scale_few_readings_make_is_told() -> None:
    dice = np.random.default_rng(0)
    usual = dice.normal(size=(2000, 4)).astype(np.float32)
    usual[:, 2] = 5.0
    usual[:, 3] = np.exp(2 * usual[:, 3])  # a long tail is no fault
    wild = usual.copy()
    wild[:60, 1] = 65535.0
    names = ("a", "b", "still", "amount")
    assert strays_of(fit_fleet(usual, np.full(2000, 60.0), draws_in_wild=True), names, [usual]) == []
    told = strays_of(fit_fleet(np.concatenate([usual, wild]), np.full(4000, 60.0), draws_in_wild=True), names, [usual, wild])
    assert len(told) == 1
    assert told[0].startswith("b has deviation ")
    assert told[0].endswith("1.50% of them lie far off")


def test_train_says_where_few_readings_make_a_scale(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"time": START_S + 60 * step, "flow": 65535.0 if step < 5 else math.sin(step / 3), "pressure": math.cos(step / 5)} for step in range(60)]
    Path("pump-2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert train() == 0
    said = capsys.readouterr()
    assert "readings     flow has deviation" in said.out
    assert "few_readings_make_the_scale" in said.err
    assert "pressure has" not in said.out


def train(*arguments: str) -> int:
    return main(["train", "-c", "train.yaml", "--source", "file://*.jsonl", *arguments])


def test_train_writes_artifact_and_plot_and_tells_what_it_did(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train() == 0

    artifact = load(folder / "model")
    assert artifact.features == ("flow", "pressure")
    assert artifact.history.entities == 3
    assert artifact.history.rows == {"training": 132, "validation": 30, "test": 18}
    assert artifact.history.source == {"log": "file://*.jsonl", "topics": ["readings"], "from": None, "to": None, "entities": None, "rows": None}
    assert (folder / "model" / "loss.png").exists()
    said = capsys.readouterr().out
    assert "entities     3\n" in said
    assert "132 training, 30 validation, 18 test" in said
    assert f"fingerprint  {artifact.version}\n" in said


def test_where_no_channel_asks_the_network_it_is_not_trained_and_no_picture_is_left(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train() == train("--set", "evidence.channels=[surprise]") == 0

    assert load(folder / "model").history.validation_losses == ()
    assert not (folder / "model" / "loss.png").exists()
    assert "epochs       0, no channel of evidence.channels asks the network\n" in capsys.readouterr().out


def test_train_takes_the_range_the_entities_and_the_rows_asked_for(folder: Path) -> None:
    assert train("--from", "2026-01-01T00:10:00Z", "--to", "2026-01-01T00:50:00Z", "--entities", "pump-*", "--rows", "30", "--output", "other") == 0

    history = load(folder / "other").history
    assert history.entities == 2
    assert sum(history.rows.values()) == 60
    assert not (folder / "model").exists()


def test_offsets_bound_each_partition(folder: Path) -> None:
    assert train("--from", "5", "--to", "25") == 0
    assert sum(load(folder / "model").history.rows.values()) == 60


def test_the_same_range_gives_the_same_bytes(folder: Path) -> None:
    assert train("--output", "one") == train("--output", "other") == 0
    for path in (folder / "one").iterdir():
        assert path.read_bytes() == (folder / "other" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--entities", "valve-*"], "none of the 3 entities in the range fits, such as fan-1"),
        (["--rows", "0"], "--rows 0"),
        (["--rows", "5"], "nothing to train on"),
        (["--from", "2027-01-01"], "no usable record in the range: 180 before or after it, 0 rejected; check --from and --to"),
        (["--from", "1000"], "no usable record in the range: it holds no record at all"),
        (["--set", "record.entity=pump"], "0 before or after it, 180 rejected (180 entity_missing); check the `record` settings"),
        (["--from", "yesterday"], "--from yesterday"),
        (["--source", "ftp://host"], "ftp://host"),
        (["--output", "train.yaml"], "cannot be written"),
    ],
)
def test_what_cannot_be_trained_on_is_told_in_one_line_and_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert train(*arguments) == 2
    assert told in capsys.readouterr().err
    assert not (folder / "model").exists()
