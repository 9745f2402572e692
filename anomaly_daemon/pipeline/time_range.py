"""Where a range begins and ends, as a person types it: an offset of every partition, or a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.domain.records import Offset, Record
from anomaly_daemon.pipeline.decode import Decoder


@dataclass(frozen=True, slots=True)
class Moment:
    """Either an offset or a time, microseconds since 1970 UTC."""

    offset: Offset | None = None
    time_us: int | None = None


TimesOf = Callable[[Sequence[Record]], list[int]]
"""The time of each record, milliseconds since 1970 UTC."""


def timestamps_ms(records: Sequence[Record]) -> list[int]:
    """The log's own timestamps."""
    return [record.timestamp_ms for record in records]


def event_times_ms(decoder: Decoder) -> TimesOf:
    """Event times; a record that cannot be decoded has the time of the one before it, 0 where there is none."""

    def times(records: Sequence[Record]) -> list[int]:
        observations, _ = decoder.decode(list(records))
        time_of = {id(record): time_us // 1000 for record, time_us in zip(observations.records, observations.times_us.tolist(), strict=True)}
        found = [time_of.get(id(record)) for record in records]
        latest = next((time for time in found if time is not None), 0)
        return [latest := latest if time is None else time for time in found]

    return times


def parse_moment(flag: str, text: str | None) -> Moment | None:
    """None for None. Raises InputError for anything but an offset or ISO 8601; a time without a zone is UTC."""
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return Moment(offset=int(text))
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{flag} {text}: neither an offset nor an ISO 8601 time such as 2026-01-31T12:00:00Z") from None
    time = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    return Moment(time_us=round(time.timestamp() * 1e6))


def refuse_inverted(start: Moment | None, end: Moment | None, flags: tuple[str, str] = ("--from", "--to")) -> None:
    """Raises InputError for a range that ends where it begins or before."""
    if start is None or end is None:
        return
    for first, last in ((start.offset, end.offset), (start.time_us, end.time_us)):
        if first is not None and last is not None and first >= last:
            first_flag, last_flag = flags
            told = f"{first_flag} {spelled(start)} {last_flag} {spelled(end)}"
            raise InputError(f"{told}: the range is empty; {last_flag} is exclusive and must lie after {first_flag}")


def spelled(moment: Moment | None) -> str | None:
    """As it would be typed."""
    if moment is None:
        return None
    if moment.time_us is None:
        return str(moment.offset)
    return datetime.fromtimestamp(moment.time_us / 1e6, UTC).isoformat().replace("+00:00", "Z")
