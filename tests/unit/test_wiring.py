from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from anomaly_daemon import wiring
from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.model import artifact as artifacts
from tests.small import artifact, processor, settings


def test_the_fingerprint_names_what_shapes_state_and_no_training(tmp_path: Path) -> None:
    _, base = processor()

    assert processor("model.hidden=64", "model.code=2", "training.epochs=9", f"model.artifact={tmp_path}")[1] == base
    assert processor("model.scale_observations=21")[1] != base


def test_what_an_export_says_of_its_settings_holds_no_password_of_the_checkpoints() -> None:
    wanted = settings("checkpoints.url=s3://user:hunter2@bucket/folder?token=hunter3")

    told = json.dumps(wiring.describe(wanted, artifact(), mode="live", started_from="committed", spans={}))

    assert "s3://***@bucket/folder" in told
    assert "hunter" not in told


def test_settings_that_the_model_was_not_trained_with_are_told_by_name_with_its_values(tmp_path: Path) -> None:
    artifacts.save(artifact(), tmp_path)

    with structlog.testing.capture_logs() as logged:
        wiring.load_artifact(settings(f"model.artifact={tmp_path}"))
        wiring.load_artifact(settings(f"model.artifact={tmp_path}", "model.hidden=64", "model.layers=2", "training.epochs=9"))

    (told,) = logged
    assert told["event"] == "model_settings_differ"
    assert told["artifact"] == {"model.hidden": 8, "model.layers": 1, "training.epochs": 2}


REPOSITORY = Path(__file__).parents[2]
_EVER_NEW_SHAPES = """
import sys, psutil, torch
from anomaly_daemon import wiring
from tests.small import settings
loaded = settings(f"model.artifact={sys.argv[1]}")
wiring.build_processor(loaded, wiring.load_artifact(loaded))
network, process = torch.nn.LSTM(17, 64).eval(), psutil.Process()
with torch.inference_mode():
    for width in range(600, 0, -1):
        network(torch.zeros(2, width, 17))
        if width == 500:
            first = process.memory_info().rss
print((process.memory_info().rss - first) >> 20)
"""


def test_micro_batches_of_ever_new_shapes_take_no_more_memory(tmp_path: Path) -> None:
    """Five hundred shapes of this network take 80 MiB where oneDNN keeps what it prepared for each."""
    artifacts.save(artifact(), tmp_path)

    command = [sys.executable, "-c", _EVER_NEW_SHAPES, str(tmp_path)]
    child = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, cwd=REPOSITORY)

    assert int(child.stdout) < 20


def test_an_override_of_one_key_of_a_window_keeps_the_other() -> None:
    rules = wiring.build_rules(settings("incidents.trigger={count: 2, of: 4}", "overrides=[{match: a, incidents: {trigger: {of: 9}}}]"))

    assert [(one.trigger.count, one.trigger.of) for one in rules.incidents] == [(2, 4), (2, 9)]


@pytest.mark.parametrize("url", ["redis://me:hunter2@host/1", "kafka://me:hunter2@host", "kafka://host:0"])
def test_a_source_that_cannot_be_is_refused_and_no_password_is_shown(url: str) -> None:
    with pytest.raises(InputError, match=r"--source .*file:///path") as refused:
        wiring.open_source(settings(), url)

    assert "hunter2" not in str(refused.value)
