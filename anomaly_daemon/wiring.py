"""The composition root: settings → objects. Imports an adapter only when its log is asked for."""

from __future__ import annotations

import hashlib
import json
import math
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING

import numpy as np
import structlog

from anomaly_daemon import __version__
from anomaly_daemon.domain.entity import EntityMatcher, Profiles
from anomaly_daemon.domain.errors import InputError, SettingsError, TopicError
from anomaly_daemon.domain.ports import Clock, Sink, Source, Topics
from anomaly_daemon.settings import Section, Settings, brokers, checked_log, digest, features_of, is_river, masked

if TYPE_CHECKING:
    from anomaly_daemon.adapters.checkpoint_store import FsspecCheckpointStore
    from anomaly_daemon.adapters.range_source import Span
    from anomaly_daemon.domain.records import Partition
    from anomaly_daemon.incidents.alerts import AlertContext
    from anomaly_daemon.model.artifact import Artifact
    from anomaly_daemon.pipeline.process import Processor
    from anomaly_daemon.pipeline.rules import Rules
    from anomaly_daemon.pipeline.time_range import TimesOf

log = structlog.get_logger(__name__)

# Of an entity in a checkpoint, beside its columns and its name; of a checkpoint, beside its entities. Generous: only what is absurd is refused.
_INCIDENT_BYTES_MAX, _CHECKPOINT_HEAD_BYTES_MAX = 8 << 10, 16 << 20
_KEPT_SHAPES = 16
_SQLITE, _FILE = "sqlite:///", "file://"


def member_name(settings: Settings) -> str:
    """The stable name of this instance in its group."""
    return settings.input.member or socket.gethostname()


def own_files(settings: Settings, configuration: Sequence[Path]) -> list[Path]:
    """What no output may replace: settings files, the embedded log, the model's folder, checkpoints on this machine."""
    own = [*configuration, settings.model.artifact]
    if not is_kafka(settings):
        log_file = _sqlite_path(settings.log)
        own += [log_file, *(log_file.with_name(log_file.name + suffix) for suffix in ("-wal", "-shm"))]
    if "://" not in settings.checkpoints.url:
        own.append(Path(settings.checkpoints.url))
    return own


def open_topics(settings: Settings, url: str | None = None) -> Topics:
    """The administrative side of the log of the settings, or of `url`."""
    url = settings.log if url is None else _checked_source(url)
    if url.startswith(_SQLITE):
        from anomaly_daemon.adapters.sqlite_topics import SqliteTopics

        return SqliteTopics(_sqlite_path(url), _clock(), settings.topics.retention, settings.topics.retention_bytes)
    from anomaly_daemon.adapters.kafka_topics import KafkaTopics

    return KafkaTopics(brokers(url), settings.kafka, settings.topics.retention, settings.topics.retention_bytes)


def open_source(
    settings: Settings,
    url: str | None = None,
    topics: Sequence[str] | None = None,
    group: str | None = None,
) -> Source:
    """A source of the log of the settings, or of `url`; without a group every partition is read and nothing committed.

    Raises InputError for a `url` that cannot be one.
    """
    wanted = tuple(topics or settings.input.topics)
    if url is not None and is_file(url):
        from anomaly_daemon.adapters.file_source import FileSource

        return FileSource(url.removeprefix(_FILE), wanted[0], settings.input.batch_records_max, times_ms=times_of(settings, url))
    url = settings.log if url is None else _checked_source(url)
    if url.startswith(_SQLITE):
        from anomaly_daemon.adapters.sqlite_source import SqliteSource

        path = _sqlite_path(url)
        session_timeout_s = settings.kafka.session_timeout
        return SqliteSource(path, wanted, group, member_name(settings), settings.input.batch_records_max, session_timeout_s, _clock())
    from anomaly_daemon.adapters.kafka_source import KafkaSource

    return KafkaSource(brokers(url), settings.kafka, wanted, group, member_name(settings), settings.input.batch_records_max)


def times_of(settings: Settings, url: str | None) -> TimesOf:
    """The time of a source's records: the event time; where no field of theirs tells it, that is the log's timestamp."""
    from anomaly_daemon.pipeline.decode import Decoder
    from anomaly_daemon.pipeline.time_range import event_times_ms, timestamps_ms

    return event_times_ms(Decoder(settings.record)) if is_file(url) or settings.record.time.path else timestamps_ms


def is_file(url: str | None) -> bool:
    """Whether a source is files, not a log."""
    return url is not None and (url.startswith(_FILE) or "://" not in url)


def open_sink(settings: Settings, source: Source) -> Sink:
    """Where alerts, dead letters and the offsets of this source go, in one transaction."""
    if not is_kafka(settings):
        from anomaly_daemon.adapters.sqlite_sink import SqliteSink

        return SqliteSink(_sqlite_path(settings.log), settings.input.group, _clock(), settings.topics.retention, settings.topics.retention_bytes)
    from anomaly_daemon.adapters.kafka_sink import KafkaSink
    from anomaly_daemon.adapters.kafka_source import KafkaSource

    assert isinstance(source, KafkaSource)
    return KafkaSink(brokers(settings.log), settings.kafka, transactional_id(settings), source.member)


def transactional_id(settings: Settings) -> str:
    """Stable and of this instance alone: whoever starts under the same one takes over."""
    return f"{settings.input.group}-{member_name(settings)}"


def is_kafka(settings: Settings) -> bool:
    """Whether the log of the settings is a Kafka cluster."""
    return not settings.log.startswith(_SQLITE)


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


def build_rules(settings: Settings, partitions: int = 1) -> Rules:
    """What may change while the daemon runs, by profile. partitions: how many share `threshold.alerts_per_day`."""
    from anomaly_daemon.incidents.regime import RegimeRule
    from anomaly_daemon.pipeline.rules import Rules

    incidents = [settings.incidents, *(settings.incidents.overridden(override.incidents) for override in settings.overrides)]
    parameters = {
        name: np.array(
            [getattr(settings.threshold, name), *(override.threshold.get(name, getattr(settings.threshold, name)) for override in settings.overrides)]
        )
        for name in ("z", "level")
    }
    per_day = settings.threshold.alerts_per_day
    share = None if per_day is None else per_day / partitions
    is_reversible = not is_river(settings.threshold.method)
    found = [settings.regime, *(settings.regime.overridden(override.regime) for override in settings.overrides)]
    regimes = [RegimeRule.of(one, is_reversible=is_reversible) for one in found]
    return Rules(Profiles([EntityMatcher(override.match) for override in settings.overrides]), parameters, incidents, regimes, share)


def build_context(settings: Settings, artifact: Artifact, mode: str) -> AlertContext:
    """What every alert says of the detector."""
    from anomaly_daemon.incidents.alerts import AlertContext

    return AlertContext(
        detector_id=settings.detector_id,
        mode=mode,
        model_name=artifact.name,
        model_version=artifact.version,
        settings_hash=digest(settings),
        threshold_method=settings.threshold.method,
        tells_return=settings.threshold.method in ("ewma", "spot", "quantile") or settings.evidence.calibration == "trained",
        feature_names=tuple(dict.fromkeys(name for feature in settings.record.features for name in feature.told)),
    )


def load_artifact(settings: Settings) -> Artifact:
    """The model of the settings, checked against their features; settings it was not trained with are told."""
    artifact = read_artifact(settings)
    trained_with = trained_otherwise(settings, artifact)
    if trained_with:
        log.warning("model_settings_differ", artifact=trained_with, remedy="the artifact's values count: train again, or set these back")
    return artifact


def read_artifact(settings: Settings) -> Artifact:
    """The model of the settings, checked against their features."""
    from anomaly_daemon.model import artifact as artifacts

    artifact = artifacts.load(settings.model.artifact)
    check_features(settings, artifact)
    return artifact


def check_features(settings: Settings, artifact: Artifact) -> None:
    """Raises SettingsError where there are none, ArtifactError where they are not those of the model."""
    from anomaly_daemon.model import artifact as artifacts
    from anomaly_daemon.pipeline.features import FeatureTransforms

    artifacts.check_features(artifact, FeatureTransforms(features_of(settings)).names)


def trained_otherwise(settings: Settings, artifact: Artifact) -> dict[str, object]:
    """Keys that only training reads, set to other values than the artifact was trained with: its values."""
    shape = {name: getattr(artifact.shape, name) for name in ("hidden", "code", "layers")}
    trained: tuple[tuple[str, Section, Mapping[str, object]], ...] = (
        ("model", settings.model, shape),
        ("training", settings.training, artifact.history.settings),
    )
    return {
        f"{name}.{key}": values[key]
        for name, section, values in trained
        for key, wanted in section.model_dump(mode="json", include=section.model_fields_set).items()
        if key in values and wanted is not None and wanted != values[key]
    }


def build_processor(
    settings: Settings, artifact: Artifact, *, mode: str = "live", clock: Clock | None = None, is_wanted: Callable[[str], bool] | None = None
) -> tuple[Processor, str, bool]:
    """The state machine, the fingerprint of its state, and whether that state can be checkpointed. is_wanted: see Processor."""
    import torch

    from anomaly_daemon.adapters import heap
    from anomaly_daemon.channels.models import Models
    from anomaly_daemon.pipeline.decode import Decoder
    from anomaly_daemon.pipeline.features import FeatureTransforms
    from anomaly_daemon.pipeline.process import Processor, Stages, pipeline_columns
    from anomaly_daemon.pipeline.quality import Inspector
    from anomaly_daemon.state.table import Table
    from anomaly_daemon.thresholds.judge import Judge

    heap.share_one()
    torch.set_num_threads(1)  # two OpenMP threads on a shared machine cost far more than they bring
    # Read at the first use. oneDNN keeps what it prepared for each shape of a call, a sixth of a MiB, and micro-batches come in ever new ones.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_KEPT_SHAPES))
    device = pick_device(settings)
    transforms = FeatureTransforms(features_of(settings))
    models = Models(artifact, settings, device)
    judge = Judge(settings.threshold, priors_of(settings, artifact), settings.calibration_half_life, artifact.score_prior)
    inspector = Inspector(settings.quality, settings.record, settings.threshold.warmup_observations)
    columns = pipeline_columns(transforms, models, judge, inspector)
    is_checkpointed = judge.is_checkpointable
    resident_max = settings.engine.resident_max if is_checkpointed else settings.engine.entities_max
    spill = settings.engine.spill_directory or Path(gettempdir())
    table = Table(columns, resident_max=resident_max, entities_max=settings.engine.entities_max, device=device, spill=spill)
    processor = Processor(
        Stages(Decoder(settings.record), transforms, table, models, judge, inspector),
        build_rules(settings),
        build_context(settings, artifact, mode),
        alerts_topic=settings.output.alerts_topic,
        dead_letter_topic=settings.output.dead_letter_topic,
        dead_letter_bytes_max=settings.output.dead_letter_bytes_max,
        entity_ttl_s=settings.engine.entity_ttl,
        window_points=settings.incidents.window_points,
        now_us=clock.now_us if clock is not None else None,
        is_wanted=is_wanted,
    )
    shape = [{**asdict(column), "fill": np.asarray(column.fill).tolist()} for column in columns]
    return processor, _fingerprint(settings, artifact.fingerprint, shape, device), is_checkpointed


def open_checkpoints(settings: Settings, processor: Processor, log_id: str) -> FsspecCheckpointStore:
    """Where the state of the settings is saved, of that log alone; a file there that no state of theirs could fill is not read."""
    from anomaly_daemon.adapters.checkpoint_store import FsspecCheckpointStore

    entity_bytes = processor.table.bytes_per_entity + _INCIDENT_BYTES_MAX + 2 * settings.record.entity_bytes_max
    bytes_max = settings.engine.entities_max * entity_bytes + _CHECKPOINT_HEAD_BYTES_MAX
    return FsspecCheckpointStore(settings.checkpoints.url, f"{settings.input.group}.{log_id}", settings.checkpoints.keep, bytes_max)


def share_budget(processor: Processor, settings: Settings, artifact: Artifact, mode: str, partitions: int) -> None:
    """Before the first record, once the log has told how many partitions there are: each takes its share of `threshold.alerts_per_day`."""
    processor.apply(build_rules(settings, partitions), build_context(settings, artifact, mode), settings.incidents.window_points)


def priors_of(settings: Settings, artifact: Artifact) -> list[dict[str, tuple[float, float]]]:
    """Mean and variance of the log errors that the channels at work start from, by model."""
    is_kept = settings.evidence.calibration == "trained"
    return [
        {
            name: (math.log(found.quantile), 0.0) if is_kept else (found.mean, found.variance)
            for name, found in one.calibration.items()
            if name in settings.evidence.channels
        }
        for one in artifact.all
    ]


def describe(settings: Settings, artifact: Artifact, *, mode: str, started_from: str, spans: Mapping[Partition, Span]) -> dict[str, str]:
    """What an export says of how it came about: key-value metadata of the file, for `tune`, `diff` and the report."""
    from anomaly_daemon.evaluation.notes import ExportNotes, ModelNote, PartitionNote, as_metadata

    notes = ExportNotes(
        version=__version__,
        mode=mode,
        detector_id=settings.detector_id,
        settings=settings.shown(),
        settings_hash=digest(settings),
        model=ModelNote(artifact.name, artifact.version, artifact.fingerprint),
        log=settings.log,
        channels=tuple(sorted(settings.evidence.channels)),
        priors=priors_of(settings, artifact)[0] if len(artifact.all) == 1 else None,
        score_prior=artifact.score_prior,
        decode_every=settings.engine.decode_every,
        started_from=started_from,
        partitions={str(partition): PartitionNote(span.warm_up, span.start, span.end) for partition, span in spans.items()},
    )
    return as_metadata(notes)


def _fingerprint(settings: Settings, model: str, columns: Sequence[object], device: str) -> str:
    """Names whatever shapes state: two daemons with the same one may take over each other's checkpoints."""
    import torch

    live = {"z", "alerts_per_day", "level"}
    shaping = {
        "model": model,
        "columns": columns,
        "record": settings.record.model_dump(mode="json"),
        "engine": settings.engine.model_dump(mode="json", exclude={"device", "resident_max", "spill_directory"}),
        "scale": settings.model.model_dump(mode="json", include={"scale", "scale_observations"}),
        "evidence": settings.evidence.model_dump(mode="json"),
        "threshold": settings.threshold.model_dump(mode="json", exclude=live),
        "quality": settings.quality.model_dump(mode="json"),
        "torch": str(torch.__version__),
        "arithmetic": device if device != "cpu" else torch.backends.cpu.get_cpu_capability(),
    }
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()


def _clock() -> Clock:
    from anomaly_daemon.adapters.clock import SystemClock

    return SystemClock()


def _sqlite_path(url: str) -> Path:
    return Path(url.removeprefix(_SQLITE))


def _checked_source(url: str) -> str:
    try:
        return checked_log(url)
    except ValueError as error:
        raise InputError(f"--source {masked(url)}: {error} (or file:///path/*.csv.gz, or a path)") from None
