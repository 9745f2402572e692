from __future__ import annotations

import json
from pathlib import Path

import pytest

from anomaly_daemon.cli import main
from anomaly_daemon.domain.records import Partition
from tests import small, tuning_cases

SECOND = Partition("readings", 1)


def tuned(capsys: pytest.CaptureFixture[str], config: Path, scores: Path, *arguments: str) -> dict[str, object]:
    """What `tune --format json` prints; the patch is written beside the scores."""
    patch = scores.with_name("patch.yaml")
    code = main(["tune", "-c", str(config), "--scores", str(scores), "--output", str(patch), "--format", "json", "--force", *arguments])
    told = capsys.readouterr()
    assert code == 0, told.err
    found: dict[str, object] = json.loads(told.out)
    return found


def promised(found: dict[str, object]) -> set[tuple[str, str, int, int | None]]:
    return {(one["incident_id"], one["entity"], one["first_offset"], one["closing_offset"]) for one in found["incidents"]}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("seed", "budget", "assignments"),
    [
        (1, "4/day", ()),
        (2, "20/day", ("incidents.trigger={count: 1, of: 1}", "incidents.cooldown=1h")),
        (3, "0.5/day per entity", ("overrides=[{match: 'pump-[1-3]', threshold: {z: 3}, incidents: {recovery: {count: 4, of: 6}}}]",)),
        (4, "60/day", ("threshold.method=static", "threshold.level=0.7")),
        (5, "8/day", ("engine.entity_ttl=20m", "threshold.warmup_observations=3", "incidents.trigger={count: 1, of: 1}")),
        (6, "6/day", ("threshold.method=quantile", "threshold.window=100", "threshold.tail=0.02")),
    ],
)
def test_a_full_replay_under_the_patch_brings_exactly_the_incidents_promised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int, budget: str, assignments: tuple[str, ...]
) -> None:
    config = tuning_cases.settings_file(tmp_path, *assignments)
    records = small.stream(seed, 7, 1800, with_bad=True) + small.stream(seed + 50, 5, 1200, partition=SECOND)
    scores = tuning_cases.export(tmp_path / "scores.parquet", records, small.settings(*assignments))

    found = tuned(capsys, config, scores, "--budget", budget)

    assert found["is_exact"]
    assert promised(found)
    assert promised(found) == tuning_cases.incidents(records, tuning_cases.under(config, tmp_path / "patch.yaml"))
