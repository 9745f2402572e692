"""When an incident opens, is updated and closes, and what differs for some entities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from anomaly_daemon.settings.section import Section
from anomaly_daemon.settings.values import Duration, LimitOrNone, spelled


class Window(Section):
    """`count` of the last `of` observations."""

    count: int = Field(ge=1, le=63, description="How many.")
    of: int = Field(ge=1, le=63, description="Of how many.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.count > self.of:
            raise ValueError(f"count ({self.count}) cannot exceed of ({self.of}); set both")
        return self


class Incidents(Section):
    """When an incident opens, is updated and closes."""

    trigger: Window = Field(Window(count=3, of=5), description="An incident opens when this many of the last observations are anomalous.")
    recovery: Window = Field(Window(count=10, of=10), description="It closes when this many of the last observations are normal.")
    cooldown: Duration = spelled("0", "For this long after a close no incident of the entity opens; what would have is counted.")
    update_every: Duration = spelled("5m", "An open incident is announced again at most this often, by event time, and when its severity rises.")
    silence_after: LimitOrNone = Field(
        None,
        description=(
            "An entity is silent once its partition's watermark has moved on by more than this since its last record: the records of the others "
            "tell, so nobody falls silent on a partition where nothing comes. None: not watched."
        ),
    )
    window_points: int = Field(16, ge=0, le=64, description="Recent points in an alert.")

    @field_validator("trigger", "recovery", mode="before")
    @classmethod
    def _complete(cls, value: object, about: ValidationInfo) -> object:
        """A window given in part keeps the default of its other key."""
        if not isinstance(value, Mapping):
            return value
        default: Window = cls.model_fields[str(about.field_name)].default
        return {**default.model_dump(), **value}


class Regime(Section):
    """What becomes of an incident that does not end, because the entity lives otherwise now."""

    policy: Literal["hold", "accept", "ask"] = Field(
        "hold",
        description=(
            "A lasting change is announced once, as `regime_change`. hold: the entity keeps alarming and learns nothing until it is as before; "
            "accept: it starts anew after that record, as if never seen, and what it shows from there on is its normal; ask: held until an override "
            "for it says accept or hold."
        ),
    )
    after: LimitOrNone = spelled(
        "6h",
        "How long, by event time, an incident lasts before it is taken for a change; none: it never is. What is "
        "learned meanwhile makes many shifts usual within a day at a record a minute: give less at a quicker pace.",
    )
    share: float = Field(
        0.8, gt=0, le=1, description="Of the incident's observations, and of its last 63, the least share that is anomalous where a change lasts."
    )


class Override(Section):
    """Other values for some entities; the first matching one applies."""

    match: str = Field(min_length=1, description="Shell-style pattern over the entity: `pump-*`.")
    threshold: dict[str, float] = Field(default_factory=dict, description="Numeric keys of `threshold`: z, level.")
    incidents: dict[str, Any] = Field(default_factory=dict, description="Keys of `incidents`.")
    regime: dict[str, Any] = Field(default_factory=dict, description="Keys of `regime`.")

    ADJUSTABLE: ClassVar[tuple[str, ...]] = ("z", "level")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key in self.threshold:
            if key not in self.ADJUSTABLE:
                raise ValueError(f"override {self.match!r}: threshold.{key} cannot differ by entity; these can: {', '.join(self.ADJUSTABLE)}")
        return self
