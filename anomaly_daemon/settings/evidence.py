"""What is held against an entity: which evidence channels are at work, and how each is set."""

from __future__ import annotations

from typing import Final, Literal, Self

from pydantic import Field, model_validator

from anomaly_daemon.settings.section import Section
from anomaly_daemon.settings.values import Duration, spelled

ChannelName = Literal["prediction", "reconstruction", "residual", "conditional", "linear", "level", "surprise", "novelty", "adaptive"]
NETWORK_CHANNELS: Final[tuple[ChannelName, ...]] = ("prediction", "reconstruction", "residual", "conditional")
SPAN_MAX = 10_000
HALF_LIVES_MAX = 8


class Averages(Section):
    """Exponentially weighted averages."""

    spans: tuple[int, ...] = Field((1, 10, 30), min_length=1, max_length=8, description="Observations that each average spans; rising. Trained.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if list(self.spans) != sorted(set(self.spans)) or not 1 <= self.spans[0] <= self.spans[-1] <= SPAN_MAX:
            raise ValueError(f"spans must rise, each from 1 to {SPAN_MAX}, such as [1, 10, 30]")
        return self


class Chart(Averages):
    """A control chart: exponentially weighted averages of every feature, held against where they usually are."""

    shrinkage: float = Field(0.1, ge=0, le=1, description="How far correlations of the features are drawn towards none. Trained.")
    reference_half_life: float | None = Field(
        None, ge=10, description="Observations after which half of a lasting shift counts as usual; none: what training saw stays the reference."
    )
    spread_half_life: float | None = Field(
        None, ge=10, description="Observations after which half of a lasting change of an average's spread counts as usual; none: as in training."
    )


class Surprise(Section):
    """Features that go farther than they usually do, added up over the features and over the recent past."""

    half_lives: tuple[Duration, ...] = spelled(("10m", "1h"), "Beside the record itself: times after which a surprise counts half; rising. Trained.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if list(self.half_lives) != sorted(set(self.half_lives)) or not 1 <= len(self.half_lives) <= HALF_LIVES_MAX or self.half_lives[0] <= 0:
            raise ValueError(f"half_lives must rise, each longer than 0, {HALF_LIVES_MAX} at most, such as [10m, 1h]")
        return self


class Novelty(Section):
    """Values unlike any that the entity showed before."""

    remembered: int = Field(
        256, ge=16, le=4096, description="Values remembered at most, of each of four signals of each feature: 8 kB a feature at 256."
    )
    refractory: int = Field(
        100,
        ge=0,
        le=1_000_000,
        description="Observations for which what was new keeps back whatever is not newer still: a lasting change is news once.",
    )


class Adaptive(Novelty):
    """The same of the errors of a forecast that goes on learning from each entity's own history, beside the values."""

    units: int = Field(15, ge=2, le=63, description="Units of the fixed encoder; each entity's readout of it keeps 8 (units + 1)² bytes.")
    half_life: float = Field(7000, ge=100, description="Observations after which what one taught the readout counts half.")
    error_share: float = Field(0.8, ge=0, le=1, description="What a new error counts, of what an equally new value does.")


class Conditional(Averages):
    """How far features are from what the network, the clock and the features ahead of them in their record say: at the record, and on average."""

    spans: tuple[int, ...] = Field((4, 8), min_length=1, max_length=8, description="Observations that each average spans; rising. Trained.")
    units: int = Field(128, ge=8, le=1024, description="Hidden units for all features together. Trained.")


class ResidualChart(Chart):
    """The same with other defaults: a forecaster's errors are nearly unrelated to each other, and their size drifts."""

    spans: tuple[int, ...] = Field((1, 10, 30), min_length=1, max_length=8, description="Observations that each average spans; rising. Trained.")
    shrinkage: float = Field(1.0, ge=0, le=1, description="How far correlations of the features are drawn towards none. Trained.")
    reference_half_life: float | None = Field(
        1440, ge=10, description="Observations after which half of a lasting shift counts as usual; none: what training saw stays the reference."
    )
    spread_half_life: float | None = Field(
        1440, ge=10, description="Observations after which half of a lasting change of an average's spread counts as usual; none: as in training."
    )


class LinearChart(ResidualChart):
    """The same, held against what training saw: where a network's errors drift with its surroundings, a line's tell that they did."""

    reference_half_life: float | None = Field(
        None, ge=10, description="Observations after which half of a lasting shift counts as usual; none: what training saw stays the reference."
    )
    spread_half_life: float | None = Field(
        None, ge=10, description="Observations after which half of a lasting change of an average's spread counts as usual; none: as in training."
    )


class Evidence(Section):
    """Evidence channels, fused to one score."""

    channels: tuple[ChannelName, ...] = Field(
        ("prediction", "reconstruction", "residual", "linear", "level"),
        min_length=1,
        description=(
            "prediction: the network's error on the next observation; reconstruction: its error on the last ones; residual: averages of its signed "
            "errors that leave their place; conditional: features unlike what the network, the clock and the rest of their record say, "
            "alone with `threshold.method` static or spot, for of few features its logarithm strays far; linear: averages of a linear forecast's "
            "errors; level: averages of the values; both where these leave their place; surprise: rare values, added up over the features and the "
            "recent past; novelty: values unlike any remembered, for up to 16 features; adaptive: novelty, and that of the errors of a forecast "
            "learned online from the entity's own history, for up to 8. These two tell few and sudden things: alone, with "
            "`threshold.method: static` and `calibration: trained`, as configs/benchmarks/NAB.yaml has them. "
            "Without the first four the network rests, in training too."
        ),
    )
    calibration: Literal["entity", "trained"] = Field(
        "entity",
        description="entity: each channel is held against the errors that the entity itself showed; trained: against those that training saw.",
    )
    half_life: float | None = Field(
        None, ge=2, description="calibration: entity: observations after which an error counts half; none: as `threshold.half_life`."
    )
    switches: bool = Field(
        True, description="Whether a feature that took at most two values in training is evidence; if not, it is context, unless all are. Trained."
    )
    residual: ResidualChart = Field(ResidualChart(), description="The chart of what the network did not foresee.")
    conditional: Conditional = Field(Conditional(), description="What each feature should be, given the others.")
    linear: LinearChart = Field(LinearChart(), description="The chart of what a linear forecast did not foresee.")
    level: Chart = Field(Chart(), description="The chart of the values.")
    surprise: Surprise = Field(Surprise(), description="The sums of what is rare.")
    novelty: Novelty = Field(Novelty(), description="The memory of values.")
    adaptive: Adaptive = Field(Adaptive(), description="The forecast learned online, and the memory of its errors.")

    @property
    def is_network_asked(self) -> bool:
        """Whether a channel at work is the network's."""
        return any(name in NETWORK_CHANNELS for name in self.channels)

    @model_validator(mode="after")
    def _check(self) -> Self:
        doubled = {name for name in self.channels if self.channels.count(name) > 1}
        if doubled:
            raise ValueError(f"channels: {', '.join(sorted(doubled))} stands twice")
        if self.half_life is not None and self.calibration == "trained":
            raise ValueError("half_life: without effect on calibration: trained, which learns nothing; set calibration: entity, or leave it out")
        return self
