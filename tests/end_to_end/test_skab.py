"""The main job on real input: the SKAB streams through the embedded log, and the same incidents through Kafka."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomaly_daemon.cli import main
from tests.benchmarks import skab
from tests.contract.kafka_log import broker_or_skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not skab.streams(), reason=f"no SKAB streams in {skab.SHARED / 'data' / 'SKAB'}; set TEST_SHARED"),
]


def incidents(capsys: pytest.CaptureFixture[str], *assignments: str) -> str:
    capsys.readouterr()
    assert main(["incidents", "-c", str(skab.CONFIG), *(word for one in assignments for word in ("--set", one)), "--format", "json"]) == 0
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("skab")
    skab.verbs(folder)
    return folder


def test_skab_is_ranked_well(embedded: Path) -> None:
    found = skab.referee(embedded / "scores.parquet")

    assert found["VUS-PR"] >= skab.VUS_PR_GOAL


@pytest.mark.kafka
def test_kafka_gives_the_same_incidents_and_scores(
    embedded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = broker_or_skip()
    on_kafka = f"log=kafka://{broker.bootstrap}"

    skab.verbs(tmp_path, on_kafka, f"model.artifact={embedded / 'model-skab'}", is_trained=True)

    monkeypatch.chdir(embedded)
    expected = incidents(capsys)
    monkeypatch.chdir(tmp_path)
    assert incidents(capsys, on_kafka) == expected
    assert expected.count("\n") > 5
    assert skab.referee(tmp_path / "scores.parquet") == skab.referee(embedded / "scores.parquet")
