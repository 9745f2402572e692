"""`check`: validates settings, device, model and topics, and changes nothing."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

from anomaly_daemon import wiring
from anomaly_daemon.domain.errors import AnomalyDaemonError
from anomaly_daemon.settings import Settings, digest, features_of, load, reference


def run(options: argparse.Namespace) -> int:
    """0 when everything is in order, 2 when a person must mend something; every problem is told, not only the first."""
    if options.reference:
        print(reference(), end="")
        return 0
    settings = load(options.config, options.assignments)
    problems = 0
    for name, examine in _examinations(options.offline):
        try:
            print(f"ok       {name:8s} {examine(settings)}")
        except AnomalyDaemonError as error:
            problems += 1
            print(f"problem  {name:8s} {error}")
    return 2 if problems else 0


def _examinations(is_offline: bool) -> Iterator[tuple[str, Callable[[Settings], str]]]:
    yield "settings", _settings
    yield "device", wiring.pick_device
    yield "model", _model
    yield "state", _state
    if not is_offline:
        yield "topics", _topics


def _settings(settings: Settings) -> str:
    return f"{len(features_of(settings))} features, {len(settings.overrides)} overrides, digest {digest(settings)}"


def _model(settings: Settings) -> str:
    artifact = wiring.load_artifact(settings)
    return f"{settings.model.artifact}: version {artifact.version}, {artifact.shape.hidden} units for {len(artifact.features)} features"


def _state(settings: Settings) -> str:
    processor, fingerprint, is_checkpointed = wiring.build_processor(settings, wiring.load_artifact(settings))
    table = processor.table
    entity_bytes = table.bytes_per_entity
    processor.close()
    resident_mib = entity_bytes * settings.engine.resident_max / 2**20
    saved = "checkpointed" if is_checkpointed else "not checkpointed: recovery goes through the log"
    return (
        f"{entity_bytes} bytes an entity, {resident_mib:.0f} MiB for {settings.engine.resident_max} resident, {saved}, fingerprint {fingerprint[:16]}"
    )


def _topics(settings: Settings) -> str:
    topics = wiring.open_topics(settings)
    try:
        wanted = (*settings.input.topics, settings.output.alerts_topic, settings.output.dead_letter_topic)
        present = topics.partitions(wanted)
    finally:
        topics.close()
    missing = [topic for topic in wanted if topic not in present]
    if missing and not settings.topics.create_topics:
        raise wiring.missing_topics(settings, missing)
    told = [f"{topic} ({count} partitions)" for topic, count in present.items()] + [f"{topic} (will be made)" for topic in missing]
    return f"{settings.log}: {', '.join(told)}"
