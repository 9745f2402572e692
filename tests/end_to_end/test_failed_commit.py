"""A failed commit changes nothing but time, whether it took effect or not: the loop on the embedded log, its sink failing at will."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from anomaly_daemon import wiring
from anomaly_daemon.adapters.checkpoint_store import BackgroundCheckpoints, FsspecCheckpointStore
from anomaly_daemon.adapters.clock import SystemClock
from anomaly_daemon.adapters.score_export import ParquetExport
from anomaly_daemon.domain.errors import CommitFailed, LogUnavailable
from anomaly_daemon.domain.ports import Sink
from anomaly_daemon.domain.records import BatchOutput, Record
from anomaly_daemon.pipeline.loop import Loop, LoopSettings
from anomaly_daemon.telemetry.metrics import Metrics
from tests.end_to_end.harness import Site, make_site
from tests.small import artifact, stream

RECORDS = stream(1, 4, 400, with_bad=True)
FAULTS = st.lists(st.sampled_from(["fine", "lost", "done but unknown", "away"]), max_size=60)


class ImpatientClock(SystemClock):
    """Does not wait, but notes for how long it should have."""

    def __init__(self) -> None:
        self.pauses_s: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses_s.append(seconds)


class FailingSink:
    """The real sink, whose answers are lost or whose calls never arrive, as told."""

    def __init__(self, sink: Sink, faults: Iterator[str]) -> None:
        self._sink, self._faults = sink, faults

    def commit(self, output: BatchOutput) -> None:
        fault = next(self._faults, "fine")
        if fault == "lost":
            raise CommitFailed("the broker did not answer")
        if fault == "away":
            raise LogUnavailable("the broker is away")
        self._sink.commit(output)
        if fault == "done but unknown":
            raise CommitFailed("the broker's answer was lost")

    def close(self) -> None:
        self._sink.close()


def serve(site: Site, faults: list[str], clock: ImpatientClock | None = None) -> dict[str, float]:
    """The loop to the end of the log; returns the metrics' facts."""
    settings = site.settings
    processor, fingerprint, _ = wiring.build_processor(settings, artifact())
    source = wiring.open_source(settings, group=settings.input.group)
    sink = FailingSink(wiring.open_sink(settings), iter(faults))
    checkpoints = BackgroundCheckpoints(FsspecCheckpointStore(settings.checkpoints.url, settings.input.group, 2))
    metrics = Metrics()
    export = ParquetExport(site.folder / "scores.parquet", processor.channels)
    loop_settings = LoopSettings(fingerprint, 0.01, 0.0, 10, None, True, True, start=settings.input.start)
    loop = Loop(source, sink, processor, checkpoints, clock or ImpatientClock(), metrics, loop_settings, export)
    loop.run()
    checkpoints.close()
    for opened in (export, source, sink, processor):
        opened.close()
    return metrics.facts()


def exported(site: Site) -> pa.Table:
    order = [("topic", "ascending"), ("partition", "ascending"), ("offset", "ascending")]
    return pq.read_table(site.folder / "scores.parquet").sort_by(order)


@contextmanager
def a_site(records: Sequence[Record] = RECORDS, *assignments: str) -> Iterator[Site]:
    with TemporaryDirectory() as folder:
        yield make_site(Path(folder), f"sqlite:///{folder}/topics.db", records, assignments=assignments)


@settings(max_examples=8, deadline=None)
@given(FAULTS)
def test_failed_commits_change_nothing_but_time(faults: list[str]) -> None:
    with a_site() as harmed, a_site() as unharmed:
        told = serve(harmed, faults)
        serve(unharmed, [])

        assert len(unharmed.alerts()) > 3
        assert harmed.alerts() == unharmed.alerts()
        assert harmed.dead_letters() == unharmed.dead_letters()
        assert harmed.state() == unharmed.state()
        assert exported(harmed).num_rows == len(RECORDS)
        assert exported(harmed).to_pandas().equals(exported(unharmed).to_pandas())
        assert told["records_consumed"] == told["records_scored"] + told["dead_letter_records"] + told["records_dropped"]


def test_a_group_that_begins_at_the_end_leaves_nothing_out_from_its_first_life_on() -> None:
    with a_site(RECORDS[:100], "input.start=latest") as harmed, a_site(RECORDS[:100], "input.start=latest") as unharmed:
        for site, before, after in ((harmed, ["lost"], ["lost", "away", "done but unknown", "lost"]), (unharmed, [], [])):
            assert serve(site, before)["records_consumed"] == 0
            (site.folder / "scores.parquet").unlink()
            site.fill(RECORDS[100:])
            serve(site, after)

        assert harmed.alerts() == unharmed.alerts()
        assert harmed.state() == unharmed.state()
        assert exported(harmed)["offset"].to_pylist() == exported(unharmed)["offset"].to_pylist()
        assert exported(harmed).num_rows == len(RECORDS) - 100


def test_pauses_between_commits_that_fail_grow_though_each_recovery_between_them_succeeds() -> None:
    clock = ImpatientClock()
    with a_site() as site:
        serve(site, [*["lost"] * 8, "fine", "lost"], clock)

    assert clock.pauses_s == [0.25, 0.5, 1, 2, 4, 5, 5, 5, 0.25]
