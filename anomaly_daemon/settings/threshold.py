"""When a score is too high."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from anomaly_daemon.settings.section import Section

RIVER_PREFIX = "river:"


def is_river(method: str) -> bool:
    """Whether a threshold's method names a class of river."""
    return method.startswith(RIVER_PREFIX)


class Threshold(Section):
    """When a score is too high. Which parameters count depends on the method."""

    method: str = Field(
        "ewma",
        description=(
            "ewma, spot, quantile, static; or a class of river: river:anomaly.CLASS such as river:anomaly.GaussianScorer, river:stats.Quantile, "
            "RollingQuantile, Max or RollingMax. ewma holds the deviations of the log score above its own mean against z, spot and quantile against "
            "the tail of the last ones."
        ),
    )
    z: float = Field(4.0, gt=0, le=50, description="ewma: deviations of the log score above its mean.")
    alerts_per_day: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description=(
            "ewma: in place of a fixed z: so many incidents opened per day of event time, over all that is read; silences, faults of records and "
            "lasting changes, which follow no z, come beside. z is then where it begins; one "
            "factor moves it (between 1 and 50) and, with it, those of the overrides, each hour or more often. Each partition takes the same share: "
            "one in as many as the topics had when the daemon started, or as there are files. Days without a record, and warm-up, do not count."
        ),
    )
    half_life: float = Field(1440, ge=2, description="all but river: observations after which a score counts half.")
    span: int = Field(
        1,
        ge=1,
        le=1000,
        description=(
            "all but river: records that the log score is averaged over before it is held against its own mean, so that an anomaly must last; "
            "1: each stands for itself. The level of static, and anomaly_score, are those of the single record."
        ),
    )
    reference_observations: int | None = Field(
        None,
        ge=16,
        le=10_000_000,
        description=(
            "all but river: the mean and deviation of an entity's first so many observations stay, and nothing is an anomaly that is no higher than "
            "the highest of them; so they should be normal ones. none: what is usual goes on being learned, by half_life."
        ),
    )
    recovery: float = Field(
        0.0,
        ge=0,
        lt=1,
        description=(
            "all but river: a score below this share of the highest since it was last at its mean is no anomaly: what is going back recovers. The "
            "highest counts half after each half_life. 0: any score above the threshold is one."
        ),
    )
    tail: float = Field(1e-3, gt=0, lt=0.5, description="spot, quantile, river quantiles: probability of a normal score beyond the threshold.")
    window: int = Field(2000, ge=50, le=20_000, description="spot, quantile: deviations remembered per entity.")
    level: float = Field(
        0.9,
        gt=0,
        description=(
            "static: the threshold on anomaly_score, below 1. River detectors: on the detector's own reading, whose scale differs: choose it for the "
            "detector. GaussianScorer and HalfSpaceTrees read 0 to 1, and normal scores often lie above the default (to GaussianScorer one in "
            "twenty does), so .99 or more; StandardAbsoluteDeviation reads deviations, so 4 or more. Other methods: unused."
        ),
    )
    parameters: dict[str, float | int | bool | str] = Field(default_factory=dict, description="river: keyword arguments of the estimator.")
    warmup_observations: int = Field(
        64,
        ge=1,
        le=100_000,
        description=(
            "Until an entity was seen this often (phase: warmup) it is held against what training saw, the less the more it showed itself, with a "
            "margin; alerts say half the confidence."
        ),
    )
    warmup: Literal["judge", "silent"] = Field(
        "judge", description="silent: nothing is announced in warm-up, as where a stream begins in a part known to be normal. River: always."
    )
    suspect_z: float = Field(
        4.0,
        gt=0,
        le=50,
        description="all but river: deviations from which a score is suspect. Apart from z, so that another z never changes what is learned.",
    )
    suspect_learning: float = Field(
        0.1, ge=0, le=1, description="How much a suspect observation teaches, against 1 for a normal one; from an entity's 17th on."
    )

    outliers: Literal["bounded", "full"] = Field(
        "bounded",
        description=(
            "all but river: bounded: a score counts as far as it is within reach of its mean, so that neither hours at rest nor scores just short of "
            "suspect make an entity deaf; full: as it is, where the spread of the scores themselves changes from day to day and is to be followed."
        ),
    )

    HOLDING: ClassVar[tuple[str, ...]] = ("span", "reference_observations", "recovery", "outliers")

    @property
    def judges_in_warmup(self) -> bool:
        """Whether a record in warm-up can be anomalous; river's estimators know no prior."""
        return self.warmup == "judge" and not is_river(self.method)

    @property
    def holds_back(self) -> bool:
        """Whether the method heeds the keys of HOLDING."""
        return not is_river(self.method)

    @model_validator(mode="after")
    def _check(self) -> Self:
        idle = [key for key in self.HOLDING if getattr(self, key) != type(self).model_fields[key].default]
        if idle and not self.holds_back:
            raise ValueError(f"{', '.join(idle)}: without effect on method {self.method}; set another method, or leave it out")
        if self.level >= 1 and not is_river(self.method):
            raise ValueError(f"level ({self.level:g}) must be below 1, as anomaly_score is; only river detectors read higher")
        if self.alerts_per_day is not None and self.method != "ewma":
            raise ValueError(f"alerts_per_day moves z, which {self.method!r} does not have; set method: ewma, or leave alerts_per_day out")
        return self
