"""`replay`: the service's own loop over a past range or files; nothing is committed, and nothing but files is written."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from anomaly_daemon.commands.signals import Signals
from anomaly_daemon.domain.errors import InputError, RefuseToStart
from anomaly_daemon.domain.records import Offset, Partition

if TYPE_CHECKING:
    from anomaly_daemon.adapters.range_source import RangeSource, Span
    from anomaly_daemon.evaluation.labels import Labels
    from anomaly_daemon.evaluation.measures import Evaluation
    from anomaly_daemon.evaluation.report import ReportFacts
    from anomaly_daemon.pipeline.loop import LoopSettings
    from anomaly_daemon.pipeline.process import Processor
    from anomaly_daemon.pipeline.saving import Checkpointer
    from anomaly_daemon.settings import Settings

_PARTITIONS_TOLD = 8
_INTERRUPTED = 130


def run(options: argparse.Namespace) -> int:
    """Replay, then measure and report what was exported."""
    from anomaly_daemon.adapters.whole_file import refuse_targets
    from anomaly_daemon.settings import load
    from anomaly_daemon.telemetry import logging

    settings = load(options.config, options.assignments)
    logging.configure(settings.logging.level, options.log_format or settings.logging.format)
    if options.artifact is not None:
        settings = settings.model_copy(update={"model": settings.model.model_copy(update={"artifact": options.artifact})})
    measures = options.measures or (options.export.with_suffix(".measures.json") if options.export and options.labels else None)
    refuse_targets([options.export, options.alerts, options.report, measures], _inputs(options, settings), is_forced=options.force)
    labels = None
    if options.labels is not None:
        from anomaly_daemon.evaluation.labels.files import read_labels

        labels = read_labels(options.labels)
    with tempfile.TemporaryDirectory(prefix="anomaly-daemon-replay-") as folder:
        export = options.export or Path(folder) / "scores.parquet"
        alerts = options.alerts or Path(folder) / "alerts.jsonl"
        facts = None
        with Signals() as signals:
            signals.listen()
            facts = _replay(options, settings, signals, export if options.export or options.report or options.labels else None, alerts)
        if facts is None:  # told to leave before the first record
            return _INTERRUPTED
        facts.tell()
        evaluation, misfit = None, None
        if labels is not None:
            try:
                evaluation = _evaluate(export, labels, measures)
            except InputError as error:  # the page is worth having all the same
                misfit = error
        if options.report is not None:
            from anomaly_daemon.evaluation.report import write_report

            write_report(options.report, export, alerts, facts.for_report(misfit), evaluation)
            print(f"report       {options.report}")
        if misfit is not None:
            raise misfit
    return _INTERRUPTED if facts.is_interrupted else 0


def _inputs(options: argparse.Namespace, settings: Settings) -> list[Path]:
    """What is read, which no output may replace."""
    from anomaly_daemon import wiring

    inputs = wiring.own_files(settings, options.config)
    if options.labels is not None and not options.labels.is_dir():
        inputs.append(options.labels)
    if wiring.is_file(options.source):
        from anomaly_daemon.adapters.file_names import find_files

        inputs += [file.path for file in find_files([options.source])]
    return inputs


@dataclass(frozen=True, slots=True)
class Facts:
    """What a replay came to. ends: per partition the offset up to which it went. is_interrupted: whether that may lie before the range's end."""

    counts: Mapping[str, float]
    rejected: Mapping[str, int]
    alerts: int
    spans: Mapping[Partition, Span]
    ends: Mapping[Partition, Offset]
    seconds: float
    is_interrupted: bool

    def tell(self) -> None:
        """On standard output, a line a fact."""
        counts = {name: int(value) for name, value in self.counts.items()}
        print(f"records      {counts['records_consumed']:,} in {self.seconds:.1f} s: {counts['records_scored']:,} scored, ", end="")
        print(f"{counts['dead_letter_records']:,} rejected, {counts['records_dropped']:,} of other entities")
        if self.rejected:
            print(f"rejected     {', '.join(f'{count:,} {reason}' for reason, count in self.rejected.items())}")
        print(f"alerts       {self.alerts:,}; {counts['incidents_open']:,} incidents open at the end")
        if self.is_interrupted:
            print("interrupted  what was written is whole, and goes up to:")
        for partition, start, end in self._reached():
            print(f"range        {partition} from {start} to before {end}")
        if len(self.spans) > _PARTITIONS_TOLD:
            print(f"             and {len(self.spans) - _PARTITIONS_TOLD} partitions more")

    def _reached(self) -> list[tuple[Partition, Offset, Offset]]:
        """From where to before where each partition was reported; those beyond a bound are left to be counted."""
        shown = sorted(self.spans.items())[:_PARTITIONS_TOLD]
        return [(partition, span.start, min(span.end, self.ends.get(partition, span.start))) for partition, span in shown]

    def for_report(self, misfit: InputError | None) -> ReportFacts:
        """The same, for the page. misfit: why there are no measures although labels were given."""
        from anomaly_daemon.evaluation.report import ReportFacts

        told = [f"{partition} {start} to before {end}" for partition, start, end in self._reached()]
        more = f", and {len(self.spans) - _PARTITIONS_TOLD} partitions more" if len(self.spans) > _PARTITIONS_TOLD else ""
        return ReportFacts(
            range=", ".join(told) + more,
            consumed=int(self.counts["records_consumed"]),
            scored=int(self.counts["records_scored"]),
            dead_lettered=int(self.counts["dead_letter_records"]),
            dropped=int(self.counts["records_dropped"]),
            rejections=self.rejected,
            seconds=self.seconds,
            notes=(
                *(["The replay was interrupted: the page shows the part of the range that was reached."] if self.is_interrupted else []),
                *([f"Not measured against labels: {misfit}"] if misfit is not None else []),
            ),
        )


def _replay(options: argparse.Namespace, settings: Settings, signals: Signals, export: Path | None, alerts: Path) -> Facts:
    """The service's loop, with the range as its source and files as its sink."""
    from anomaly_daemon import wiring
    from anomaly_daemon.adapters.clock import SystemClock
    from anomaly_daemon.adapters.replay_sink import ReplaySink
    from anomaly_daemon.adapters.score_export import ParquetExport
    from anomaly_daemon.commands.progress import progress_bar
    from anomaly_daemon.domain.entity import EntityMatcher
    from anomaly_daemon.pipeline.loop import Loop
    from anomaly_daemon.telemetry.metrics import Metrics

    metrics, is_forced = Metrics(), options.force
    artifact = wiring.load_artifact(settings)
    matches = EntityMatcher(options.entities).compiled().match if options.entities else None
    with ExitStack() as opened:
        processor, fingerprint, is_checkpointed = wiring.build_processor(
            settings, artifact, mode="replay", is_wanted=None if matches is None else lambda entity: bool(matches(entity))
        )
        opened.callback(processor.close)
        source = _open_range(options, settings)
        opened.callback(source.close)
        wiring.share_budget(processor, settings, artifact, "replay", len(source.spans))
        metadata = wiring.describe(settings, artifact, mode="replay", started_from=options.start_from, spans=source.spans)
        sink = opened.enter_context(closing(ReplaySink(alerts, settings.output.alerts_topic, source.reported, is_forced=is_forced)))
        scores = opened.enter_context(closing(ParquetExport(export, processor.channels, metadata, is_forced=is_forced))) if export else None
        progress = opened.enter_context(progress_bar("replaying"))
        checkpoints = _checkpoints(options, settings, processor, is_checkpointed)
        loop = Loop(
            source, sink, processor, checkpoints, SystemClock(), metrics, _loop_settings(options, settings, fingerprint), scores, None, progress
        )
        signals.pass_to(loop)
        began_s = time.perf_counter()
        try:
            loop.run()
            if matches is not None and not metrics.facts()["records_scored"] and not loop.is_stopping:
                others = f"{processor.dropped_entity} is" if processor.dropped_entity else "nothing that can be judged is"
                raise InputError(f"--entities {options.entities}: no entity of the range fits; {others} among what there is")
        except RefuseToStart:  # found only with the range at hand: there is nothing worth a file
            sink.discard()
            if scores is not None:
                scores.discard()
            raise
        seconds = time.perf_counter() - began_s
    rejected = metrics.by_label(metrics.dead_letter_records)
    return Facts(metrics.facts(), rejected, sink.alerts, source.spans, loop.positions, seconds, loop.is_stopping)


def _open_range(options: argparse.Namespace, settings: Settings) -> RangeSource:
    """The part of the source that is asked for."""
    from anomaly_daemon import wiring
    from anomaly_daemon.adapters.clock import SystemClock
    from anomaly_daemon.adapters.range_source import RangeSource, Wanted
    from anomaly_daemon.pipeline.time_range import parse_moment, refuse_inverted

    start, end = parse_moment("--from", options.start), parse_moment("--to", options.end)
    warm_up = parse_moment("--warm-up", options.warm_up)
    refuse_inverted(start, end)
    if warm_up is not None:
        refuse_inverted(warm_up, start or end, ("--warm-up", "--from" if start else "--to"))
    is_from_checkpoint = options.start_from == "checkpoint"
    if is_from_checkpoint and wiring.is_file(options.source):
        raise InputError(f"--start-from checkpoint: a daemon saves the state of a log, not of files such as {options.source}; use --warm-up")
    source = wiring.open_source(settings, options.source, options.topic)
    try:
        times_ms = wiring.times_of(settings, options.source)
        return RangeSource(
            source,
            Wanted(start, end, warm_up),
            SystemClock(),
            is_from_checkpoint=is_from_checkpoint,
            speed=options.speed,
            times_ms=times_ms,
            is_by_event_time=bool(settings.record.time.path) and not wiring.is_file(options.source),
        )
    except BaseException:
        source.close()
        raise


def _loop_settings(options: argparse.Namespace, settings: Settings, fingerprint: str) -> LoopSettings:
    from anomaly_daemon.pipeline.loop import LoopSettings

    return LoopSettings(
        fingerprint=fingerprint,
        poll_timeout_s=settings.input.poll_timeout,
        checkpoint_every_s=float("inf"),
        drain_timeout_s=settings.shutdown.drain_timeout,
        rewind_records_max=None,
        is_checkpointed=options.start_from == "checkpoint",
        until_end=True,
    )


def _checkpoints(options: argparse.Namespace, settings: Settings, processor: Processor, is_checkpointed: bool) -> Checkpointer:
    """What the daemon saved of the log that is replayed, only ever read."""
    from anomaly_daemon import wiring
    from anomaly_daemon.adapters.checkpointers import NoCheckpoints, SavedCheckpoints

    if options.start_from != "checkpoint":
        return NoCheckpoints()
    if not is_checkpointed:
        raise InputError(f"--start-from checkpoint: threshold.method {settings.threshold.method} cannot be checkpointed; use --warm-up")
    with closing(wiring.open_topics(settings, options.source)) as topics:
        return SavedCheckpoints(wiring.open_checkpoints(settings, processor, topics.log_id()), settings.checkpoints.timeout)


def _evaluate(export: Path, labels: Labels, output: Path | None) -> Evaluation:
    """Print the measures, and write them."""
    from rich.console import Console
    from rich.table import Table

    from anomaly_daemon.adapters.whole_file import write_whole
    from anomaly_daemon.evaluation.measures import evaluate
    from anomaly_daemon.evaluation.scores import read_scores

    evaluation = evaluate(read_scores(export), labels)
    head, rows = evaluation.table()
    table = Table(*head)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    for note in evaluation.notes:
        print(f"note         {note}")
    if output is not None:
        write_whole(output, json.dumps(evaluation.as_json(), indent=1) + "\n")
        print(f"measures     {output}")
    return evaluation
