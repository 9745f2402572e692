"""What is held against an entity: which evidence channels are at work, and how each is set."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from anomaly_daemon.settings.record_schema import Section

ChannelName = Literal["prediction", "reconstruction", "residual", "level"]
SPAN_MAX = 10_000


class Chart(Section):
    """A control chart: exponentially weighted averages of every feature, held against where they usually are."""

    spans: tuple[int, ...] = Field((1, 10, 30), min_length=1, max_length=8, description="Observations that each average spans; rising. Trained.")
    shrinkage: float = Field(0.1, ge=0, le=1, description="How far correlations of the features are drawn towards none. Trained.")
    reference_half_life: float | None = Field(
        None, ge=10, description="Observations after which half of a lasting shift counts as usual; none: what training saw stays the reference."
    )
    spread_half_life: float | None = Field(
        None, ge=10, description="Observations after which half of a lasting change of an average's spread counts as usual; none: as in training."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if list(self.spans) != sorted(set(self.spans)) or not 1 <= self.spans[0] <= self.spans[-1] <= SPAN_MAX:
            raise ValueError(f"spans must rise, each from 1 to {SPAN_MAX}, such as [1, 10, 30]")
        return self


class Evidence(Section):
    """Evidence channels, fused to one score."""

    channels: tuple[ChannelName, ...] = Field(
        ("prediction", "reconstruction", "residual", "level"),
        min_length=1,
        description=(
            "prediction: the network's error on the next observation; reconstruction: its error on the last ones; residual: averages of its signed "
            "errors that leave their place; level: averages of the values that do. With level alone the network rests."
        ),
    )
    calibration: Literal["entity", "trained"] = Field(
        "entity",
        description="entity: each channel is held against the errors that the entity itself showed; trained: against those that training saw.",
    )
    half_life: float | None = Field(
        None, ge=2, description="calibration: entity: observations after which an error counts half; none: as `threshold.half_life`."
    )
    residual: Chart = Field(
        Chart(spans=(10,), shrinkage=1.0, reference_half_life=1440, spread_half_life=1440),
        description="The chart of what the network did not foresee.",
    )
    level: Chart = Field(Chart(), description="The chart of the values.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        doubled = {name for name in self.channels if self.channels.count(name) > 1}
        if doubled:
            raise ValueError(f"channels: {', '.join(sorted(doubled))} stands twice")
        return self
