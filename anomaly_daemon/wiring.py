"""The composition root: settings → objects. Imports an adapter only when its log is asked for."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Literal

import numpy as np
import structlog

from anomaly_daemon.domain.entity import EntityMatcher, Profiles
from anomaly_daemon.domain.errors import SettingsError, TopicError
from anomaly_daemon.domain.ports import Clock, Sink, Source, Topics
from anomaly_daemon.settings import Incidents, Settings, digest, features_of

if TYPE_CHECKING:
    from anomaly_daemon.model.artifact import Artifact
    from anomaly_daemon.pipeline.alerts import AlertContext
    from anomaly_daemon.pipeline.process import Processor, Rules

log = structlog.get_logger(__name__)

_SQLITE, _KAFKA, _FILE = "sqlite:///", "kafka://", "file://"


def member_name(settings: Settings) -> str:
    """The stable name of this instance in its group."""
    return settings.input.member or socket.gethostname()


def open_topics(settings: Settings) -> Topics:
    """The administrative side of the log of the settings."""
    if settings.log.startswith(_SQLITE):
        from anomaly_daemon.adapters.sqlite_topics import SqliteTopics

        return SqliteTopics(_sqlite_path(settings.log), _clock(), settings.topics.retention, settings.topics.retention_bytes)
    if settings.log.startswith(_KAFKA):
        from anomaly_daemon.adapters.kafka_topics import KafkaTopics

        return KafkaTopics(_servers(settings.log), settings.kafka)
    raise _unknown_log(settings.log)


def open_source(
    settings: Settings,
    url: str | None = None,
    topics: Sequence[str] | None = None,
    group: str | None = None,
    start: Literal["earliest", "latest"] = "earliest",
) -> Source:
    """A source of the log of the settings, or of `url`; without a group every partition is read and nothing committed."""
    url = url or settings.log
    wanted = tuple(topics or settings.input.topics)
    if url.startswith(_SQLITE):
        from anomaly_daemon.adapters.sqlite_source import SqliteSource

        path = _sqlite_path(url)
        session_timeout_s = settings.kafka.session_timeout
        return SqliteSource(path, wanted, group, member_name(settings), start, settings.input.batch_records_max, session_timeout_s, _clock())
    if url.startswith(_KAFKA):
        from anomaly_daemon.adapters.kafka_source import KafkaSource

        return KafkaSource(_servers(url), settings.kafka, wanted, group, member_name(settings), start, settings.input.batch_records_max)
    if url.startswith(_FILE) or "://" not in url:
        from anomaly_daemon.adapters.file_source import FileSource

        return FileSource(url.removeprefix(_FILE), topic=wanted[0], batch_records_max=settings.input.batch_records_max)
    raise _unknown_log(url)


def open_sink(settings: Settings) -> Sink:
    """Where alerts, dead letters and offsets go, in one transaction."""
    if settings.log.startswith(_SQLITE):
        from anomaly_daemon.adapters.sqlite_sink import SqliteSink

        return SqliteSink(_sqlite_path(settings.log), settings.input.group, _clock(), settings.topics.retention, settings.topics.retention_bytes)
    if settings.log.startswith(_KAFKA):
        from anomaly_daemon.adapters.kafka_sink import KafkaSink

        return KafkaSink(_servers(settings.log), settings.kafka, f"{settings.input.group}-{member_name(settings)}")
    raise _unknown_log(settings.log)


def ensure_topics(settings: Settings, topics: Topics) -> None:
    """All topics exist, made where the settings allow. Raises TopicError naming those that are missing."""
    wanted = (*settings.input.topics, settings.output.alerts_topic, settings.output.dead_letter_topic)
    present = topics.partitions(wanted)
    missing = [topic for topic in wanted if topic not in present]
    if not missing:
        return
    if not settings.topics.create_topics:
        raise missing_topics(settings, missing)
    for topic in missing:
        topics.create(topic, settings.topics.partitions)
        log.info("topic_created", topic=topic, partitions=settings.topics.partitions)


def missing_topics(settings: Settings, missing: Sequence[str]) -> TopicError:
    """The error that names them and the remedy."""
    return TopicError(f"{settings.log}: no topic {', '.join(missing)}; make them, or set topics.create_topics: true")


def pick_device(settings: Settings) -> str:
    """`cuda` where it is asked for or found, else `cpu`. Raises SettingsError when it is asked for and not there."""
    import torch

    has_cuda = torch.cuda.is_available()
    if settings.engine.device == "cuda" and not has_cuda:
        raise SettingsError("engine.device: cuda: this machine offers none to torch; use auto or cpu")
    return "cuda" if has_cuda and settings.engine.device != "cpu" else "cpu"


def build_rules(settings: Settings) -> Rules:
    """What may change while the daemon runs, by profile."""
    from anomaly_daemon.pipeline.process import Rules

    base = settings.incidents.model_dump(mode="json")
    incidents = [settings.incidents, *(Incidents(**{**base, **override.incidents}) for override in settings.overrides)]
    parameters = {
        name: np.array(
            [getattr(settings.threshold, name), *(override.threshold.get(name, getattr(settings.threshold, name)) for override in settings.overrides)]
        )
        for name in ("z", "level")
    }
    return Rules(Profiles([EntityMatcher(override.match) for override in settings.overrides]), parameters, incidents)


def build_context(settings: Settings, artifact: Artifact, mode: str) -> AlertContext:
    """What every alert says of the detector."""
    from anomaly_daemon.pipeline.alerts import AlertContext

    return AlertContext(
        detector_id=settings.detector_id,
        mode=mode,
        model_name=artifact.name,
        model_version=artifact.version,
        settings_hash=digest(settings),
        threshold_method=settings.threshold.method,
        feature_names=artifact.features,
    )


def load_artifact(settings: Settings) -> Artifact:
    """The model of the settings, checked against their features."""
    from anomaly_daemon.model import artifact as artifacts
    from anomaly_daemon.pipeline.features import FeatureTransforms

    artifact = artifacts.load(settings.model.artifact)
    artifacts.check_features(artifact, FeatureTransforms(features_of(settings)).names)
    return artifact


def build_processor(settings: Settings, artifact: Artifact, *, mode: str = "live", clock: Clock | None = None) -> tuple[Processor, str, bool]:
    """The state machine, the fingerprint of its state, and whether that state can be checkpointed."""
    import torch

    from anomaly_daemon.model.engine import Engine
    from anomaly_daemon.pipeline.decode import Decoder
    from anomaly_daemon.pipeline.features import FeatureTransforms
    from anomaly_daemon.pipeline.process import Processor, Stages, pipeline_columns
    from anomaly_daemon.state.table import Table
    from anomaly_daemon.thresholds.judge import Judge

    torch.set_num_threads(1)  # two OpenMP threads on a shared machine cost far more than they bring
    device = pick_device(settings)
    transforms = FeatureTransforms(features_of(settings))
    engine = Engine(artifact, settings.engine, settings.model, device)
    judge = Judge(settings.threshold, artifact.calibration)
    columns = pipeline_columns(transforms, engine, judge)
    is_checkpointed = judge.is_checkpointable
    resident_max = settings.engine.resident_max if is_checkpointed else settings.engine.entities_max
    spill = settings.engine.spill_directory or Path(gettempdir())
    table = Table(columns, resident_max=resident_max, entities_max=settings.engine.entities_max, device=device, spill=spill)
    processor = Processor(
        Stages(Decoder(settings.record), transforms, table, engine, judge),
        build_rules(settings),
        build_context(settings, artifact, mode),
        alerts_topic=settings.output.alerts_topic,
        dead_letter_topic=settings.output.dead_letter_topic,
        entity_ttl_s=settings.engine.entity_ttl,
        window_points=settings.incidents.window_points,
        now_us=clock.now_us if clock is not None else None,
    )
    shape = [{**asdict(column), "fill": np.asarray(column.fill).tolist()} for column in columns]
    return processor, _fingerprint(settings, artifact.fingerprint, shape, device), is_checkpointed


def _fingerprint(settings: Settings, model: str, columns: Sequence[object], device: str) -> str:
    """Names whatever shapes state: two daemons with the same one may take over each other's checkpoints."""
    import torch

    live = {"z", "level"}
    shaping = {
        "model": model,
        "columns": columns,
        "record": settings.record.model_dump(mode="json"),
        "engine": settings.engine.model_dump(mode="json", exclude={"device", "resident_max", "spill_directory"}),
        "scale": settings.model.model_dump(mode="json", exclude={"artifact"}),
        "threshold": settings.threshold.model_dump(mode="json", exclude=live),
        "torch": str(torch.__version__),
        "arithmetic": device if device != "cpu" else torch.backends.cpu.get_cpu_capability(),
    }
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()


def _clock() -> Clock:
    from anomaly_daemon.adapters.clock import SystemClock

    return SystemClock()


def _sqlite_path(url: str) -> Path:
    return Path(url.removeprefix(_SQLITE))


def _servers(url: str) -> str:
    servers = url.removeprefix(_KAFKA).rstrip("/")
    if not servers:
        raise SettingsError(f"log: {url}: name at least one broker, such as kafka://localhost:9092")
    return servers


def _unknown_log(url: str) -> SettingsError:
    return SettingsError(f"log: {url}: not a log; use sqlite:///topics.db or kafka://host:9092 (and file:///path/*.csv.gz where files are read)")
