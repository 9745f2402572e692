"""`run`: the service. SIGTERM and SIGINT drain and leave, SIGHUP reads the settings again."""

from __future__ import annotations

import argparse
import signal
import time
from dataclasses import replace
from pathlib import Path

import structlog

from anomaly_daemon import wiring
from anomaly_daemon.domain.errors import LogUnavailable, SettingsError
from anomaly_daemon.domain.ports import Clock, Sink, Source, Topics
from anomaly_daemon.settings import Settings, changed, load, restart_needed
from anomaly_daemon.telemetry import logging

log = structlog.get_logger(__name__)

_RETRY_FIRST_S, _RETRY_MAX_S = 0.5, 15.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("--until-end", action="store_true", help="stop where the topics end now, instead of serving on")
    parser.add_argument("--export", metavar="FILE", type=Path, help="also write each committed record's scores to a Parquet file")


def run(options: argparse.Namespace) -> int:
    """Serve until stopped."""
    settings = load(options.config, options.assignments)
    logging.configure(settings.logging.level, options.log_format or settings.logging.format)
    from anomaly_daemon.adapters.checkpoint_store import BackgroundCheckpoints, FsspecCheckpointStore
    from anomaly_daemon.adapters.clock import SystemClock
    from anomaly_daemon.adapters.score_export import ParquetExport
    from anomaly_daemon.model.engine import CHANNELS
    from anomaly_daemon.pipeline.loop import Loop, LoopSettings
    from anomaly_daemon.telemetry.metrics import Metrics

    clock, metrics = SystemClock(), Metrics()
    artifact = wiring.load_artifact(settings)
    processor, fingerprint, is_checkpointed = wiring.build_processor(settings, artifact, clock=clock)
    loop_settings = LoopSettings(
        fingerprint=fingerprint,
        poll_timeout_s=settings.input.poll_timeout,
        checkpoint_every_s=settings.checkpoints.every,
        drain_timeout_s=settings.shutdown.drain_timeout,
        rewind_records_max=settings.checkpoints.rewind_records_max,
        is_checkpointed=is_checkpointed,
        until_end=options.until_end,
    )
    current = settings

    def reload() -> LoopSettings | None:
        """Read the settings again; what can change live does, a bad file changes nothing."""
        nonlocal current
        try:
            fresh = load(options.config, options.assignments)
            rules, context = wiring.build_rules(fresh), wiring.build_context(fresh, artifact, "live")
        except SettingsError as error:
            log.error("settings_refused", error=str(error), remedy="the old settings stay in force")
            metrics.config_reloaded(is_successful=False)
            return None
        named = restart_needed(current, fresh)
        if named:
            log.warning("restart_needed", settings=named, remedy="these keep their old values until a restart")
        processor.apply(rules, context, fresh.incidents.window_points)
        logging.configure(fresh.logging.level, options.log_format or fresh.logging.format)
        log.info("settings_reloaded", changed=[key for key in changed(current, fresh) if key not in named])
        metrics.config_reloaded(is_successful=True)
        current = fresh
        return replace(loop_settings, checkpoint_every_s=fresh.checkpoints.every)

    is_stopping: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: is_stopping.append(True))
    signal.signal(signal.SIGINT, lambda *_: is_stopping.append(True))
    opened = _open(settings, clock, is_stopping)
    if opened is None:
        return 0
    source, sink = opened
    checkpoints = BackgroundCheckpoints(FsspecCheckpointStore(settings.checkpoints.url, settings.input.group, settings.checkpoints.keep))
    export = ParquetExport(options.export, CHANNELS) if options.export else None
    loop = Loop(source, sink, processor, checkpoints, clock, metrics, loop_settings, export, reload)
    signal.signal(signal.SIGTERM, lambda *_: loop.stop())
    signal.signal(signal.SIGINT, lambda *_: loop.stop())
    signal.signal(signal.SIGHUP, lambda *_: loop.ask_reload())
    if is_stopping:
        loop.stop()
    log.info(
        "started",
        log=settings.log,
        topics=list(settings.input.topics),
        group=settings.input.group,
        model=artifact.version,
        fingerprint=fingerprint[:16],
    )
    if not is_checkpointed:
        log.warning("state_not_checkpointed", method=settings.threshold.method, remedy="a restart goes through the retained log again")
    started_s = time.monotonic()
    try:
        loop.run()
    finally:
        if export is not None:
            export.close()
        checkpoints.close()
        source.close()
        sink.close()
        processor.close()
    log.info("left", seconds=round(time.monotonic() - started_s, 1))
    return 0


def _open(settings: Settings, clock: Clock, is_stopping: list[bool]) -> tuple[Source, Sink] | None:
    """Source and sink, waiting with bounded back-off for a log that is away; None when told to stop meanwhile."""
    delay_s = _RETRY_FIRST_S
    while not is_stopping:
        topics: Topics | None = None
        try:
            topics = wiring.open_topics(settings)
            wiring.ensure_topics(settings, topics)
            source = wiring.open_source(settings, group=settings.input.group, start=settings.input.start)
            return source, wiring.open_sink(settings)
        except LogUnavailable as error:
            log.warning("log_unavailable", error=str(error), retry_s=delay_s)
            clock.sleep(delay_s)
            delay_s = min(2 * delay_s, _RETRY_MAX_S)
        finally:
            if topics is not None:
                topics.close()
    return None
