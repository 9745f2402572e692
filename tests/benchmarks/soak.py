"""A long run of a real daemon through Kafka, with checkpoints, rebalances and a reload: python -m tests.benchmarks.soak [--records 4300000].

What must stay as it was: the daemon's memory, threads and open files, and how soon an incident is told. Ends with 1 where something did not.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomaly_daemon.telemetry import logging
from tests.benchmarks import steady, stream
from tests.benchmarks.arrivals import OpenedReader, latencies_ms, timestamps_ms
from tests.benchmarks.measure import Measure
from tests.benchmarks.site import Daemon, Site, make_site, trained
from tests.benchmarks.stream import Pumps
from tests.ending import end_when_told
from tests.kafka.broker import ToolsMissingError, shared_broker

RECORDS, RECORDS_PER_S = 4_300_000, 10_000
_LINES, _SAMPLES = 20, 400
_WARM_UNTIL, _JOINS_AT, _LEAVES_AT, _RELOADS_AT, _LAST_FROM = 0.2, 0.35, 0.5, 0.65, 0.8
_FIRST_JOINS_AT, _FIRST_LEAVES_AT = 0.05, 0.1
_FILLING_RECORDS, _BACKLOG_SHARE, _BEHIND_MS = 800_000, 0.03, 5_000
_SESSION_TIMEOUT_S = 6
_PATIENCE_S = 120.0
# What buffers may still take in a run too short to tell a slope of `_SLOPE_MAX`; of half the usual one it can be told.
_SLOPE_MAX, _FILLING_MIB = 1.0, 16.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The daemon that is there from the first record to the last, when so many records were committed."""

    records: int
    rss_mib: float
    threads: int
    files: int
    is_alone: bool


def soak(records: int, rate: int) -> list[Measure]:
    """The run, its table printed on the way. Raises ToolsMissingError without Java and Maven."""
    bootstrap, topic = shared_broker().bootstrap, f"soak-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory() as folder:
        times = {"kafka": {"session_timeout": f"{_SESSION_TIMEOUT_S}s"}, "checkpoints": {"every": "10s"}}
        site = make_site(Path(folder) / topic, bootstrap, topic, trained(), **times)
        reader = OpenedReader(bootstrap, site.alerts_topic)
        samples = _run(site, bootstrap, reader, records, rate)
        reader.close()
    opened = {(one.partition, one.offset) for one in reader.arrivals}
    assert len(opened) == len(reader.arrivals), f"{len(reader.arrivals) - len(opened)} incidents were told twice"
    return _verdict(samples, latencies_ms(reader.arrivals, timestamps_ms(bootstrap, topic)), records)


def _run(site: Site, bootstrap: str, reader: OpenedReader, records: int, rate: int) -> list[Sample]:
    """Until all is committed; samples of the first daemon, evenly in time.

    It begins behind, and goes through a pair of rebalances, before memory is looked at: what the first ones take is taken once, and those that
    come later must not add to it.
    """
    backlog, pumps = round(_BACKLOG_SHARE * records), Pumps(faulty_every=3)
    stream.write(bootstrap, site.topic, 0, backlog, pumps)
    daemons = [site.start()]
    samples: list[Sample] = []
    todo = [(_RELOADS_AT, _reload), (_LEAVES_AT, _leave), (_JOINS_AT, _join), (_FIRST_LEAVES_AT, _leave), (_FIRST_JOINS_AT, _join)]
    try:
        daemons[0].wait_for(lambda: "partition_recovered" in daemons[0].said(), _PATIENCE_S, "it did not start")
        writer = steady.writer(bootstrap, site.topic, backlog, records - backlog, pumps, rate)
        period_s, due_s = records / rate / _SAMPLES, time.monotonic()
        deadline_s = due_s + 3 * records / rate + _PATIENCE_S
        while (committed := site.committed()) < records:
            assert time.monotonic() < deadline_s, f"{committed:,} of {records:,} committed:\n{daemons[0].said()[-3000:]}"
            if committed:
                samples.append(_sample(committed, daemons[0].pid, is_alone=not todo or todo[-1][1] is not _leave))
            if len(samples) % (_SAMPLES // _LINES) == 1:
                print(_line(samples[-1]), flush=True)
            if todo and committed >= todo[-1][0] * records and todo[-1][1](site, daemons):
                todo.pop()
            due_s += period_s
            while (left_s := due_s - time.monotonic()) > 0:
                reader.poll(left_s)
        writer.join()
        for _ in range(10):
            reader.poll(0.2)
        daemons[0].leave()
    finally:
        for daemon in daemons:
            daemon.kill()
    assert not todo, "too few records for the rebalances and a reload"
    assert "settings_reloaded" in daemons[0].said(), daemons[0].said()[-3000:]
    return samples


def _join(site: Site, daemons: list[Daemon]) -> bool:
    """One rebalance."""
    daemons.append(site.start("--set", "input.member=two"))
    print("  a second daemon starts")
    return True


def _leave(site: Site, daemons: list[Daemon]) -> bool:
    """Another rebalance, once the session of the static member has timed out; False while it has not committed anything."""
    if not site.first_commits(daemons[-1].pid):
        return False
    daemons[-1].leave()
    print("  the second daemon has left")
    return True


def _reload(site: Site, daemons: list[Daemon]) -> bool:
    """Another threshold."""
    settings = site.folder / "settings.yaml"
    settings.write_text(settings.read_text() + "threshold: {z: 4.5}\n")
    daemons[0].ask_reload()
    return True


def _sample(committed: int, process: int, *, is_alone: bool) -> Sample:
    status = Path(f"/proc/{process}/status").read_text()
    found = {name: int(value) for name, value in re.findall(r"(VmRSS|Threads):\s*(\d+)", status)}
    return Sample(committed, found["VmRSS"] / 1024, found["Threads"], len(os.listdir(f"/proc/{process}/fd")), is_alone)


def _line(one: Sample) -> str:
    return f"  {one.records:>10,} records: {one.rss_mib:,.1f} MiB, {one.threads} threads, {one.files} files"


def _verdict(samples: Sequence[Sample], latencies: Sequence[float], records: int) -> list[Measure]:
    """After the warm-up, at its end and at that of the run."""
    warm = [one for one in samples if one.records >= _WARM_UNTIL * records]
    begun = [one for one in warm if one.records < _JOINS_AT * records]
    ended = [one for one in warm if one.records >= _LAST_FROM * records]
    threads = statistics.median_high([one.threads for one in ended]) - statistics.median_high([one.threads for one in begun])
    files = statistics.median_high([one.files for one in ended]) - statistics.median_high([one.files for one in begun])
    early, late = (sorted(latencies[int(a * len(latencies)) : int(b * len(latencies))]) for a, b in ((_WARM_UNTIL, _JOINS_AT), (_LAST_FROM, 1)))
    for name, part in (("start", early), ("end", late)):
        print(f"  at the {name}, {len(part):,} incidents: told after p50 {statistics.median(part):.0f} ms, p99 {part[int(0.99 * len(part))]:.0f} ms")
    if statistics.median(early) > _BEHIND_MS:
        print("  the daemon was behind the writer from the start on, so these times are of its backlog: give a lower --rate")
    return [
        _slope(samples, records),
        Measure("soak_threads_more", threads, 0, "threads", "lower"),
        Measure("soak_open_files_more", files, 0, "files", "lower"),
        Measure("soak_latency_end_over_start", statistics.median(late) / statistics.median(early), 1.25, "ratio", "lower"),
    ]


def _slope(samples: Sequence[Sample], records: int) -> Measure:
    """MiB of resident memory per million records: the median between any two samples far apart, so that what comes and goes does not count.

    Of those in which no second daemon holds a part of the partitions: what it holds, and so memory, is less then.
    Buffers, statistics and the allocator fill for some hundred thousand records; a run of less than some million tells the slope only roughly.
    """
    warm = [one for one in samples if one.is_alone and one.records >= min(max(_WARM_UNTIL * records, _FILLING_RECORDS), records / 2)]
    at, rss = np.array([one.records for one in warm]) / 1e6, np.array([one.rss_mib for one in warm])
    first, second = np.triu_indices(len(warm), 1)
    apart = at[second] - at[first]
    span = at[-1] - at[0]
    is_far = apart > 0.25 * span
    slopes = (rss[second] - rss[first])[is_far] / apart[is_far]
    low, middle, high = np.quantile(slopes, (0.1, 0.5, 0.9)).tolist()
    print(f"  resident memory over the last {span:.2f} M records: {middle:.2f} MiB per M records, between samples {low:.2f} to {high:.2f}")
    allowed = _SLOPE_MAX if records >= RECORDS / 2 else _FILLING_MIB / span
    return Measure("soak_memory_slope", middle, float(allowed), "MiB/M", "lower")


def main() -> int:
    """Print the verdict."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.soak", description="A long run of a real daemon through Kafka.")
    parser.add_argument("--records", type=int, default=RECORDS)
    parser.add_argument("--rate", type=int, default=RECORDS_PER_S, help="records a second, steadily")
    options = parser.parse_args()
    logging.configure("error", "json")
    began_s = time.monotonic()
    try:
        measures = soak(options.records, options.rate)
    except ToolsMissingError as error:
        print(f"left out: {error}")
        return 0
    for one in measures:
        print(one.line())
    is_constant = all(one.is_reached for one in measures)
    print(f"  {options.records:,} records in {time.monotonic() - began_s:,.0f} s: {'as at the start' if is_constant else 'NOT as at the start'}")
    return 0 if is_constant else 1


if __name__ == "__main__":
    end_when_told()
    sys.exit(main())
