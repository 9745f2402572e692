"""Every knob, with its default, bound and meaning; the only reader of the environment and of YAML.

Precedence: `--set key=value` > `ANOMALY_DAEMON_SECTION__KEY` > secrets directory > YAML files (later ones win) > default.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from anomaly_daemon.domain.errors import SettingsError

ENVIRONMENT_PREFIX = "ANOMALY_DAEMON_"
SECRETS_DIR_VARIABLE = "ANOMALY_DAEMON_SECRETS_DIR"
_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d|w)")


def parse_duration_s(text: object) -> object:
    """Seconds of `30s`, `1h30m`, `250ms`, `7d`; a plain number is refused, its unit would be a guess."""
    if isinstance(text, bool) or not isinstance(text, str):
        raise ValueError(f"write a duration with its unit, such as 30s, 5m or 7d, not {text!r}")
    if text == "0":
        return 0.0
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration; write 250ms, 30s, 5m, 1h30m, 7d")
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = datetime(1970, 1, 1)


def microseconds_since_1970(moment: datetime) -> int:
    """Exact; a moment without an offset is UTC."""
    since = moment - (_NAIVE_EPOCH if moment.tzinfo is None else EPOCH)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def parse_instant_us(text: str) -> int:
    """Microseconds since 1970 UTC of an ISO 8601 time; UTC where it names no offset. Raises ValueError."""
    return microseconds_since_1970(datetime.fromisoformat(text))


def format_duration(seconds: float) -> str:
    """The shortest exact spelling of a duration, for the settings reference."""
    for unit in ("w", "d", "h", "m", "s", "ms", "us"):
        count = seconds / _UNITS_S[unit]
        if count >= 1 and abs(count - round(count)) < 1e-9:
            return f"{round(count)}{unit}"
    return "0"


Duration = Annotated[float, BeforeValidator(parse_duration_s, json_schema_input_type=str), PlainSerializer(format_duration, return_type=str)]
FeatureKind = Literal["number", "asinh", "log", "difference", "rate", "elapsed", "cyclic", "category"]
NUMBER_KINDS: tuple[FeatureKind, ...] = ("number", "asinh", "log", "difference", "rate")


class Section(BaseModel):
    """A group of settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Feature(Section):
    """One feature of the entity, read from the record or derived from it."""

    name: str = Field(min_length=1, max_length=128, description="Name in alerts and in the artifact.")
    path: str | None = Field(None, description="Dotted path of the field in the JSON object; default: the name itself, whole.")
    kind: FeatureKind = Field("number", description="number, asinh, log (of 1 + x), difference, rate (per second, of a counter), elapsed (log of seconds since the entity's previous record), cyclic (sine and cosine), category (rarity and first-seen).")
    period: Literal["hour_of_day", "day_of_week"] | None = Field(None, description="cyclic only: of the event time, UTC.")
    values_max: int = Field(32, ge=2, le=1024, description="category only: values remembered per entity; the rarest is dropped when full.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.kind == "cyclic") != (self.period is not None):
            raise ValueError(f"feature {self.name!r}: `period` goes with kind cyclic, and only with it")
        if self.kind in ("elapsed", "cyclic") and self.path is not None:
            raise ValueError(f"feature {self.name!r}: kind {self.kind} is derived from the event time and takes no path")
        return self


class Time(Section):
    """Where the event time stands."""

    path: str | None = Field(None, description="Dotted path of the event time; none: the record's own timestamp.")
    format: Literal["iso8601", "s", "ms", "us"] = Field("iso8601", description="ISO 8601 (UTC unless it says otherwise) or an epoch in this unit.")
    earliest: str = Field("1990-01-01T00:00:00Z", description="Event times before this are rejected.")
    latest: str = Field("2100-01-01T00:00:00Z", description="Event times after this are rejected.")
    ahead_max: Duration = Field("1d", description="How far an event time may lie after the record's own timestamp.")


class RecordSchema(Section):
    """How a record's JSON is read."""

    entity: str = Field("key", description="`key` (the record's key as UTF-8) or the dotted path of a string or integer field.")
    entity_bytes_max: int = Field(256, ge=1, le=4096, description="Longer entity names are rejected.")
    record_bytes_max: int = Field(1_000_000, ge=64, le=64_000_000, description="Larger records are rejected unread.")
    time: Time = Field(default_factory=Time, description="Where the event time stands.")
    features: tuple[Feature, ...] = Field((), max_length=512, description="What is watched, in order.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [feature.name for feature in self.features]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"feature names must differ: {', '.join(doubled)} stands twice")
        return self


class Input(Section):
    """The topics read and the group that reads them."""

    topics: tuple[str, ...] = Field(("readings",), min_length=1, description="Topics to read.")
    group: str = Field("anomaly-daemon", min_length=1, description="Consumer group.")
    member: str | None = Field(None, description="Stable name of this instance in the group: static membership and a stable transactional id; default: the host's name.")
    start: Literal["earliest", "latest"] = Field("earliest", description="Where a group that never committed begins.")
    batch_records_max: int = Field(4096, ge=1, le=65536, description="Records of one batch, and so of one transaction, at most.")
    poll_timeout: Duration = Field("200ms", description="How long a poll waits when there is nothing.")


class Output(Section):
    """The topics written."""

    alerts_topic: str = Field("alerts", min_length=1, description="Where incidents are announced.")
    dead_letter_topic: str = Field("dead-letters", min_length=1, description="Where rejected records go, bytes unchanged, reason in the headers.")


class TopicCreation(Section):
    """Whether missing topics are made."""

    create_topics: bool = Field(False, description="Make missing topics instead of refusing to start.")
    partitions: int = Field(4, ge=1, le=4096, description="Partitions of a topic that is made.")
    retention: Duration | None = Field(None, description="Embedded log: records older than this are deleted; none: kept.")
    retention_bytes: int | None = Field(None, ge=1_000_000, description="Embedded log: the oldest records of a topic beyond this size are deleted; none: kept.")


class Kafka(Section):
    """How the Kafka client connects."""

    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field("PLAINTEXT", description="Transport security.")
    ssl_cafile: Path | None = Field(None, description="Certificate authority, PEM.")
    ssl_certfile: Path | None = Field(None, description="Client certificate, PEM.")
    ssl_keyfile: Path | None = Field(None, description="Client key, PEM.")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = Field(None, description="SASL mechanism.")
    sasl_username: str | None = Field(None, description="SASL user.")
    sasl_password: SecretStr | None = Field(None, description="SASL password; give it through the secrets directory.")
    session_timeout: Duration = Field("45s", description="A member silent for this long loses its partitions.")
    max_poll_interval: Duration = Field("5m", description="A member that does not poll for this long leaves the group.")
    transaction_timeout: Duration = Field("60s", description="The broker aborts a transaction open for longer.")
    commit_timeout: Duration = Field("30s", description="A commit that takes longer has an unknown outcome: the daemon recovers.")
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field("lz4", description="Codec of what is produced.")


class Model(Section):
    """The composite LSTM autoencoder: its size."""

    artifact: Path = Field(Path("model"), description="Folder of the trained artifact.")
    hidden: int | None = Field(None, ge=2, le=1024, description="Units; default: 32 up to ten features, else 64.")
    code: int | None = Field(None, ge=1, le=512, description="Width of the code; default: 8 up to ten features, else 16.")
    layers: int = Field(1, ge=1, le=4, description="Stacked LSTM layers of the encoder.")
    scale: Literal["entity", "fleet"] = Field("entity", description="entity: each entity's own mean and deviation, shrunk from the fleet's; fleet: the artifact's for all.")
    scale_observations: int = Field(256, ge=2, le=65536, description="An entity's own scale is learned over this many observations, then kept.")


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
    resident_max: int = Field(100_000, ge=1, description="Entities kept in memory; those seen least recently spill to disk and come back as they were.")
    entities_max: int = Field(1_000_000, ge=1, description="Entities remembered per partition; beyond it the least recently seen is forgotten, and said so.")
    entity_ttl: Duration = Field("30d", description="An entity unseen for longer, by event time, starts anew.")
    spill_directory: Path | None = Field(None, description="Where evicted entities spill; default: a folder of the system's temporary directory.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if max(self.decode_steps, self.decode_every) > self.ring:
            raise ValueError(f"engine.ring ({self.ring}) must hold decode_steps ({self.decode_steps}) and decode_every ({self.decode_every})")
        return self


class Threshold(Section):
    """When a score is too high. Which parameters count depends on the method."""

    method: str = Field("ewma", description="ewma, spot, quantile, static, or river:MODULE.CLASS such as river:anomaly.GaussianScorer or river:stats.RollingQuantile.")
    z: float = Field(4.0, gt=0, le=50, description="ewma: deviations of the log score above its mean.")
    half_life: float = Field(1440, ge=2, description="ewma: observations after which a score counts half.")
    tail: float = Field(1e-3, gt=0, lt=0.5, description="spot, quantile, river quantiles: probability of a normal score beyond the threshold.")
    window: int = Field(2000, ge=50, le=20_000, description="spot, quantile: scores remembered per entity.")
    level: float = Field(0.9, gt=0, lt=1, description="static: the threshold on anomaly_score; river anomaly scorers: on the estimator's score.")
    parameters: dict[str, float | int | bool | str] = Field(default_factory=dict, description="river: keyword arguments of the estimator.")
    warmup_observations: int = Field(64, ge=1, le=100_000, description="Until an entity was seen this often nothing of it is announced (phase: warmup).")
    suspect_learning: float = Field(0.1, ge=0, le=1, description="How much a suspect observation teaches, against 1 for a normal one.")


class Window(Section):
    """`count` of the last `of` observations."""

    count: int = Field(ge=1, le=63)
    of: int = Field(ge=1, le=63)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.count > self.of:
            raise ValueError(f"count ({self.count}) cannot exceed of ({self.of})")
        return self


class Incidents(Section):
    """When an incident opens, is updated and closes."""

    trigger: Window = Field(Window(count=3, of=5), description="An incident opens when this many of the last observations are anomalous.")
    recovery: Window = Field(Window(count=10, of=10), description="It closes when this many of the last observations are normal.")
    cooldown: Duration = Field("0", description="For this long after a close no incident of the entity opens; what would have is counted.")
    update_every: Duration = Field("5m", description="An open incident is announced again at most this often, by event time, and when its severity rises.")
    window_points: int = Field(16, ge=0, le=64, description="Recent points in an alert.")


class Override(Section):
    """Other values for some entities; the first matching one applies."""

    match: str = Field(min_length=1, description="Shell-style pattern over the entity: `pump-*`.")
    threshold: dict[str, float] = Field(default_factory=dict, description="Numeric keys of `threshold`: z, level.")
    incidents: dict[str, Any] = Field(default_factory=dict, description="Keys of `incidents`.")

    ADJUSTABLE: ClassVar[tuple[str, ...]] = ("z", "level")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key in self.threshold:
            if key not in self.ADJUSTABLE:
                raise ValueError(f"override {self.match!r}: threshold.{key} cannot differ by entity; these can: {', '.join(self.ADJUSTABLE)}")
        return self


class Checkpoints(Section):
    """Where the state of each partition is saved: a cache of the log."""

    url: str = Field("checkpoints", description="Folder or fsspec URL.")
    every: Duration = Field("60s", description="Time between two checkpoints of a partition.")
    keep: int = Field(2, ge=1, le=16, description="Checkpoints kept per partition.")
    rewind_records_max: int | None = Field(None, ge=0, description="Without a valid checkpoint, records before the committed offset to go through again; none: all that is retained.")


class Logging(Section):
    """What the daemon says of itself."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe that is shown.")
    format: Literal["auto", "console", "json"] = Field("auto", description="auto: console on a terminal, JSON elsewhere.")


class Shutdown(Section):
    """How the daemon leaves."""

    drain_timeout: Duration = Field("20s", description="After SIGTERM, time for the batch under way, its commit and a checkpoint.")


class Settings(BaseSettings):
    """The whole of it."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, validate_default=True, env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", nested_model_default_partial_update=True)

    detector_id: str = Field("anomaly-daemon", min_length=1, max_length=128, description="Names this detector in alerts and in incident ids.")
    log: str = Field("sqlite:///topics.db", description="sqlite:///relative.db, sqlite:////absolute.db or kafka://host:9092,host:9092.")
    input: Input = Field(default_factory=Input, description="What is read.")
    output: Output = Field(default_factory=Output, description="What is written.")
    topics: TopicCreation = Field(default_factory=TopicCreation, description="Missing topics and retention.")
    kafka: Kafka = Field(default_factory=Kafka, description="The Kafka client.")
    record: RecordSchema = Field(default_factory=RecordSchema, description="How records are read.")
    model: Model = Field(default_factory=Model, description="The network.")
    training: Training = Field(default_factory=Training, description="How it is fitted.")
    engine: Engine = Field(default_factory=Engine, description="State on the device.")
    threshold: Threshold = Field(default_factory=Threshold, description="When a score is too high.")
    incidents: Incidents = Field(default_factory=Incidents, description="When an incident is announced.")
    overrides: tuple[Override, ...] = Field((), max_length=1000, description="Other values for some entities, first match wins.")
    checkpoints: Checkpoints = Field(default_factory=Checkpoints, description="Saved state.")
    logging: Logging = Field(default_factory=Logging, description="What is said.")
    shutdown: Shutdown = Field(default_factory=Shutdown, description="How it leaves.")

    LIVE: ClassVar[frozenset[str]] = frozenset({"threshold.z", "threshold.level", "incidents", "overrides", "logging", "checkpoints.every"})

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """`load` hands the sources in; called without it, only explicit arguments count."""
        return (init_settings,)


def load(files: Sequence[Path] = (), overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Settings:
    """The settings from all sources. Raises SettingsError with each key, what is wrong with it and the remedy."""
    from_environment = dict(os.environ if environment is None else environment)
    secrets_dir = from_environment.pop(SECRETS_DIR_VARIABLE, None)
    merged: dict[str, Any] = {}
    for path in files:
        merged = _merge(merged, _read_yaml(path))
    if secrets_dir is not None:
        if not Path(secrets_dir).is_dir():
            raise SettingsError(f"{SECRETS_DIR_VARIABLE}={secrets_dir}: no such directory; make it or unset the variable")
        merged = _merge(merged, _read_secrets(secrets_dir))
    merged = _merge(merged, _read_environment(from_environment))
    for assignment in overrides:
        merged = _merge(merged, _parse_assignment(assignment))
    try:
        return Settings(**merged)
    except ValidationError as error:
        raise SettingsError(_explain(error, files)) from None


class _Environment(EnvSettingsSource):
    """The variables given, not the process's own: `load` decides which those are."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = {key.lower(): value for key, value in variables.items()}
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return self._variables


def _read_environment(variables: Mapping[str, str]) -> dict[str, Any]:
    known = {name.lower() for name in Settings.model_fields}
    for variable in variables:
        if variable.upper().startswith(ENVIRONMENT_PREFIX):
            head = variable[len(ENVIRONMENT_PREFIX) :].lower().split("__")[0]
            if head not in known:
                raise SettingsError(f"environment: {variable}: unknown setting{_nearest(head, known)}")
    return dict(_Environment(variables)())


def _read_secrets(directory: str) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for path in sorted(Path(directory).iterdir()):
        name = path.name.lower()
        if path.is_file() and name.startswith(ENVIRONMENT_PREFIX.lower()):
            keys = name[len(ENVIRONMENT_PREFIX) :].split("__")
            merged = _merge(merged, _nested(keys, path.read_text().strip()))
    return merged


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise SettingsError(f"{path}: the file must hold `key: value` lines at its top, not a {type(tree).__name__}")
    return tree


def _parse_assignment(assignment: str) -> dict[str, Any]:
    key, sign, text = assignment.partition("=")
    if not sign or not key:
        raise SettingsError(f"--set {assignment}: write it as key=value, such as --set threshold.z=5")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    return _nested(key.split("."), text if isinstance(value, (int, float)) and not isinstance(value, bool) and re.search(r"[a-z]$", text) else value)


def _nested(keys: Sequence[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _explain(error: ValidationError, files: Sequence[Path]) -> str:
    where = ", ".join(str(path) for path in files) or "settings"
    lines = []
    for problem in error.errors():
        location = problem["loc"]
        key = ".".join(str(part) for part in location)
        if problem["type"] == "extra_forbidden":
            lines.append(f"{where}: {key}: unknown key{_nearest(str(location[-1]), _keys_beside(location))}")
        else:
            given = "" if problem["type"] == "missing" or isinstance(problem.get("input"), (dict, SecretStr)) or "password" in key else f" (given: {problem.get('input')!r})"
            lines.append(f"{where}: {key or 'settings'}: {problem['msg'].removeprefix('Value error, ')}{given}")
    return "\n".join(lines)


def _keys_beside(location: Sequence[int | str]) -> set[str]:
    """The keys known where an unknown one was found."""
    node: Any = Settings
    for part in location[:-1]:
        if isinstance(part, str) and part in node.model_fields:
            annotation = node.model_fields[part].annotation
            while get_args(annotation):
                annotation = next((one for one in get_args(annotation) if one not in (type(None), Ellipsis)), None)
            node = annotation
    return set(getattr(node, "model_fields", {}))


def _nearest(word: str, known: set[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean `{near[0]}`?" if near else f"; known here: {', '.join(sorted(known))}"


def features_of(settings: Settings) -> tuple[Feature, ...]:
    """The features, refused when there are none: every verb that reads records needs them."""
    if not settings.record.features:
        raise SettingsError("record.features: name at least one feature, such as `- name: pressure`")
    return settings.record.features


def restart_needed(old: Settings, new: Settings) -> list[str]:
    """The keys that differ and cannot change while the daemon runs."""
    return [key for key in _differences(old.model_dump(mode="json"), new.model_dump(mode="json")) if not _is_live(key)]


def changed(old: Settings, new: Settings) -> list[str]:
    """All keys that differ."""
    return _differences(old.model_dump(mode="json"), new.model_dump(mode="json"))


def _is_live(key: str) -> bool:
    return any(key == live or key.startswith(live + ".") for live in Settings.LIVE)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in old:
        name = f"{prefix}{key}"
        if isinstance(old[key], Mapping) and isinstance(new[key], Mapping) and set(old[key]) == set(new[key]):
            found += _differences(old[key], new[key], name + ".")
        elif old[key] != new[key]:
            found.append(name)
    return found


def digest(settings: Settings) -> str:
    """Names a set of settings in alerts: 16 hex digits, secrets left out."""
    tree = settings.model_dump(mode="json", exclude={"kafka", "logging"})
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]


def reference() -> str:
    """The settings reference in Markdown, generated from the code."""
    lines = ["# Settings", "", "Generated by `anomaly-daemon check --reference`; a test keeps it equal to the code.", "", "| key | default | meaning |", "|---|---|---|"]
    lines += _reference_rows(Settings, "")
    return "\n".join(lines) + "\n"


def _reference_rows(section: type[BaseModel], prefix: str) -> list[str]:
    rows = []
    for name, field in section.model_fields.items():
        annotation: Any = field.annotation
        inner = next((one for one in get_args(annotation) if isinstance(one, type) and issubclass(one, BaseModel)), None)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation is not Window:
            rows += _reference_rows(annotation, f"{prefix}{name}.")
            continue
        rows.append(_row(prefix + name, _default(field), field.description or ""))
        if inner is not None:
            rows += _reference_rows(inner, f"{prefix}{name}[].")
    return rows


def _row(key: str, default: str, meaning: str) -> str:
    return f"| `{key}` | {default} | {meaning.replace('|', chr(92) + '|')} |"


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    if field.is_required():
        return "required"
    if isinstance(value, Window):
        return f"`{{count: {value.count}, of: {value.of}}}`"
    if value is None:
        return "none"
    if isinstance(value, float) and not isinstance(value, bool):
        return f"`{value:g}`"
    if isinstance(value, tuple):
        return f"`{json.dumps(list(value))}`" if value else "`[]`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value if not isinstance(value, dict) else json.dumps(value)}`"
