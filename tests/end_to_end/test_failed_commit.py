"""A failed commit changes nothing but time, whether it took effect or not: the loop on the embedded log, its sink failing at will."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomaly_daemon import wiring
from anomaly_daemon.adapters.checkpoint_store import FsspecCheckpointStore
from anomaly_daemon.adapters.checkpointers import BackgroundCheckpoints
from anomaly_daemon.adapters.clock import SystemClock
from anomaly_daemon.adapters.score_export import ParquetExport
from anomaly_daemon.domain.errors import CommitFailed, LogCorrupt, LogUnavailable
from anomaly_daemon.domain.ports import Sink
from anomaly_daemon.domain.records import BatchOutput, Partition, Record
from anomaly_daemon.pipeline.loop import Loop, LoopSettings
from anomaly_daemon.telemetry.metrics import Metrics
from tests.end_to_end.harness import Site, make_site
from tests.small import artifact, stream

RECORDS = stream(1, 4, 400, with_bad=True)
FAULTS = st.lists(st.sampled_from(["fine", "lost", "done but unknown", "away"]), max_size=60)


class ImpatientClock(SystemClock):
    """Does not wait, but notes for how long it should have, and goes as if it had."""

    def __init__(self) -> None:
        self.pauses_s: list[float] = []

    def monotonic_s(self) -> float:
        return super().monotonic_s() + sum(self.pauses_s)

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
    settings, metrics = site.settings, Metrics()
    with ExitStack() as opened:
        processor, fingerprint, _ = wiring.build_processor(settings, artifact())
        opened.callback(processor.close)
        source = opened.enter_context(closing(wiring.open_source(settings, group=settings.input.group)))
        sink = opened.enter_context(closing(FailingSink(wiring.open_sink(settings, source), iter(faults))))
        export = opened.enter_context(closing(ParquetExport(site.folder / "scores.parquet", processor.channels)))
        checkpoints = BackgroundCheckpoints(FsspecCheckpointStore(settings.checkpoints.url, settings.input.group, 2))
        opened.callback(checkpoints.close)
        loop_settings = LoopSettings(fingerprint, 0.01, 0.0, 10, None, True, True, start=settings.input.start)
        Loop(source, sink, processor, checkpoints, clock or ImpatientClock(), metrics, loop_settings, export).run()
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


def test_what_was_committed_beyond_the_end_of_the_log_stops_the_daemon_and_nothing_passes_for_said() -> None:
    with a_site(RECORDS[:100]) as site:
        serve(site, [])
        said = site.alerts()
        source = wiring.open_source(site.settings, group=site.settings.input.group)
        sink = wiring.open_sink(site.settings, source)
        with closing(source), closing(sink):
            lease = source.poll(5.0).lease
            sink.commit(BatchOutput(next_offsets={Partition("readings", 0): 5000}, lease=lease))
        site.fill(RECORDS[100:])
        (site.folder / "scores.parquet").unlink()

        with pytest.raises(LogCorrupt, match=r"readings\[0\] ends at \d+, and the group committed 5000: .*; restore it, or let the group begin"):
            serve(site, [], ImpatientClock())

        assert site.alerts() == said
