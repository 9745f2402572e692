"""A backlog is read as fast as it goes; at its end batches begin an interval apart."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from anomaly_daemon import wiring
from anomaly_daemon.adapters.checkpoint_store import FsspecCheckpointStore
from anomaly_daemon.adapters.checkpointers import BackgroundCheckpoints
from anomaly_daemon.adapters.clock import SystemClock
from anomaly_daemon.pipeline.loop import Loop, LoopSettings
from anomaly_daemon.telemetry.metrics import Metrics
from tests.end_to_end.harness import Site, make_site
from tests.small import artifact, stream

RECORDS = stream(1, 4, 410)
BACKLOG, INTERVAL_S = 400, 5.0


class WaitingClock(SystemClock):
    """In place of waiting one more record is written, until there is none left."""

    def __init__(self, site: Site) -> None:
        self._site, self._coming = site, list(RECORDS[BACKLOG:])
        self.loop: Loop | None = None
        self.waits: list[tuple[float, int]] = []

    def sleep(self, seconds: float) -> None:
        assert self.loop is not None
        self.waits.append((seconds, sum(self.loop.positions.values())))
        if not self._coming:
            self.loop.stop()
            return
        record = self._coming.pop(0)
        self._site.fill([record])


def test_only_who_follows_the_log_waits_between_batches(tmp_path: Path) -> None:
    site = make_site(tmp_path, f"sqlite:///{tmp_path}/topics.db", RECORDS[:BACKLOG])
    settings, clock = site.settings, WaitingClock(site)
    processor, fingerprint, _ = wiring.build_processor(settings, artifact())
    checkpoints = BackgroundCheckpoints(FsspecCheckpointStore(settings.checkpoints.url, settings.input.group, 2))
    with closing(wiring.open_source(settings, group=settings.input.group)) as source, closing(wiring.open_sink(settings, source)) as sink:
        service = LoopSettings(fingerprint, 0.01, 1.0, 10, None, is_checkpointed=True, batch_interval_s=INTERVAL_S)
        clock.loop = Loop(source, sink, processor, checkpoints, clock, Metrics(), service)
        clock.loop.run()
    checkpoints.close()
    processor.close()

    waits_s, done = zip(*clock.waits, strict=True)
    assert done == tuple(range(BACKLOG, len(RECORDS) + 1))
    assert waits_s == pytest.approx([INTERVAL_S] * len(done), abs=1.0)
