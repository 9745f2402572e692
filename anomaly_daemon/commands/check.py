"""`check`: validates settings, threshold, device, model, checkpoints, connection, topics and rights, and changes nothing."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from anomaly_daemon import wiring
from anomaly_daemon.domain.errors import AnomalyDaemonError
from anomaly_daemon.settings import Settings, digest, exposed_secrets, features_of, load, masked, reference

_COMPACTED = "{topic}: cleanup.policy is compact: what is compacted away before it is read is told to nobody; set cleanup.policy=delete"
_RELEARNED = (
    "model.scale: entity with model.per: entity learns a scale anew that each model brings along, and until it spans the entity's longest rhythm the "
    "model sees another machine: set model.scale: fleet, which is that of each model's own training part"
)


@dataclass(slots=True)
class _Report:
    """What was found so far, each finding printed once."""

    problems: int = 0

    def examine(self, name: str, look: Callable[[], Sequence[str]]) -> bool:
        """Whether it is in order; `look` gives what to say of it, then warnings, or raises what is wrong."""
        try:
            told, *warnings = look()
        except AnomalyDaemonError as error:
            self.problems += 1
            print(f"problem  {name:11s} {error}")
            return False
        for level, line in (("ok", told), *(("warning", warning) for warning in warnings)):
            print(f"{level:8s} {name:11s} {line}")
        return True


def run(options: argparse.Namespace) -> int:
    """0 when everything is in order, 2 when a person must mend something; every problem is told, not only the first."""
    if options.reference:
        print(reference(), end="")
        return 0
    settings = load(options.config, options.assignments)
    if options.acls:
        from anomaly_daemon.commands import rights

        print("\n".join(rights.commands(settings)))
        return 0
    report = _Report()
    looks = {"settings": _settings, "threshold": _threshold, "device": _device, "model": _model}
    is_in_order = [report.examine(name, partial(look, settings)) for name, look in looks.items()]
    if all(is_in_order):
        report.examine("state", partial(_state, settings))
    else:
        print("skipped  state       what is told above comes first")
    report.examine("checkpoints", partial(_checkpoints, settings, options.offline))
    if wiring.is_kafka(settings):
        _examine_cluster(report, settings, options.offline)
    elif not options.offline:
        report.examine("topics", partial(_topics, settings))
    return 2 if report.problems else 0


def _examine_cluster(report: _Report, settings: Settings, is_offline: bool) -> None:
    from anomaly_daemon.commands import rights

    if report.examine("connection", partial(rights.connection, settings, is_offline)) and not is_offline:
        report.examine("topics", partial(_topics, settings))
        report.examine("rights", partial(rights.rights, settings))


def _settings(settings: Settings) -> list[str]:
    at_once = settings.input.batch_records_max
    small = [name for name in ("resident_max", "entities_max") if getattr(settings.engine, name) < at_once]
    return [
        f"{len(features_of(settings))} features, {len(settings.overrides)} overrides, digest {digest(settings)}",
        *(f"engine.{name} below input.batch_records_max ({at_once}) cuts batches small, which is slow: raise it" for name in small),
        *([_RELEARNED] if settings.model.per == "entity" and settings.model.scale == "entity" else []),
        *(f"{path}: every user of this machine may read this secret; chmod o-r" for path in exposed_secrets(settings)),
    ]


def _threshold(settings: Settings) -> list[str]:
    from anomaly_daemon.thresholds.estimators import is_judged_by_level
    from anomaly_daemon.thresholds.registry import build

    threshold = settings.threshold
    build(threshold)
    warnings = []
    if is_judged_by_level(threshold.method) and "level" not in threshold.model_fields_set:
        warnings.append(f"threshold.level is left at {threshold.level:g}, but this detector reads on a scale of its own: set it to fit")
    if "warmup" in threshold.model_fields_set and threshold.warmup == "judge" and not threshold.judges_in_warmup:
        warnings.append("threshold.warmup: judge has no effect: river's estimators know no prior and are silent in warm-up; set it to silent")
    if threshold.alerts_per_day is not None:
        return [f"{threshold.method}, {threshold.alerts_per_day:g} alerts a day, beginning at z {threshold.z:g}"]
    return [threshold.method, *warnings]


def _device(settings: Settings) -> list[str]:
    return [wiring.pick_device(settings)]


def _model(settings: Settings) -> list[str]:
    from anomaly_daemon.model import artifact as artifacts

    # Without features there is nothing to hold it against, which is told already.
    artifact = wiring.read_artifact(settings) if settings.record.features else artifacts.load(settings.model.artifact)
    told = f"{settings.model.artifact}: version {artifact.version}, {artifact.shape.hidden} units for {len(artifact.features)} features"
    trained_with = ", ".join(f"{key}={value}" for key, value in wiring.trained_otherwise(settings, artifact).items())
    if trained_with:
        return [told, f"trained with {trained_with}, and that counts, not what the settings say: train again, or set these back"]
    return [told]


def _state(settings: Settings) -> list[str]:
    processor, fingerprint, is_checkpointed = wiring.build_processor(settings, wiring.read_artifact(settings))
    table = processor.table
    entity_bytes = table.bytes_per_entity
    processor.close()
    resident_mib = entity_bytes * settings.engine.resident_max / 2**20
    saved = "checkpointed" if is_checkpointed else "not checkpointed: recovery goes through the log"
    return [
        f"{entity_bytes} bytes an entity, {resident_mib:.0f} MiB for {settings.engine.resident_max} resident, {saved}, fingerprint {fingerprint[:16]}"
    ]


def _checkpoints(settings: Settings, is_offline: bool) -> list[str]:
    from anomaly_daemon.adapters.checkpoint_store import FsspecCheckpointStore

    url = settings.checkpoints.url
    if is_offline and "://" in url and not url.startswith("file://"):
        return [f"{masked(url)}: not looked at while --offline"]
    return [FsspecCheckpointStore(url, settings.input.group, settings.checkpoints.keep).examine()]


def _topics(settings: Settings) -> list[str]:
    topics = wiring.open_topics(settings)
    try:
        wanted = (*settings.input.topics, settings.output.alerts_topic, settings.output.dead_letter_topic)
        present = topics.partitions(wanted)
        compacted = [topic for topic in present if topics.is_compacted(topic)]
    finally:
        topics.close()
    missing = [topic for topic in wanted if topic not in present]
    if missing and not settings.topics.create_topics:
        raise wiring.missing_topics(settings, missing)
    told = [f"{topic} ({count} partitions)" for topic, count in present.items()] + [f"{topic} (will be made)" for topic in missing]
    return [f"{settings.log}: {', '.join(told)}", *(_COMPACTED.format(topic=topic) for topic in compacted)]
