"""How a record is read: entity, event time and features."""

from __future__ import annotations

from collections import Counter
from typing import Literal, Self

from pydantic import Field, model_validator

from anomaly_daemon.settings.section import Section
from anomaly_daemon.settings.values import Duration, Instant, parse_instant_us, spelled

FeatureKind = Literal["number", "asinh", "log", "difference", "rate", "relative", "elapsed", "count", "cyclic", "unusual_time", "category"]
NUMBER_KINDS: tuple[FeatureKind, ...] = ("number", "asinh", "log", "difference", "rate", "relative")
_TIME_KINDS: tuple[FeatureKind, ...] = ("elapsed", "count", "cyclic", "unusual_time")
_PERIODIC_KINDS: tuple[FeatureKind, ...] = ("cyclic", "unusual_time")


class Feature(Section):
    """One feature of the entity, read from the record or derived from it."""

    name: str = Field(min_length=1, max_length=128, description="Name in alerts and in the artifact.")
    path: str | None = Field(None, description="Dotted path of the field in the JSON object; default: the name itself, whole.")
    kind: FeatureKind = Field(
        "number",
        description=(
            "number, asinh, log (of 1 + |x|, with the sign of x), difference, rate (per second, of a counter), relative (the log in deviations from "
            "the entity's own mean of it), elapsed (log of seconds since the entity's previous record), count (log of how many records of the entity "
            "there were lately, this one included), cyclic (sine and cosine), unusual_time (minus log of how often the entity is seen at this time "
            "of the period, against an even spread), category (rarity and first-seen; with `bits` which one it is)."
        ),
    )
    period: Literal["hour_of_day", "day_of_week"] | None = Field(None, description="cyclic, unusual_time: of the event time, UTC.")
    half_life: Duration | None = Field(None, description="count only: time after which a record counts half, such as 1h.")
    within: str | None = Field(
        None, description="relative only: name of a category feature; the mean is the entity's own among records of that value."
    )
    context: bool = Field(False, description="The network knows it, but it is no evidence: nobody is surprised by it. A cyclic feature always is.")
    possible: tuple[float, float] | None = Field(
        None, description="Number kinds: least and greatest reading that can be at all; one beyond is judged, and a fault of quality: out_of_range."
    )
    values_max: int = Field(32, ge=2, le=1024, description="category only: values remembered per entity; the rarest is dropped when full.")
    bits: int = Field(
        0,
        ge=0,
        le=48,
        description=(
            "category only: columns of 1 and -1 that tell values apart, so that the network knows which one it was; 16 for some ten values; 0: none. "
            "In alerts they are one feature, without numbers."
        ),
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key, value, kinds in (("period", self.period, _PERIODIC_KINDS), ("half_life", self.half_life, ("count",))):
            if (self.kind in kinds) != (value is not None):
                raise ValueError(f"feature {self.name!r}: `{key}` goes with kind {' or '.join(kinds)}, and only with it")
        if self.half_life is not None and self.half_life <= 0:
            raise ValueError(f"feature {self.name!r}: half_life must be longer than 0")
        if self.kind != "relative" and self.within is not None:
            raise ValueError(f"feature {self.name!r}: `within` goes with kind relative only")
        if self.kind != "category" and self.bits:
            raise ValueError(f"feature {self.name!r}: `bits` goes with kind category only")
        if self.possible is not None and (self.kind not in NUMBER_KINDS or self.possible[0] >= self.possible[1]):
            raise ValueError(f"feature {self.name!r}: `possible` goes with a number, the least reading before the greatest, such as [0, 16]")
        if self.kind in _TIME_KINDS and self.path is not None:
            raise ValueError(f"feature {self.name!r}: kind {self.kind} is derived from the event time and takes no path")
        return self

    @property
    def is_context(self) -> bool:
        """Whether it is no evidence."""
        return self.context or self.kind == "cyclic"

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of what it is turned into: cyclic features are two columns, category features two and their bits."""
        bits = tuple(f"_bit_{number}" for number in range(1, self.bits + 1))
        suffixes = {"cyclic": ("_sin", "_cos"), "category": ("_rarity", "_new", *bits)}.get(self.kind, ("",))
        return tuple(self.name + suffix for suffix in suffixes)

    @property
    def nominal(self) -> tuple[str, ...]:
        """Columns that have no place to leave: which category it is; and that it is new, as its rarity tells already."""
        return self.columns[1:] if self.kind == "category" else ()

    @property
    def told(self) -> tuple[str, ...]:
        """The name that alerts give each of its columns: the bits of a category are one to a person, named as the feature is."""
        return self.columns[: len(self.columns) - self.bits] + (self.name,) * self.bits


class Time(Section):
    """Where the event time stands."""

    path: str | None = Field(None, description="Dotted path of the event time; none: the record's own timestamp.")
    format: Literal["iso8601", "s", "ms", "us"] = Field("iso8601", description="ISO 8601 (UTC unless it says otherwise) or an epoch in this unit.")
    earliest: Instant = spelled("1990-01-01T00:00:00Z", "Event times before this are rejected.")
    latest: Instant = spelled("2100-01-01T00:00:00Z", "Event times after this are rejected.")
    ahead_max: Duration = spelled("1d", "How far an event time may lie after the record's own timestamp.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if parse_instant_us(self.earliest) >= parse_instant_us(self.latest):
            raise ValueError(f"earliest ({self.earliest}) must lie before latest ({self.latest})")
        return self


class RecordSchema(Section):
    """How a record's JSON is read."""

    entity: str = Field("key", description="`key` (the record's key as UTF-8) or the dotted path of a string or integer field.")
    entity_bytes_max: int = Field(256, ge=1, le=4096, description="Longer entity names are rejected.")
    record_bytes_max: int = Field(1_000_000, ge=64, le=64_000_000, description="Larger records are rejected unread.")
    time: Time = Field(default_factory=Time, description="Where the event time stands.")
    features: tuple[Feature, ...] = Field((), max_length=512, description="What is watched, in order.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = Counter(name for feature in self.features for name in {*feature.columns, *feature.told})
        doubled = [name for name, count in names.items() if count > 1]
        if doubled:
            raise ValueError(f"feature names must differ: {', '.join(doubled)} stands twice")
        categories = [feature.name for feature in self.features if feature.kind == "category"]
        for feature in self.features:
            if feature.within is not None and feature.within not in categories:
                known = f"there are: {', '.join(categories)}" if categories else "there is none"
                raise ValueError(f"feature {feature.name!r}: within {feature.within!r} is no feature of kind category; {known}")
        return self
