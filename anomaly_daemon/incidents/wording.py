"""Evidence and durations in words, for the sentence and the reasons of an alert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from anomaly_daemon.domain.records import ChannelShare
from anomaly_daemon.domain.times import DAY_US, EPOCH
from anomaly_daemon.incidents.incident import Kind

CHARTS = frozenset({"level", "linear", "residual"})
SHARE_TOLD_MIN = 0.05
_UNITS_US = (("d", DAY_US), ("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000))
_WORDS: Mapping[str, str] = {
    "prediction": "not as foreseen since",
    "conditional": "out of place for what goes with it since",
    "adaptive": "unlike anything remembered or foreseen since",
    "reconstruction": "an unusual course since",
    "residual": "drifting from what is foreseen since",
    "linear": "drifting from its own averages since",
    "level": "level shift since",
    "surprise": "rare values since",
    "novelty": "values unlike any remembered since",
}


def leading_words(channels: Sequence[ChannelShare], kind: Kind, since_us: int, at_us: int) -> str | None:
    """What the channel with the largest share says, and since when; None without channels. A level shift is called so whichever chart leads."""
    if not channels:
        return None
    words = _WORDS.get(channels[0].channel, f"{channels[0].channel} since")
    if kind == "level_shift" and channels[0].channel in CHARTS:
        words = _WORDS["level"]
    return f"{words} {_clock(since_us, at_us)}"


def shares_text(channels: Sequence[ChannelShare]) -> str | None:
    """The channels that count, largest first; None without any."""
    told = [f"{one.channel} {one.contribution:.0%}" for one in channels if one.contribution >= SHARE_TOLD_MIN]
    return f"evidence by channel: {', '.join(told)}" if told else None


def spoken(time_us: int) -> str:
    """A duration for a person, in its two largest units: `2 h 5 min`."""
    for place, (_, size) in enumerate(_UNITS_US):
        if time_us >= size:
            parts = [(time_us // size, _UNITS_US[place][0])]
            if place + 1 < len(_UNITS_US):
                parts.append((time_us % size // _UNITS_US[place + 1][1], _UNITS_US[place + 1][0]))
            return " ".join(f"{number} {unit}" for number, unit in parts if number)
    return f"{time_us / 1e3:g} ms"


def lasting(since_us: int, until_us: int, since: str) -> str:
    """How long something went on from a time, which is spelled in `since`."""
    return f"for {spoken(until_us - since_us)} from {since}" if until_us > since_us else f"at {since}"


def _clock(since_us: int, at_us: int) -> str:
    """The time of day where it is that of the same day, else the date too."""
    since, at = (EPOCH + timedelta(microseconds=time_us) for time_us in (since_us, at_us))
    return f"{since:%H:%M} UTC" if since.date() == at.date() else f"{since:%Y-%m-%d %H:%M} UTC"
