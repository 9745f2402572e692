"""`run`: the service. SIGTERM and SIGINT drain and leave, SIGHUP reads the settings again."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from anomaly_daemon import wiring
from anomaly_daemon.adapters.whole_file import refuse_targets
from anomaly_daemon.commands.progress import progress_bar
from anomaly_daemon.commands.signals import Signals
from anomaly_daemon.domain.errors import ArtifactError, InputError, LogUnavailable, SettingsError
from anomaly_daemon.domain.ports import Clock, Sink, Source, Topics
from anomaly_daemon.domain.records import Offset
from anomaly_daemon.settings import Settings, changed, digest, live_part, load, restart_needed, take_live, with_live_part
from anomaly_daemon.telemetry import logging

if TYPE_CHECKING:
    from anomaly_daemon.model.artifact import Artifact
    from anomaly_daemon.pipeline.loop import LoopSettings, Reload
    from anomaly_daemon.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)

_RETRY_FIRST_S, _RETRY_MAX_S = 0.5, 15.0


def run(options: argparse.Namespace) -> int:
    """Serve until stopped."""
    with Signals() as signals:
        signals.listen()
        _serve(options, signals)
    return 0


def _serve(options: argparse.Namespace, signals: Signals) -> None:
    settings = load(options.config, options.assignments)
    logging.configure(settings.logging.level, options.log_format or settings.logging.format)
    if options.watch and not options.config:
        raise InputError("--watch: there is no settings file to watch; name one with -c")
    if options.export is not None:
        refuse_targets([options.export], wiring.own_files(settings, options.config), is_forced=options.force)
    from anomaly_daemon.adapters.checkpointers import BackgroundCheckpoints
    from anomaly_daemon.adapters.clock import SystemClock
    from anomaly_daemon.adapters.file_watch import FileWatch
    from anomaly_daemon.adapters.score_export import ParquetExport
    from anomaly_daemon.pipeline.loop import Loop
    from anomaly_daemon.pipeline.rule_book import RuleBook
    from anomaly_daemon.telemetry.metrics import Metrics

    clock, metrics = SystemClock(), Metrics()
    artifact = wiring.load_artifact(settings)
    with ExitStack() as opened:
        processor, fingerprint, is_checkpointed = wiring.build_processor(settings, artifact, clock=clock)
        opened.callback(processor.close)
        loop_settings = _loop_settings(settings, fingerprint, is_checkpointed, options.until_end)
        source, sink, partitions, log_id = _open(settings, clock, signals, opened)
        wiring.share_budget(processor, settings, artifact, "live", partitions)
        checkpoints = BackgroundCheckpoints(wiring.open_checkpoints(settings, processor, log_id), metrics, settings.checkpoints.timeout)
        opened.callback(checkpoints.close)
        rule_book = RuleBook(checkpoints, live_part(settings, partitions), lambda text: wiring.build_rules(*with_live_part(settings, text)))
        reload = _reloader(options, settings, artifact, metrics, clock, loop_settings, partitions)
        progress = opened.enter_context(progress_bar("judging")) if options.until_end else None
        export = None
        if options.export:
            metadata = wiring.describe(settings, artifact, mode="live", started_from="checkpoint", spans={})
            export = opened.enter_context(closing(ParquetExport(options.export, processor.channels, metadata, is_forced=options.force)))
        is_reload_due = FileWatch(options.config, clock).has_changed if options.watch else lambda: False
        loop = Loop(
            source, sink, processor, checkpoints, clock, metrics, loop_settings, export, reload, progress, rule_book, is_reload_due=is_reload_due
        )
        signals.pass_to(loop)
        _tell_start(settings, artifact.version, loop_settings)
        opened.callback(gc.unfreeze)  # else the interpreter's end finds all of it leaked, and says so
        gc.freeze()  # a full collection went through all that a start makes, a quarter of a million objects: .1 s every few seconds
        loop.run()


def _loop_settings(settings: Settings, fingerprint: str, is_checkpointed: bool, until_end: bool) -> LoopSettings:
    from anomaly_daemon.pipeline.loop import LoopSettings

    return LoopSettings(
        fingerprint=fingerprint,
        poll_timeout_s=settings.input.poll_timeout,
        checkpoint_every_s=settings.checkpoints.every,
        drain_timeout_s=settings.shutdown.drain_timeout,
        rewind_records_max=settings.checkpoints.rewind_records_max,
        is_checkpointed=is_checkpointed,
        until_end=until_end,
        batch_interval_s=settings.input.batch_interval,
        start=settings.input.start,
    )


def _reloader(
    options: argparse.Namespace,
    settings: Settings,
    artifact: Artifact,
    metrics: Metrics,
    clock: Clock,
    loop_settings: LoopSettings,
    partitions: int,
) -> Callable[[], Reload | None]:
    """Reads the settings again; what can change live does, and a bad file changes nothing. partitions: see build_rules, as they were at the start."""
    from anomaly_daemon.pipeline.loop import Reload

    current = settings

    def reload() -> Reload | None:
        try:
            fresh = load(options.config, options.assignments)
            wiring.check_features(fresh, artifact)  # of a file that lost its end, or is another's, what it leaves out would be as by default
            live = take_live(current, fresh)
            rules = wiring.build_rules(live, partitions)
        except (SettingsError, ArtifactError) as error:
            log.error("settings_refused", error=str(error), remedy="the old settings stay in force")
            metrics.config_reloaded(is_successful=False)
            return None
        named = restart_needed(current, fresh)
        if named:
            log.warning("restart_needed", settings=named, remedy="these keep their old values until a restart")

        def accept(cuts: Mapping[str, Offset]) -> None:
            nonlocal current
            logging.configure(live.logging.level, options.log_format or live.logging.format)
            metrics.config_reloaded(is_successful=True, now_us=clock.now_us())
            log.info("settings_reloaded", changed=changed(current, live), settings_hash=digest(live), from_offsets=dict(cuts))
            current = live

        context = wiring.build_context(live, artifact, "live")
        fresh_loop = replace(loop_settings, checkpoint_every_s=live.checkpoints.every)
        return Reload(fresh_loop, live_part(live, partitions), rules, context, live.incidents.window_points, accept)

    return reload


def _tell_start(settings: Settings, model: str, loop_settings: LoopSettings) -> None:
    about = {"log": settings.log, "topics": list(settings.input.topics), "group": settings.input.group}
    log.info("started", **about, model=model, fingerprint=loop_settings.fingerprint[:16])
    if not loop_settings.is_checkpointed:
        log.warning("state_not_checkpointed", method=settings.threshold.method, remedy="a restart goes through the retained log again")


def _open(settings: Settings, clock: Clock, signals: Signals, opened: ExitStack) -> tuple[Source, Sink, int, str]:
    """Source, sink, how many partitions are read, and the log's id; waits with bounded back-off for a log that is away, until told to leave."""
    delay_s = _RETRY_FIRST_S
    while True:
        signals.heed()
        topics: Topics | None = None
        try:
            topics = wiring.open_topics(settings)
            wiring.ensure_topics(settings, topics)
            partitions = sum(topics.partitions(settings.input.topics).values())
            log_id = topics.log_id()
            source = wiring.open_source(settings, group=settings.input.group)
            opened.callback(source.close)
            sink = wiring.open_sink(settings, source)
            opened.callback(sink.close)
            return source, sink, partitions, log_id
        except LogUnavailable as error:
            log.warning("log_unavailable", error=str(error), retry_s=delay_s)
            clock.sleep(delay_s)
            delay_s = min(2 * delay_s, _RETRY_MAX_S)
        finally:
            if topics is not None:
                topics.close()
