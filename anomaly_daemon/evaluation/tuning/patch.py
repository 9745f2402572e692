"""A settings patch: YAML that merges over the user's file, only the lines that change, each with its reason."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from anomaly_daemon.settings import Override, Settings, Threshold, Window, format_duration

KEYS = (
    "threshold.method",
    "threshold.z",
    "threshold.level",
    *(f"threshold.{key}" for key in Threshold.HOLDING),
    "incidents.trigger",
    "incidents.recovery",
    "incidents.cooldown",
)


def differing(before: Settings, after: Settings) -> list[str]:
    """The keys of KEYS, and `overrides`, that differ."""
    keys = [key for key in KEYS if _value(before, key) != _value(after, key)]
    return [*keys, "overrides"] if before.overrides != after.overrides else keys


def patch(before: Settings, after: Settings, reasons: Mapping[str, str], heading: Sequence[str]) -> str:
    """The YAML text; `before` with it merged over is `after`. reasons: one line by key of `differing`, and by override's match.

    heading: lines of comment at its top.
    """
    lines = [f"# {_line(line)}" for line in heading]
    section = ""
    keys = differing(before, after)
    for key in keys:
        if key == "overrides":
            continue
        group, name = key.split(".")
        if group != section:
            section = group
            lines.append(f"{group}:")
        lines.append(f"  {name}: {_written(_value(after, key))}  # {_line(reasons.get(key, f'was {_written(_value(before, key))}'))}")
    if "overrides" in keys:
        lines.append("overrides:  # the whole list: a list in a later file takes the place of the one before it; the first match applies")
        for override in after.overrides:
            lines += _override(override, reasons.get(override.match, "as it was"))
    if not keys:
        lines.append("# nothing to change")
        lines.append("{}")
    return "\n".join(lines) + "\n"


def _override(override: Override, reason: str) -> list[str]:
    lines = [f"  - match: {_quoted(override.match)}  # {_line(reason)}"]
    for name in ("threshold", "incidents"):
        group: Mapping[str, Any] = getattr(override, name)
        if group:
            lines.append(f"    {name}: {_quoted(group)}")
    return lines


def _value(settings: Settings, key: str) -> Any:
    """A cooldown as it is spelled, with a unit, for YAML reads a bare 0 as a number; everything else as it is."""
    group, name = key.split(".")
    value = getattr(getattr(settings, group), name)
    return (format_duration(value) if value else "0s") if key == "incidents.cooldown" else value


def _written(value: object) -> str:
    if isinstance(value, Window):
        return f"{{count: {value.count}, of: {value.of}}}"
    if isinstance(value, float):
        return f"{value!r}"
    return "null" if value is None else str(value)


def _quoted(value: object) -> str:
    """JSON, which YAML reads; escaped, so that no name leaves its line."""
    return json.dumps(value)


def _line(text: str) -> str:
    return " ".join(text.split())
