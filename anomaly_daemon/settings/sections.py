"""Every other knob: its default, bound and meaning."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from anomaly_daemon.settings.evidence import Evidence
from anomaly_daemon.settings.incident_rules import Incidents, Override, Regime
from anomaly_daemon.settings.log_url import checked_log
from anomaly_daemon.settings.nearest import unknown_key, unknown_word
from anomaly_daemon.settings.quality import Quality
from anomaly_daemon.settings.record_schema import RecordSchema, Section
from anomaly_daemon.settings.values import KAFKA_NAME, Duration, LimitOrNone, spelled

ENVIRONMENT_PREFIX: Final = "ANOMALY_DAEMON_"
TopicName = Annotated[str, Field(pattern=f"^{KAFKA_NAME}$")]
_BATCH_INTERVAL_MAX_S = 10.0
_TIMEOUT_MIN_S, _TIMEOUT_MAX_S = 1.0, 86_400.0
_CHECKPOINTS_EVERY_MIN_S = 0.1


class Input(Section):
    """The topics read and the group that reads them."""

    topics: tuple[TopicName, ...] = Field(("readings",), min_length=1, description="Topics to read.")
    group: str = Field("anomaly-daemon", min_length=1, description="Consumer group.")
    member: str | None = Field(
        None,
        min_length=1,
        description="Stable name of this instance in the group, and in its transactional id; default: the host's name.",
    )
    start: Literal["earliest", "latest"] = Field("earliest", description="Where a group that never committed begins.")
    batch_records_max: int = Field(4096, ge=1, le=65536, description="Records of one batch, and so of one transaction, at most.")
    batch_interval: Duration = spelled(
        "50ms",
        "From the begin of one batch to that of the next at least, unless the log is behind: each is a transaction, and costs the broker as much "
        "whether it holds one record or hundreds. A record that comes alone does not wait. 0: none.",
    )
    poll_timeout: Duration = spelled("200ms", "How long a poll waits when there is nothing.")

    @field_validator("batch_interval")
    @classmethod
    def _check(cls, seconds: float) -> float:
        if seconds > _BATCH_INTERVAL_MAX_S:
            raise ValueError(f"at most {_BATCH_INTERVAL_MAX_S:g}s: alerts wait for it, and so do signals and rebalances")
        return seconds


class Output(Section):
    """The topics written."""

    alerts_topic: TopicName = Field("alerts", description="Where incidents are announced.")
    dead_letter_topic: TopicName = Field("dead-letters", description="Where rejected records go, bytes unchanged, reason in the headers.")
    dead_letter_bytes_max: int = Field(
        1_040_000,
        ge=10_000,
        le=64_000_000,
        description=(
            "A longer record is cut in the dead-letter topic, and the header dead_letter.cut says so; it stays whole in the topic read. Below "
            "max.message.bytes of the dead-letter topic, by default 1048588: beyond it the daemon stops at such a record."
        ),
    )


class TopicCreation(Section):
    """Whether missing topics are made."""

    create_topics: bool = Field(False, description="Make missing topics instead of refusing to start.")
    partitions: int = Field(4, ge=1, le=4096, description="Partitions of a topic that is made.")
    retention: LimitOrNone = Field(
        None, description="Records older than this are deleted; Kafka: of a topic that is made. None: kept; Kafka: as the broker has it."
    )
    retention_bytes: int | None = Field(
        None,
        ge=1_000_000,
        description="Beyond this size of a topic the oldest records are deleted; Kafka: of each partition of a topic that is made.",
    )


class Kafka(Section):
    """How the Kafka client connects."""

    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field("PLAINTEXT", description="Transport security.")
    ssl_cafile: Path | None = Field(
        None, description="Certificate authority that signed the brokers' certificates, PEM; default: those of this machine."
    )
    ssl_certfile: Path | None = Field(None, description="Client certificate, PEM.")
    ssl_keyfile: Path | None = Field(None, description="Client key, PEM; default: in the file of the certificate.")
    ssl_key_password: SecretStr | None = Field(None, description="Password of a locked client key; give it through the secrets directory.")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = Field(None, description="SASL mechanism.")
    sasl_username: str | None = Field(None, description="SASL user.")
    sasl_password: SecretStr | None = Field(None, description="SASL password; give it through the secrets directory.")
    static_membership: bool = Field(
        True,
        description=(
            "A member that leaves keeps its partitions until its session times out, so that a restart moves none. False: it gives them up at once, "
            "for instances that come and go with the load."
        ),
    )
    session_timeout: Duration = spelled("45s", "A member silent for this long loses its partitions.")
    max_poll_interval: Duration = spelled("5m", "A member that does not poll for this long leaves the group.")
    transaction_timeout: Duration = spelled("60s", "The broker aborts a transaction open for longer.")
    commit_timeout: Duration = spelled("30s", "A commit that takes longer has an unknown outcome: the daemon recovers.")
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field("lz4", description="Codec of what is produced.")

    @field_validator("session_timeout", "max_poll_interval", "transaction_timeout", "commit_timeout")
    @classmethod
    def _check(cls, seconds: float) -> float:
        if not _TIMEOUT_MIN_S <= seconds <= _TIMEOUT_MAX_S:
            raise ValueError("between 1s and 1d: a shorter one is over before a broker can answer, a longer one waits for what is long dead")
        return seconds


class Model(Section):
    """The composite LSTM autoencoder: its size."""

    artifact: Path = Field(Path("model"), description="Folder of the trained artifact.")
    hidden: int | None = Field(None, ge=2, le=1024, description="Units; default: 32 up to ten features, else 64.")
    code: int | None = Field(None, ge=1, le=512, description="Width of the code; default: 8 up to ten features, else 16.")
    layers: int = Field(1, ge=1, le=4, description="Stacked LSTM layers of the encoder.")
    scale: Literal["entity", "fleet"] = Field(
        "entity",
        description="entity: each entity's own mean and deviation, shrunk from the fleet's; fleet: the artifact's for all.",
    )
    tails: Literal["clip", "asinh"] = Field(
        "clip",
        description="What becomes of values far out on their scale: clip: cut at ten deviations; asinh: drawn in, as a logarithm would. Trained.",
    )
    per: Literal["fleet", "group", "entity"] = Field(
        "fleet",
        description=(
            "fleet: one model for all; group: one for the entities of each pattern in `groups`; entity: one for each entity that training saw. "
            "Whoever has none of its own is served by the fleet's."
        ),
    )
    network: Literal["own", "shared"] = Field(
        "own",
        description="own: each of these models trains a network; shared: one network for all, only scale, charts and calibration are their own.",
    )
    groups: tuple[str, ...] = Field((), max_length=1000, description="per: group: shell-style patterns over the entity, the first that fits wins.")
    scale_observations: int = Field(
        256,
        ge=2,
        le=2048,
        description=(
            "An entity's own scale is learned over this many observations, then kept: let them span its longest rhythm, such as a day. Wild ones "
            "count little."
        ),
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.per == "group") != bool(self.groups):
            raise ValueError("groups go with `per: group`, and only with it")
        if self.network == "shared" and self.per == "fleet":
            raise ValueError("network: shared goes with `per: group` or `per: entity`; with `per: fleet` one network is all there is: leave it out")
        return self


class Training(Section):
    """How `train` fits the model."""

    epochs: int = Field(30, ge=1, le=10_000, description="Passes at most.")
    patience: int = Field(5, ge=1, le=1000, description="Epochs without a better validation loss before stopping.")
    batch: int = Field(128, ge=1, le=65536, description="Sequences trained on at once.")
    steps: int = Field(50, ge=2, le=4096, description="Truncated backpropagation through time: steps of a chunk; state is carried between chunks.")
    optimizer: Literal["adam", "rmsprop"] = Field("adam", description="Adam or RMSprop.")
    learning_rate: float = Field(3e-3, gt=0, le=1, description="Initial; decays by a cosine to a twentieth.")
    gradient_norm_max: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    huber_delta: float = Field(3.0, gt=0, description="Errors beyond this many deviations count linearly.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Between stacked layers.")
    noise: float = Field(0.05, ge=0, le=1, description="Deviation of the noise on scaled inputs.")
    validation_share: float = Field(1 / 6, gt=0, lt=0.5, description="The latest part of the training range that decides on stopping.")
    test_share: float = Field(0.1, ge=0, lt=0.5, description="The part after the validation part that nothing is chosen on; its loss is reported.")
    seed: int = Field(0, ge=0, description="Of weights, noise and order.")


class Engine(Section):
    """The recurrent state of every entity, on the device."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA when there is one.")
    decode_every: int = Field(8, ge=1, le=256, description="Observations of an entity between two reconstructions (S).")
    decode_steps: int = Field(8, ge=1, le=256, description="Newest observations that one reconstruction rebuilds (K).")
    ring: int = Field(32, ge=1, le=4096, description="Recent observations kept per entity, for reconstruction and for the alert's window.")
    resident_max: int = Field(
        100_000,
        ge=1,
        description="Entities kept in memory; those seen least recently spill to disk and come back as they were.",
    )
    entities_max: int = Field(
        1_000_000,
        ge=1,
        description="Entities remembered per partition; beyond it the least recently seen is forgotten, and said so.",
    )
    entity_ttl: Duration = spelled("30d", "An entity unseen for longer, by event time, starts anew.")
    spill_directory: Path | None = Field(None, description="Where evicted entities spill; default: a folder of the system's temporary directory.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if max(self.decode_steps, self.decode_every) > self.ring:
            raise ValueError(f"engine.ring ({self.ring}) must hold decode_steps ({self.decode_steps}) and decode_every ({self.decode_every})")
        return self


class Threshold(Section):
    """When a score is too high. Which parameters count depends on the method."""

    method: str = Field(
        "ewma",
        description=(
            "ewma, spot, quantile, static; or a class of river: river:anomaly.CLASS such as river:anomaly.GaussianScorer, river:stats.Quantile, "
            "RollingQuantile, Max or RollingMax."
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
    half_life: float = Field(1440, ge=2, description="ewma: observations after which a score counts half.")
    span: int = Field(
        1,
        ge=1,
        le=1000,
        description=(
            "ewma, static: records that the log score is averaged over before it is held against its own mean, so that an anomaly must last; "
            "1: each stands for itself. The level of static, and anomaly_score, are those of the single record."
        ),
    )
    reference_observations: int | None = Field(
        None,
        ge=16,
        le=10_000_000,
        description=(
            "ewma, static: the mean and deviation of an entity's first so many observations stay, and nothing is an anomaly that is no higher than "
            "the highest of them; so they should be normal ones. none: what is usual goes on being learned, by half_life."
        ),
    )
    recovery: float = Field(
        0.0,
        ge=0,
        lt=1,
        description=(
            "ewma, static: a score below this share of the highest since it was last at its mean is no anomaly: what is going back recovers. The "
            "highest counts half after each half_life. 0: any score above the threshold is one."
        ),
    )
    tail: float = Field(1e-3, gt=0, lt=0.5, description="spot, quantile, river quantiles: probability of a normal score beyond the threshold.")
    window: int = Field(2000, ge=50, le=20_000, description="spot, quantile: scores remembered per entity.")
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
        description="ewma, static: deviations from which a score is suspect. Apart from z, so that another z never changes what is learned.",
    )
    suspect_learning: float = Field(
        0.1, ge=0, le=1, description="How much a suspect observation teaches, against 1 for a normal one; from an entity's 17th on."
    )

    outliers: Literal["bounded", "full"] = Field(
        "bounded",
        description=(
            "ewma, static: bounded: a score counts as far as it is within reach of its mean, so that neither hours at rest nor scores just short of "
            "suspect make an entity deaf; full: as it is, where the spread of the scores themselves changes from day to day and is to be followed."
        ),
    )

    HOLDING: ClassVar[tuple[str, ...]] = ("span", "reference_observations", "recovery", "outliers")

    @property
    def judges_in_warmup(self) -> bool:
        """Whether a record in warm-up can be anomalous; river's estimators know no prior."""
        return self.warmup == "judge" and not self.method.startswith("river:")

    @property
    def holds_back(self) -> bool:
        """Whether the method heeds the keys of HOLDING."""
        return self.method not in ("spot", "quantile") and not self.method.startswith("river:")

    @model_validator(mode="after")
    def _check(self) -> Self:
        idle = [key for key in self.HOLDING if getattr(self, key) != type(self).model_fields[key].default]
        if idle and not self.holds_back:
            raise ValueError(f"{', '.join(idle)}: without effect on method {self.method}; set method: ewma or static, or leave it out")
        if self.level >= 1 and not self.method.startswith("river:"):
            raise ValueError(f"level ({self.level:g}) must be below 1, as anomaly_score is; only river detectors read higher")
        if self.alerts_per_day is not None and self.method != "ewma":
            raise ValueError(f"alerts_per_day moves z, which {self.method!r} does not have; set method: ewma, or leave alerts_per_day out")
        return self


class Checkpoints(Section):
    """Where the state of each partition is saved: a cache of the log."""

    url: str = Field(
        "checkpoints",
        description="Folder or fsspec URL, such as s3://bucket/folder; one that needs a password belongs into the secrets directory.",
    )
    every: Duration = spelled("60s", "Time between two checkpoints of a partition.")
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


class Logging(Section):
    """What the daemon says of itself."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe that is shown.")
    format: Literal["auto", "console", "json"] = Field("auto", description="auto: console on a terminal, JSON elsewhere.")


class Shutdown(Section):
    """How the daemon leaves."""

    drain_timeout: Duration = spelled("20s", "After SIGTERM, time for the batch under way, its commit and a checkpoint.")


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
        if self.threshold.method.startswith("river:"):
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
