"""What to say of topics that should be there and are not; the same on every log."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from anomaly_daemon.domain.errors import TopicError

_TOLD_MAX = 5


def missing_topics(log: str, missing: Iterable[str], present: Iterable[str]) -> TopicError:
    """The refusal that names them all, what is there instead, most alike first, and how to write one."""
    wanted, others = sorted(missing), sorted(present)
    others.sort(key=lambda name: max(difflib.SequenceMatcher(None, name, one).ratio() for one in wanted), reverse=True)
    told = f"{', '.join(others[:_TOLD_MAX])}{', …' if len(others) > _TOLD_MAX else ''}"
    there = f"it holds {told}" if others else "it holds no topic yet"
    return TopicError(f"{log}: no topic {', '.join(wanted)}; {there}; `anomaly-daemon load --topic {wanted[0]} --create FILES` makes one of files")
