"""What the product says while something is broken on purpose."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import structlog
from structlog.testing import capture_logs


@contextmanager
def heard() -> Iterator[list[MutableMapping[str, Any]]]:
    """Every log line of this process from now on, however severe, in place of where it would go."""
    before = structlog.get_config()
    structlog.reset_defaults()
    try:
        with capture_logs() as told:
            yield told
    finally:
        structlog.configure(**before)
