"""What exactly once costs on a real broker, how soon an incident is told, and how soon the daemon is back: python -m tests.benchmarks.delivery.

Broker, daemon, writer and reader share the machine; each is a process of its own where time is measured.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anomaly_daemon.domain.records import BatchOutput
from anomaly_daemon.settings import Settings
from anomaly_daemon.telemetry import logging
from tests.benchmarks import steady, stream
from tests.benchmarks.arrivals import Arrival, OpenedReader, latencies_ms, timestamps_ms
from tests.benchmarks.measure import Measure
from tests.benchmarks.on_kafka import rate, run_to_end
from tests.benchmarks.site import Daemon, Site, make_site, trained
from tests.benchmarks.stream import Pumps
from tests.kafka.broker import ToolsMissingError, shared_broker

BATCH_RECORDS = 4_000
_WARM, _MEASURED = 80_000, 160_000
_STEADY_RECORDS_PER_S, _STEADY_S, _HALF_S, _OFTEN_S = 10_000, 280, 180, 120
_SETTLING_S, _LAST_ALERTS_S = 60.0, 3.0
_ALERTS_MIN = 1_000
_HELD, _CHECKPOINTS_EVERY_S = 100_000, 10
# By how many pumps are at fault once in a round: an incident for every 10,500, 2,100 and 420 records, and none.
_QUIET, _FAULTY, _OFTEN, _MANY = Pumps(faulty_every=50), Pumps(faulty_every=10), Pumps(faulty_every=2), Pumps(_HELD)
_PATIENCE_S = 180.0
_GRACE_MS = 50.0


@dataclass(frozen=True, slots=True)
class _Told:
    """From a record's timestamp in Kafka to the arrival of the incident that it opened; and the median time between two commits."""

    p99_ms: float
    interval_ms: float


class _CommitsNothing:
    """A sink that takes everything and does nothing."""

    def commit(self, output: BatchOutput) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def measure(rounds: int = 3) -> list[Measure]:
    """Raises ToolsMissingError without Java and Maven."""
    bootstrap = shared_broker().bootstrap
    with tempfile.TemporaryDirectory() as folder:
        overhead, silent_over_flat_out, flat_out = _throughput(Path(folder), bootstrap, rounds)
        steadily = _latency(Path(folder), bootstrap, _FAULTY, _STEADY_S, _STEADY_RECORDS_PER_S)
        often = _latency(Path(folder), bootstrap, _OFTEN, _OFTEN_S, _STEADY_RECORDS_PER_S)
        half = _latency(Path(folder), bootstrap, _FAULTY, _HALF_S)
        half_often = _latency(Path(folder), bootstrap, _OFTEN, _OFTEN_S)
        back_s = _kills(Path(folder), bootstrap)
    return [
        Measure("commit_overhead_share", overhead, 0.25, "share", "lower"),
        Measure("record_to_alert_p99_ms", steadily.p99_ms, steadily.interval_ms + _GRACE_MS, "ms", "lower"),
        Measure("record_to_alert_often_p99_ms", often.p99_ms, often.interval_ms + _GRACE_MS, "ms", "lower"),
        Measure("record_to_alert_half_load_p99_ms", half.p99_ms, half.interval_ms + _GRACE_MS, "ms", "lower"),
        Measure("record_to_alert_half_load_often_p99_ms", half_often.p99_ms, half_often.interval_ms + _GRACE_MS, "ms", "lower"),
        Measure("recovery_rate_over_10000_a_second", silent_over_flat_out * flat_out / _STEADY_RECORDS_PER_S, 3, "ratio", "higher"),
        Measure("recovery_rate_over_flat_out", silent_over_flat_out, 1, "ratio", "higher"),
        Measure("kill_to_commit_100k_entities_seconds", back_s, 10, "s", "lower"),
    ]


def _throughput(folder: Path, bootstrap: str, rounds: int) -> tuple[float, float, float]:
    """Share of the loop's throughput that transactions take; the rate at which a recovery goes through records, over live at full speed; and that.

    All with the same loop over the same records in turn: with transactions; with a sink that commits nothing; silently, from a checkpoint
    older than what was committed.
    """
    topic = _name("throughput")
    site = make_site(folder / topic, bootstrap, topic, trained(), input={"batch_records_max": BATCH_RECORDS})
    settings, checkpoints = site.settings, site.folder / "checkpoints"
    stream.write(bootstrap, topic, 0, _WARM, _QUIET)
    run_to_end(settings, trained(), checkpoints)
    stream.write(bootstrap, topic, _WARM, _MEASURED, _QUIET)
    run_to_end(settings, trained(), checkpoints)
    overheads, forwards, rates = [], [], []
    for _ in range(rounds):
        live = rate(run_to_end(_of_another_group(settings), trained(), _empty(folder)))
        idle = rate(run_to_end(_of_another_group(settings), trained(), _empty(folder), _CommitsNothing()))
        _lose_newest(checkpoints)
        silent = rate(run_to_end(settings, trained(), checkpoints))
        overheads.append(1 - live / idle)
        forwards.append(silent / live)
        rates.append(live)
        print(f"  with transactions {live:,.0f}/s, none {idle:,.0f}/s, silently in a recovery {silent:,.0f}/s", flush=True)
    return statistics.median(overheads), statistics.median(forwards), statistics.median(rates)


def _latency(folder: Path, bootstrap: str, pumps: Pumps, seconds: int, records_per_s: int | None = None) -> _Told:
    """While records come steadily for so long; None: half as many a second as the daemon takes of this very stream when all is there."""
    topic = _name("latency")
    site = make_site(folder / topic, bootstrap, topic, trained())
    stream.write(bootstrap, topic, 0, stream.ROUND_RECORDS, pumps)
    daemon = site.start()
    try:
        daemon.wait_for(lambda: site.committed() >= stream.ROUND_RECORDS, _PATIENCE_S, "not all committed")
        flat_out = site.rate()
        per_s = records_per_s or round(flat_out / 2)
        reader = OpenedReader(bootstrap, site.alerts_topic)
        writer = steady.writer(bootstrap, topic, stream.ROUND_RECORDS, per_s * seconds, pumps, per_s)
        while writer.is_alive():
            reader.poll(0.1)
        ended_s = time.monotonic()
        while time.monotonic() < ended_s + _LAST_ALERTS_S:
            reader.poll(0.1)
        assert writer.exitcode == 0, f"the writer ended with {writer.exitcode}"
        reader.close()
        daemon.leave()
    finally:
        daemon.kill()
    print(f"  {per_s:,} records/s steadily, of {flat_out:,.0f} flat out", flush=True)
    return _told(site, reader.arrivals, timestamps_ms(bootstrap, topic), ended_s - seconds, ended_s)


def _told(site: Site, arrivals: Sequence[Arrival], written_ms: Sequence[Sequence[int]], begun_s: float, ended_s: float) -> _Told:
    """Without the first minute, in which the writer begins and the broker's JVM compiles what such a load asks of it."""
    begun_ms = written_ms[0][stream.ROUND_RECORDS // stream.PARTITIONS] + _SETTLING_S * 1000
    found = sorted(latencies_ms([one for one in arrivals if written_ms[one.partition][one.offset] > begun_ms], written_ms))
    assert found, "no incident was told"
    commits_s = [commit.at_s for commit in site.commits() if begun_s + _SETTLING_S < commit.at_s < ended_s]
    gaps_ms = sorted(1000 * (later - earlier) for earlier, later in itertools.pairwise(commits_s))
    p50_ms, p99_ms, interval_ms = statistics.median(found), found[int(0.99 * len(found))], statistics.median(gaps_ms)
    few = "" if len(found) >= _ALERTS_MIN else ", too few for a 99th percentile"
    print(f"  {len(found):,} incidents opened{few}: told after p50 {p50_ms:.0f} ms, p99 {p99_ms:.0f} ms, at the latest {found[-1]:.0f} ms")
    print(f"  {len(gaps_ms):,} commits, interval p50 {interval_ms:.0f} ms, p99 {gaps_ms[int(0.99 * len(gaps_ms))]:.0f} ms", flush=True)
    return _Told(p99_ms, interval_ms)


def _kills(folder: Path, bootstrap: str) -> float:
    """The longest of some times from kill -9 of a daemon that holds many entities to its next life's first commit, in seconds; records keep coming.

    Killed when the checkpoints are fresh, when they are due, and in between.
    """
    topic = _name("kills")
    site = make_site(folder / topic, bootstrap, topic, trained(), checkpoints={"every": f"{_CHECKPOINTS_EVERY_S}s"})
    daemon = site.start()
    taken_s = []
    try:
        stream.write(bootstrap, topic, 0, 2 * _HELD, _MANY)
        daemon.wait_for(lambda: site.committed() >= 2 * _HELD, _PATIENCE_S, "not all committed")
        writer = steady.writer(bootstrap, topic, 2 * _HELD, _STEADY_RECORDS_PER_S * round(_PATIENCE_S), _MANY, _STEADY_RECORDS_PER_S)
        for age_s in (0, _CHECKPOINTS_EVERY_S / 2, _CHECKPOINTS_EVERY_S):
            _wait_until_saved(site, daemon)
            time.sleep(age_s)
            killed_s = daemon.kill()
            daemon = site.start()
            seconds = [at_s - killed_s for at_s in _first_commits_s(site, daemon)]
            taken_s.append(min(seconds))
            told = f"first commit after {min(seconds):.1f} s, of the last partition {max(seconds):.1f} s"
            print(f"  killed with {_HELD:,} entities: {told}", flush=True)
        writer.kill()
    finally:
        daemon.kill()
    return max(taken_s)


def _wait_until_saved(site: Site, daemon: Daemon) -> None:
    """Until every partition has a newer checkpoint than now."""
    before = site.checkpointed()

    def is_saved() -> bool:
        newest = site.checkpointed()
        return all(newest.get(number, 0) > before.get(number, 0) for number in range(stream.PARTITIONS))

    daemon.wait_for(is_saved, _PATIENCE_S, "no checkpoints")


def _first_commits_s(site: Site, daemon: Daemon) -> list[float]:
    """When this daemon committed each partition for the first time, once it has."""
    daemon.wait_for(lambda: len(site.first_commits(daemon.pid)) == stream.PARTITIONS, _PATIENCE_S, "no commits")
    return list(site.first_commits(daemon.pid).values())


def _of_another_group(settings: Settings) -> Settings:
    return settings.model_copy(update={"input": settings.input.model_copy(update={"group": _name("group")})})


def _empty(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=folder))


def _lose_newest(checkpoints: Path) -> None:
    """Of every partition; an older one is left."""
    for folder in checkpoints.glob("*/*"):
        sorted(folder.glob("*.safetensors"))[-1].unlink()


def _name(what: str) -> str:
    return f"{what}-{uuid.uuid4().hex[:8]}"


def main() -> int:
    """Print each measure with its goal."""
    logging.configure("error", "json")
    try:
        found = measure()
    except ToolsMissingError as error:
        print(f"left out: {error}")
        return 0
    for one in found:
        print(one.line())
    return 0


if __name__ == "__main__":
    sys.exit(main())
