"""`run`: the service. SIGTERM and SIGINT drain and leave, SIGHUP reads the settings again."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from anomaly_daemon import wiring
from anomaly_daemon.domain.errors import LogUnavailable, SettingsError
from anomaly_daemon.domain.ports import Clock, Sink, Source, Topics
from anomaly_daemon.settings import Settings, changed, load, restart_needed, take_live
from anomaly_daemon.telemetry import logging

if TYPE_CHECKING:
    from anomaly_daemon.model.artifact import Artifact
    from anomaly_daemon.pipeline.loop import LoopSettings
    from anomaly_daemon.pipeline.process import Processor
    from anomaly_daemon.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)

_RETRY_FIRST_S, _RETRY_MAX_S = 0.5, 15.0


def run(options: argparse.Namespace) -> int:
    """Serve until stopped."""
    settings = load(options.config, options.assignments)
    logging.configure(settings.logging.level, options.log_format or settings.logging.format)
    from anomaly_daemon.adapters.checkpoint_store import BackgroundCheckpoints, FsspecCheckpointStore
    from anomaly_daemon.adapters.clock import SystemClock
    from anomaly_daemon.adapters.score_export import ParquetExport
    from anomaly_daemon.model.engine import CHANNELS
    from anomaly_daemon.pipeline.loop import Loop
    from anomaly_daemon.telemetry.metrics import Metrics

    clock, metrics = SystemClock(), Metrics()
    artifact = wiring.load_artifact(settings)
    with ExitStack() as opened:
        processor, fingerprint, is_checkpointed = wiring.build_processor(settings, artifact, clock=clock)
        opened.callback(processor.close)
        loop_settings = _loop_settings(settings, fingerprint, is_checkpointed, options.until_end)
        stops: list[Callable[[], None]] = []
        _on_signals((signal.SIGTERM, signal.SIGINT), stops)
        log_ends = _open(settings, clock, stops, opened)
        if log_ends is None:
            return 0
        source, sink = log_ends
        checkpoints = BackgroundCheckpoints(FsspecCheckpointStore(settings.checkpoints.url, settings.input.group, settings.checkpoints.keep))
        opened.callback(checkpoints.close)
        export = opened.enter_context(closing(ParquetExport(options.export, CHANNELS))) if options.export else None
        reload = _reloader(options, settings, artifact, processor, metrics, loop_settings)
        progress = opened.enter_context(_progress()) if options.until_end else None
        loop = Loop(source, sink, processor, checkpoints, clock, metrics, loop_settings, export, reload, progress)
        signal.signal(signal.SIGHUP, lambda *_: loop.ask_reload())
        if stops:
            loop.stop()
        stops.append(loop.stop)
        _tell_start(settings, artifact.version, loop_settings)
        loop.run()
    return 0


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
    )


def _reloader(
    options: argparse.Namespace, settings: Settings, artifact: Artifact, processor: Processor, metrics: Metrics, loop_settings: LoopSettings
) -> Callable[[], LoopSettings | None]:
    """Reads the settings again; what can change live does, and a bad file changes nothing."""
    current = settings

    def reload() -> LoopSettings | None:
        nonlocal current
        try:
            fresh = load(options.config, options.assignments)
        except SettingsError as error:
            log.error("settings_refused", error=str(error), remedy="the old settings stay in force")
            metrics.config_reloaded(is_successful=False)
            return None
        named = restart_needed(current, fresh)
        if named:
            log.warning("restart_needed", settings=named, remedy="these keep their old values until a restart")
        live = take_live(current, fresh)
        processor.apply(wiring.build_rules(live), wiring.build_context(live, artifact, "live"), live.incidents.window_points)
        logging.configure(live.logging.level, options.log_format or live.logging.format)
        log.info("settings_reloaded", changed=changed(current, live))
        metrics.config_reloaded(is_successful=True)
        current = live
        return replace(loop_settings, checkpoint_every_s=live.checkpoints.every)

    return reload


def _on_signals(numbers: Sequence[signal.Signals], stops: list[Callable[[], None]]) -> None:
    """Call whatever is in `stops` when one comes; before the loop stands, note that one came."""

    def stop(*_: object) -> None:
        for call in list(stops):
            call()
        if not stops:
            stops.append(lambda: None)

    for number in numbers:
        signal.signal(number, stop)


def _tell_start(settings: Settings, model: str, loop_settings: LoopSettings) -> None:
    about = {"log": settings.log, "topics": list(settings.input.topics), "group": settings.input.group}
    log.info("started", **about, model=model, fingerprint=loop_settings.fingerprint[:16])
    if not loop_settings.is_checkpointed:
        log.warning("state_not_checkpointed", method=settings.threshold.method, remedy="a restart goes through the retained log again")


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Records done of those there were at the start, on standard error while it is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("judging"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("judging", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _open(settings: Settings, clock: Clock, stops: list[Callable[[], None]], opened: ExitStack) -> tuple[Source, Sink] | None:
    """Source and sink, waiting with bounded back-off for a log that is away; None when told to stop meanwhile."""
    delay_s = _RETRY_FIRST_S
    while not stops:
        topics: Topics | None = None
        try:
            topics = wiring.open_topics(settings)
            wiring.ensure_topics(settings, topics)
            source = wiring.open_source(settings, group=settings.input.group, start=settings.input.start)
            opened.callback(source.close)
            sink = wiring.open_sink(settings)
            opened.callback(sink.close)
            return source, sink
        except LogUnavailable as error:
            log.warning("log_unavailable", error=str(error), retry_s=delay_s)
            clock.sleep(delay_s)
            delay_s = min(2 * delay_s, _RETRY_MAX_S)
        finally:
            if topics is not None:
                topics.close()
    return None
