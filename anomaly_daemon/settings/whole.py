"""All the sections together, and what has to hold between them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from anomaly_daemon.settings.evidence import Evidence
from anomaly_daemon.settings.incident_rules import Incidents, Override, Regime
from anomaly_daemon.settings.kafka import Kafka
from anomaly_daemon.settings.log_url import checked_log, masked
from anomaly_daemon.settings.model import Engine, Model, Training
from anomaly_daemon.settings.nearest import unknown_key, unknown_word
from anomaly_daemon.settings.quality import Quality
from anomaly_daemon.settings.record_schema import RecordSchema
from anomaly_daemon.settings.section import Section
from anomaly_daemon.settings.service import Checkpoints, Logging, Shutdown
from anomaly_daemon.settings.threshold import Threshold, is_river
from anomaly_daemon.settings.topics import Input, Output, TopicCreation

ENVIRONMENT_PREFIX: Final = "ANOMALY_DAEMON_"


class Settings(BaseSettings):
    """The whole of it."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    detector_id: str = Field("anomaly-daemon", min_length=1, max_length=128, description="Names this detector in alerts and in incident ids.")
    log: str = Field(
        "sqlite:///topics.db",
        description="sqlite:///relative.db, sqlite:////absolute.db or kafka://host:9092,host:9092; user and password are settings of `kafka`.",
    )
    input: Input = Field(default_factory=Input, description="What is read.")
    output: Output = Field(default_factory=Output, description="What is written.")
    topics: TopicCreation = Field(default_factory=TopicCreation, description="Missing topics and retention.")
    kafka: Kafka = Field(default_factory=Kafka, description="The Kafka client.")
    record: RecordSchema = Field(default_factory=RecordSchema, description="How records are read.")
    model: Model = Field(default_factory=Model, description="The network.")
    training: Training = Field(default_factory=Training, description="How it is fitted.")
    engine: Engine = Field(default_factory=Engine, description="State on the device.")
    evidence: Evidence = Field(default_factory=Evidence, description="What is held against an entity.")
    threshold: Threshold = Field(default_factory=Threshold, description="When a score is too high.")
    quality: Quality = Field(default_factory=Quality, description="When a record is at fault.")
    incidents: Incidents = Field(default_factory=Incidents, description="When an incident is announced.")
    regime: Regime = Field(default_factory=Regime, description="What becomes of a lasting change.")
    overrides: tuple[Override, ...] = Field((), max_length=1000, description="Other values for some entities, first match wins.")
    checkpoints: Checkpoints = Field(default_factory=Checkpoints, description="Saved state.")
    logging: Logging = Field(default_factory=Logging, description="What is said.")
    shutdown: Shutdown = Field(default_factory=Shutdown, description="How it leaves.")

    # What a running daemon takes over without a restart.
    LIVE: ClassVar[frozenset[str]] = frozenset(
        {"threshold.z", "threshold.alerts_per_day", "threshold.level", "incidents", "regime", "overrides", "logging", "checkpoints.every"}
    )

    @property
    def calibration_half_life(self) -> float | None:
        """Observations after which what a channel's errors taught counts half; None where they teach nothing."""
        return None if self.evidence.calibration == "trained" else self.evidence.half_life or self.threshold.half_life

    def shown(self) -> dict[str, Any]:
        """As JSON, for files that others read: without a password."""
        values: dict[str, Any] = self.model_dump(mode="json")
        values["checkpoints"]["url"] = masked(self.checkpoints.url)
        return values

    @field_validator("log")
    @classmethod
    def _check_log(cls, url: str) -> str:
        return checked_log(url)

    @model_validator(mode="after")
    def _check(self) -> Self:
        faults = self._doubled_topics()
        for override in self.overrides:
            found = (
                _fault(self.threshold, override.threshold, f"override {override.match!r}: threshold"),
                _fault(self.incidents, override.incidents, f"override {override.match!r}: incidents"),
                _fault(self.regime, override.regime, f"override {override.match!r}: regime"),
            )
            faults += [fault for fault in found if fault is not None]
        faults += self.unacceptable()
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def unacceptable(self) -> list[str]:
        """Where a change would never be looked for, or cannot be accepted: who starts anew would be judged as before, or the past stays."""
        return [*self._unlooked_for(), *self._irreversible()]

    def _unlooked_for(self) -> list[str]:
        """Where an answer to changes is given that nobody looks for. The common one may be for overrides that give a time."""
        given = [(f"override {one.match!r}: regime", one.regime) for one in self.overrides]
        is_for_overrides = any(keys.get("after") is not None for _, keys in given)
        places = [] if is_for_overrides else [("regime", self.regime.policy, self.regime.after)]
        places += [(where, keys["policy"], keys.get("after", self.regime.after)) for where, keys in given if "policy" in keys]
        return [
            f"{where}.policy: {policy}: without effect, because {where}.after is null and so no change is looked for; "
            "give it a time, such as 1d, or set policy: hold"
            for where, policy, after in places
            if after is None and policy != "hold"
        ]

    def _irreversible(self) -> list[str]:
        """Where a change cannot be accepted."""
        places = [("regime", self.regime.policy), *((f"override {one.match!r}: regime", one.regime.get("policy")) for one in self.overrides)]
        asked = [where for where, policy in places if policy == "accept"]
        if is_river(self.threshold.method):
            return [
                f"{where}.policy: accept: {self.threshold.method} keeps no state that a record can begin anew; use ewma, spot or quantile"
                for where in asked
            ]
        if self.threshold.method == "static" and self.evidence.calibration == "trained":
            remedy = "set evidence.calibration: entity, or threshold.method: ewma, or hold the change"
            return [f"{where}.policy: accept: with a static threshold on errors as trained a new level stays anomalous; {remedy}" for where in asked]
        return []

    def _doubled_topics(self) -> list[str]:
        """Topics of two roles: what is written to a topic that is read comes back as input, without end."""
        roles = [("input.topics", topic) for topic in dict.fromkeys(self.input.topics)]
        roles += [("output.alerts_topic", self.output.alerts_topic), ("output.dead_letter_topic", self.output.dead_letter_topic)]
        pairs = itertools.combinations(roles, 2)
        return [f"{one} and {other} both name {topic!r}; give each a topic of its own" for (one, topic), (other, same) in pairs if topic == same]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """`load` reads and merges the sources, to name the one at fault; made without it, only explicit arguments count."""
        return (init_settings,)


def _fault(section: Section, keys: Mapping[str, Any], where: str) -> str | None:
    """The first key that the section would not take in place of its own, and why."""
    try:
        section.overridden(keys)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join((where, *map(str, problem["loc"])))
        if problem["type"] == "extra_forbidden":
            return f"{key}: {unknown_key(str(problem['loc'][-1]), type(section).model_fields)}"
        if problem["type"] == "literal_error":
            return f"{key}: {unknown_word(problem['input'], problem['ctx']['expected'])}"
        return f"{key}: {problem['msg'].removeprefix('Value error, ')}"
    return None
