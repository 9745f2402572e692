"""`run --watch`, SIGHUP and edited files, on the daemon as a process."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.end_to_end.harness import Site, kill, make_site
from tests.small import NAMES, stream

DEADLINE_S = 60


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """All that the file may change stands in the file."""
    made = make_site(tmp_path, f"sqlite:///{tmp_path}/topics.db", stream(1, 4, 400))
    kept = tuple(one for one in made.assignments if not one.startswith(("threshold.", "incidents.")))
    site = Site(tmp_path, kept)
    edit(site, threshold={"z": 2, "suspect_z": 2, "warmup_observations": 12}, incidents={"trigger": {"count": 2, "of": 3}})
    return site


def edit(site: Site, **sections: object) -> None:
    path = site.folder / "settings.yaml"
    (site.folder / "new.yaml").write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | sections))
    (site.folder / "new.yaml").replace(path)


def events(site: Site, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in site.log().splitlines() if line.startswith("{") and line.endswith("}")]
    return [line for line in lines if line["event"] == name]


@contextmanager
def daemon(site: Site, *arguments: str) -> Iterator[Any]:
    process = site.daemon(*arguments, "--log-format", "json")
    try:
        wait(site, process, "partition_recovered")
        yield process
    finally:
        kill(process)


def wait(site: Site, process: Any, name: str, count: int = 1) -> dict[str, Any]:
    for _ in range(DEADLINE_S * 20):
        if len(events(site, name)) >= count:
            return events(site, name)[count - 1]
        process.join(0.05)
        assert process.exitcode is None, site.log_tail()
    raise AssertionError(f"no {name}: {site.log_tail()}")


def test_a_watched_file_is_taken_live_and_the_offsets_of_the_cut_are_told(site: Site) -> None:
    with daemon(site, "--watch") as process:
        edit(site, threshold={"z": 5, "suspect_z": 2, "warmup_observations": 12})
        told = wait(site, process, "settings_reloaded")

    assert told["changed"] == ["threshold.z"]
    assert set(told["from_offsets"]) == {"readings[0]", "readings[1]"}


@pytest.mark.parametrize("arguments", [("--watch",), ()])
def test_a_bad_file_keeps_the_old_settings_and_says_why_and_the_next_good_one_is_taken(site: Site, arguments: tuple[str, ...]) -> None:
    with daemon(site, *arguments) as process:
        edit(site, threshhold={"z": 5})
        if not arguments:
            os.kill(process.pid, signal.SIGHUP)
        refused = wait(site, process, "settings_refused")
        edit(site, threshhold=None)
        text = (site.folder / "settings.yaml").read_text().replace("threshhold: null\n", "")
        (site.folder / "settings.yaml").write_text(text.replace("z: 2\n", "z: 3\n"))
        if not arguments:
            os.kill(process.pid, signal.SIGHUP)
        taken = wait(site, process, "settings_reloaded")

    assert "did you mean `threshold`" in refused["error"]
    assert "threshold.z" in taken["changed"]


@pytest.mark.parametrize("text", ["", "record: {features: [{name: other}], time: {path: time, format: s}}\n"])
def test_a_file_that_lost_its_features_or_is_of_another_model_keeps_the_old_settings(site: Site, text: str) -> None:
    in_file = tuple(one for one in site.assignments if not one.startswith("record."))
    of_file = Site(site.folder, in_file)
    edit(of_file, record={"features": [{"name": name} for name in NAMES], "time": {"path": "time", "format": "s"}})
    whole = (site.folder / "settings.yaml").read_text()
    with daemon(of_file) as process:
        (site.folder / "settings.yaml").write_text(text)
        os.kill(process.pid, signal.SIGHUP)
        refused = wait(of_file, process, "settings_refused")
        (site.folder / "settings.yaml").write_text(whole.replace("z: 2\n", "z: 3\n"))
        os.kill(process.pid, signal.SIGHUP)
        taken = wait(of_file, process, "settings_reloaded")

    assert "features" in refused["error"]
    assert "threshold.z" in taken["changed"]


def test_what_needs_a_restart_is_named_and_the_rest_is_taken(site: Site) -> None:
    with daemon(site) as process:
        edit(site, detector_id="another", logging={"level": "debug"})
        os.kill(process.pid, signal.SIGHUP)
        named = wait(site, process, "restart_needed")
        taken = wait(site, process, "settings_reloaded")

    assert named["settings"] == ["detector_id"]
    assert taken["changed"] == ["logging.level"]


def test_killed_right_after_a_reload_it_goes_on_under_the_new_rules_and_honours_the_old_ones(site: Site, tmp_path: Path) -> None:
    edit(site, checkpoints={"url": str(tmp_path / "checkpoints"), "every": "1h"})
    with daemon(site) as process:
        wait(site, process, "partition_recovered", 2)
        edit(site, threshold={"z": 50, "suspect_z": 2, "warmup_observations": 12})
        os.kill(process.pid, signal.SIGHUP)
        told = wait(site, process, "settings_reloaded")
        kill(process)
    site.run_to_end()

    # What no detector hears after the cut was loud before it.
    cut = {name: int(offset) for name, offset in told["from_offsets"].items()}
    opened = [alert for alert in site.alerts() if alert["sequence"] == 1]
    assert all(int(alert["source_records"]["last_offset"]) < cut[f"readings[{alert['source_records']['partition']}]"] for alert in opened)  # type: ignore[index]
