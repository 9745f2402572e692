"""How numbers, times and names stand in a report."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Final

from anomaly_daemon.domain.times import EPOCH

NAME_CHARACTERS_MAX: Final = 120
_NONE: Final = "–"


def moment(time_us: int | None) -> str:
    """An event time in UTC to the second, or to the millisecond where it has any."""
    if time_us is None:
        return _NONE
    precision = "milliseconds" if time_us % 1_000_000 else "seconds"
    return (EPOCH + timedelta(microseconds=time_us)).isoformat(sep=" ", timespec=precision).removesuffix("+00:00")


def lasting(span_us: int | None) -> str:
    """A span in its largest two units."""
    if span_us is None:
        return _NONE
    seconds, rest = divmod(max(0, span_us), 1_000_000)
    if seconds < 60:
        return f"{seconds + rest / 1e6:.3g} s"
    for unit, length, smaller, part in (("d", 86_400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= length:
            whole, left = divmod(seconds, length)
            return f"{whole} {unit}" + (f" {left // part} {smaller}" if left // part else "")
    return f"{seconds} s"


def spelled(value: float | None) -> str:
    """Four significant digits; an en dash where there is none."""
    return _NONE if value is None or not math.isfinite(value) else f"{value:.4g}"


def counted(value: int) -> str:
    """With thousands apart."""
    return f"{value:,}"


def percent(fraction: float) -> str:
    """A share, in per cent."""
    return f"{100 * fraction:.3g} %"


_DIRECTIONS: Final = dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F), "\ufffd")


def shortened(name: str, characters_max: int = NAME_CHARACTERS_MAX) -> str:
    """A name of bounded length; what would turn the direction of the text around it is shown as a box."""
    name = name.translate(_DIRECTIONS)
    return name if len(name) <= characters_max else name[: characters_max - 1] + "…"


def plotted(name: str, characters_max: int = NAME_CHARACTERS_MAX) -> str:
    """A name for Bokeh, which would take some of it for TeX and ask the network for a typesetter."""
    return shortened(name, characters_max).replace("$$", "$\u200b$").replace("\\", "\\\u200b")
