"""What the README says is there is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from anomaly_daemon import settings
from anomaly_daemon.cli import VERBS, command_parser

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.S)
COMMANDS = [line for language, block in BLOCKS if language == "sh" for line in block.splitlines() if line.startswith("anomaly-daemon")]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_readme_is_understood(command: str) -> None:
    words = shlex.split(command, comments=True)[1:]

    assert command_parser().parse_args(words).verb == words[0]


def test_the_readme_shows_the_verbs_that_a_service_needs() -> None:
    assert {"check", "train", "run", "incidents", "load"} <= {shlex.split(command, comments=True)[1] for command in COMMANDS} <= set(VERBS)


def test_the_settings_of_the_readme_load(tmp_path: Path) -> None:
    (example,) = [block for language, block in BLOCKS if language == "yaml"]
    (tmp_path / "mine.yaml").write_text(example)

    loaded = settings.load((tmp_path / "mine.yaml",), (), {})

    assert [feature.name for feature in settings.features_of(loaded)] == ["pressure", "flow", "bytes_total", "hour"]


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:tests|anomaly_daemon|configs)/[\w/.]+\.\w+)`", README))))
def test_every_file_that_the_readme_names_exists(path: str) -> None:
    assert (REPOSITORY / path).is_file()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(((?!http)[^)]+)\)", README))))
def test_every_link_within_the_repository_leads_somewhere(path: str) -> None:
    assert (REPOSITORY / path).exists()


@pytest.mark.parametrize("path", ["README.md", "deploy/PROMISE.md", "configs/benchmarks/results.md"])
def test_every_module_that_a_page_runs_is_there(path: str) -> None:
    named = set(re.findall(r"python -m (tests[\w.]*)", (REPOSITORY / path).read_text()))

    assert named or path == "deploy/PROMISE.md"
    for name in named:
        place = REPOSITORY / name.rstrip(".").replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), name


def test_the_two_commands_are_make_targets() -> None:
    targets = re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), re.M)

    assert {"demo", "test"} <= set(targets)
