"""The settings reference says what the code does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from anomaly_daemon.settings import Settings, reference

REFERENCE = Path(__file__).parents[2] / "configs" / "settings.md"


def test_the_reference_is_what_the_code_generates() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == reference(), "run: anomaly-daemon check --reference > configs/settings.md"


def test_every_setting_has_a_meaning() -> None:
    assert [key for key, description in _described(Settings, "") if not description] == []


def _described(section: type[BaseModel], prefix: str) -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = []
    for name, field in section.model_fields.items():
        found.append((prefix + name, field.description))
        candidates: list[Any] = [field.annotation, *get_args(field.annotation)]
        for candidate in candidates:
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                found += _described(candidate, f"{prefix}{name}.")
    return found
