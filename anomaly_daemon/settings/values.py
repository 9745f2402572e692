"""Durations and instants as settings spell them."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from anomaly_daemon.domain.times import DAY_US, EPOCH

_UNITS_US = {"w": 604_800_000_000, "d": DAY_US, "h": 3_600_000_000, "m": 60_000_000, "s": 1_000_000, "ms": 1_000, "us": 1}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d|w)")
_DURATION_US_MAX = 100 * 366 * DAY_US
KAFKA_NAME = r"[A-Za-z0-9._-]{1,249}"  # what Kafka takes as the name of a topic or a member
PARTITIONS_MAX = 4096  # of a topic that is made
_NAIVE_EPOCH = datetime(1970, 1, 1)


def parse_duration_s(text: object) -> object:
    """Seconds of `30s`, `1h30m`, `250ms`, `7d`, to the microsecond; a plain number is refused, its unit would be a guess."""
    if isinstance(text, bool) or not isinstance(text, str):
        raise ValueError("write a duration with its unit, such as 30s, 5m or 7d")
    if text == "0":
        return 0.0
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError("not a duration; write 250ms, 30s, 5m, 1h30m, 7d")
    microseconds = sum(float(number) * _UNITS_US[unit] for number, unit in parts)
    if microseconds > _DURATION_US_MAX:
        raise ValueError("longer than a hundred years")
    return round(microseconds) / 1e6


def format_duration(seconds: float) -> str:
    """The spelling of a duration in its largest whole unit."""
    microseconds = round(seconds * 1e6)
    return next((f"{microseconds // size}{unit}" for unit, size in _UNITS_US.items() if microseconds and microseconds % size == 0), "0")


def microseconds_since_1970(moment: datetime) -> int:
    """Exact; a moment without an offset is UTC."""
    since = moment - (_NAIVE_EPOCH if moment.tzinfo is None else EPOCH)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def parse_instant_us(text: str) -> int:
    """Microseconds since 1970 UTC of an ISO 8601 time; UTC where it names no offset. Raises ValueError."""
    return microseconds_since_1970(datetime.fromisoformat(text))


def _longer_than_0(seconds: float) -> float:
    if seconds <= 0:
        raise ValueError("give a time longer than 0, or null")
    return seconds


def _instant(text: str) -> str:
    try:
        parse_instant_us(text)
    except ValueError:
        raise ValueError("not an ISO 8601 time; write 2024-05-01T12:00:00Z") from None
    return text


def spelled(text: str | tuple[str, ...], description: str) -> Any:
    """A field whose default is spelled as in a file and parsed with it; typed Any because the text is not the value's type."""
    return Field(text, description=description)


Duration = Annotated[
    float, BeforeValidator(parse_duration_s, json_schema_input_type=str), PlainSerializer(format_duration, return_type=str, when_used="json")
]
LimitOrNone = Annotated[Duration, AfterValidator(_longer_than_0)] | None
"""Where 0 could be taken for never as well as for at once, and is neither."""
Instant = Annotated[str, AfterValidator(_instant)]
