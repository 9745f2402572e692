from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from anomaly_daemon.cli import VERBS, command_parser
from anomaly_daemon.settings import Settings, load

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
OF_BENCHMARKS = sorted((Path(__file__).parents[2] / "configs" / "benchmarks").glob("*.yaml"))
_COMMAND = re.compile(r"^#\s+(anomaly-daemon .*?)(?:\s{3,}[a-z].*)?$")


def commands(path: Path) -> list[list[str]]:
    """The command lines in the comment at the head of a file."""
    head = [line for line in path.read_text().partition("\n\n")[0].splitlines() if line.startswith("#")]
    return [shlex.split(found.group(1)) for line in head if (found := _COMMAND.match(line))]


def settings_of(name: str) -> Settings:
    return load([next(path for path in CONFIGS if path.name == name)], environment={})


@pytest.fixture(params=CONFIGS, ids=lambda path: path.name)
def config(request: pytest.FixtureRequest) -> Path:
    assert isinstance(request.param, Path)
    return request.param


def test_there_is_one_file_per_use() -> None:
    assert {path.name for path in CONFIGS} >= {"demo.yaml", "sensors.yaml", "transactions.yaml", "skab.yaml"}


def test_every_file_loads_and_names_features(config: Path) -> None:
    assert load([config], environment={}).record.features


@pytest.mark.parametrize("path", OF_BENCHMARKS, ids=lambda path: path.name)
def test_every_file_of_a_benchmark_loads(path: Path) -> None:
    assert load([path], ["record.features=[{name: value}]"], environment={}).evidence.channels


def test_every_head_names_commands_that_the_parser_takes(config: Path) -> None:
    lines = commands(config)

    assert {words[1] for words in lines} >= {"train", "run"}
    for words in lines:
        assert words[1] in VERBS
        options = command_parser().parse_args(words[1:])
        assert [path.name for path in options.config] == [config.name]


def test_settings_stand_with_their_reasons(config: Path) -> None:
    setting_lines = [line for line in config.read_text().splitlines() if line.strip() and not line.startswith("#")]

    assert sum("#" in line for line in setting_lines) >= 0.3 * len(setting_lines)


def test_the_sensors_file_explains_nearly_every_line() -> None:
    lines = [
        line for line in (CONFIGS[0].parent / "sensors.yaml").read_text().splitlines() if line.startswith("  ") and not line.rstrip().endswith(":")
    ]

    assert sum("#" in line for line in lines) >= 0.75 * len(lines)


def test_the_files_for_simulated_streams_name_what_the_simulators_send() -> None:
    from anomaly_daemon.simulation.pumps import CHANNELS

    for name in ("demo.yaml", "sensors.yaml"):
        assert [feature.name for feature in settings_of(name).record.features if feature.kind in ("number", "asinh")] == list(CHANNELS)
    fields = {"amount", "merchant", "category", "country"}
    named = {feature.path or feature.name for feature in settings_of("transactions.yaml").record.features if feature.kind in ("relative", "category")}
    assert named == fields


def test_nothing_of_a_skab_stream_is_announced_in_its_training_part() -> None:
    settings = settings_of("skab.yaml")

    assert settings.threshold.warmup == "silent"
    assert settings.threshold.warmup_observations <= 400
    assert settings.model.scale_observations <= 400
