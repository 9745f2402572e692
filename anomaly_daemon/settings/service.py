"""What a long life takes: checkpoints, what is said of it, and how it ends."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from anomaly_daemon.settings.section import Section
from anomaly_daemon.settings.values import Duration, spelled

_CHECKPOINTS_EVERY_MIN_S, _CHECKPOINTS_TIMEOUT_MIN_S = 0.1, 1.0


class Checkpoints(Section):
    """Where the state of each partition is saved: a cache of the log."""

    url: str = Field(
        "checkpoints",
        description="Folder or fsspec URL, such as s3://bucket/folder; one that needs a password belongs into the secrets directory.",
    )
    every: Duration = spelled("60s", "Time between two checkpoints of a partition.")
    timeout: Duration = spelled(
        "2m", "Time that a recovery waits for the store, as for a whole checkpoint; then state comes from the log. A reload waits 5s."
    )
    keep: int = Field(2, ge=1, le=16, description="Checkpoints kept per partition.")
    rewind_records_max: int | None = Field(
        None,
        ge=0,
        description="Without a valid checkpoint, records before the committed offset to go through again; none: all that is retained.",
    )

    @field_validator("every")
    @classmethod
    def _check(cls, seconds: float) -> float:
        if seconds < _CHECKPOINTS_EVERY_MIN_S:
            raise ValueError("at least 100ms: the daemon would write checkpoints and little else")
        return seconds

    @field_validator("timeout")
    @classmethod
    def _check_timeout(cls, seconds: float) -> float:
        if seconds < _CHECKPOINTS_TIMEOUT_MIN_S:
            raise ValueError("at least 1s: a checkpoint has to be read within it")
        return seconds


class Logging(Section):
    """What the daemon says of itself."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe that is shown.")
    format: Literal["auto", "console", "json"] = Field("auto", description="auto: console on a terminal, JSON elsewhere.")


class Shutdown(Section):
    """How the daemon leaves."""

    drain_timeout: Duration = spelled("20s", "After SIGTERM, time for the batch under way, its commit and a checkpoint.")
