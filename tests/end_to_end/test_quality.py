"""A slice of the quality benchmarks: train and replay under the settings of a public set still rank and call as well as its results page says.

Margins are wider than the spread over training seeds: SKAB .017, in F1 .019, a machine of SMD .02. The slice of the contextual benchmark stands
beside this.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import skab
from tests.benchmarks.quality.streams import CONFIGS, copy_streams, judge, measured, train

DATA = skab.SHARED / "data"
SEED = ("training.seed=0",)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not skab.streams(), reason=f"no public streams in {DATA}; set TEST_SHARED")]


def found(name: str, folder: Path, *entities: str) -> dict[str, float | None]:
    copy_streams(DATA / name, folder, entities)
    config, export = CONFIGS / f"{name}.yaml", folder / "scores.parquet"
    train(config, folder, SEED)
    judge(config, folder, export, SEED)
    return measured(export, DATA / name)["detector"]


def test_skab_is_ranked_and_called_well(tmp_path: Path) -> None:
    measures = found("SKAB", tmp_path)

    assert measures["VUS-PR"] is not None
    assert measures["VUS-PR"] > 0.89
    assert measures["F1"] is not None
    assert measures["F1"] > 0.81


def test_a_server_machine_is_ranked_well(tmp_path: Path) -> None:
    measures = found("SMD", tmp_path, "machine-3-4")

    assert measures["VUS-PR"] is not None
    assert measures["VUS-PR"] > 0.75
