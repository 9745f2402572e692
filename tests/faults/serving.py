"""The daemon's loop in this process, to the end of its log: what it came to, or what it stopped at."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from anomaly_daemon import wiring
from anomaly_daemon.adapters.checkpoint_store import FsspecCheckpointStore
from anomaly_daemon.adapters.checkpointers import BackgroundCheckpoints
from anomaly_daemon.adapters.clock import SystemClock
from anomaly_daemon.domain.errors import LogUnavailable
from anomaly_daemon.domain.ports import Sink
from anomaly_daemon.domain.records import BatchOutput
from anomaly_daemon.pipeline.loop import Loop, LoopSettings
from anomaly_daemon.telemetry.metrics import Metrics
from tests.end_to_end.harness import Site
from tests.small import artifact

_WAITS_MAX = 40


class BoundedClock(SystemClock):
    """Does not wait for long, and not for ever: whoever still asks for more waits than these is told so."""

    def __init__(self) -> None:
        self.waits = 0

    def sleep(self, seconds: float) -> None:
        """Once in a while really, as a poll does."""
        if seconds >= 0.25:
            self.waits += 1
            if self.waits > _WAITS_MAX:
                raise LogUnavailable("waited for too long")
        super().sleep(min(seconds, 0.01))


class _Between:
    """A sink between whose commits something happens."""

    def __init__(self, sink: Sink, after_commit: Callable[[], None]) -> None:
        self._sink, self._after_commit = sink, after_commit

    def commit(self, output: BatchOutput) -> None:
        self._sink.commit(output)
        self._after_commit()

    def close(self) -> None:
        self._sink.close()


def serve(site: Site, checkpoint_every_s: float = 1e9, after_commit: Callable[[], None] = lambda: None) -> None:
    """Judge to the end of the log and commit. Raises whatever ends the daemon."""
    settings, clock, metrics = site.settings, BoundedClock(), Metrics()
    with ExitStack() as opened:
        processor, fingerprint, _ = wiring.build_processor(settings, artifact())
        opened.callback(processor.close)
        source = wiring.open_source(settings, group=settings.input.group)
        opened.callback(source.close)
        sink = wiring.open_sink(settings, source)
        opened.callback(sink.close)
        checkpoints = BackgroundCheckpoints(FsspecCheckpointStore(settings.checkpoints.url, settings.input.group, 2), metrics)
        opened.callback(checkpoints.close)
        loop_settings = LoopSettings(fingerprint, 0.01, checkpoint_every_s, 10, None, True, until_end=True)
        Loop(source, _Between(sink, after_commit), processor, checkpoints, clock, metrics, loop_settings).run()
