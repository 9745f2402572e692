"""`replay` on the embedded log and on files."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import closing
from datetime import UTC, datetime
from html import unescape
from pathlib import Path

import pytest

from anomaly_daemon import wiring
from anomaly_daemon.adapters.checkpoint_store import FsspecCheckpointStore
from anomaly_daemon.adapters.checkpointers import SavedCheckpoints
from anomaly_daemon.adapters.clock import SystemClock
from anomaly_daemon.adapters.range_source import RangeSource, Wanted
from anomaly_daemon.adapters.replay_sink import ReplaySink
from anomaly_daemon.pipeline.loop import Loop, LoopSettings
from anomaly_daemon.state.checkpoint import digest
from anomaly_daemon.telemetry.metrics import Metrics
from tests.end_to_end.harness import Site, make_site
from tests.end_to_end.replays import replay_equals_live, replayed_alerts, rows
from tests.small import artifact, stream

RECORDS = stream(1, 4, 400, with_bad=True)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path, f"sqlite:///{tmp_path}/topics.db", RECORDS)


def said(site: Site) -> str:
    return (site.folder / "replay.log").read_text()


def test_a_replay_gives_the_bytes_that_live_gave(site: Site) -> None:
    replay_equals_live(site)


def test_a_replay_gives_the_bytes_that_live_gave_where_z_follows_alerts_per_day(tmp_path: Path) -> None:
    site = make_site(tmp_path, f"sqlite:///{tmp_path}/topics.db", RECORDS, assignments=("threshold.alerts_per_day=60",))

    replay_equals_live(site)

    thresholds = {row["threshold"] for row in rows(tmp_path / "whole.parquet")}
    unasked = Site(site.folder, site.assignments[:-1])
    assert unasked.replay("--export", str(tmp_path / "fixed.parquet")) == 0, said(site)
    assert {row["threshold"] for row in rows(tmp_path / "fixed.parquet")} != thresholds


def test_a_replay_leaves_the_state_that_live_left(site: Site, tmp_path: Path) -> None:
    site.run_to_end()
    settings = site.settings.model_copy(update={"input": site.settings.input.model_copy(update={"batch_records_max": 31})})
    processor, fingerprint, _ = wiring.build_processor(settings, artifact(), mode="replay")
    with closing(RangeSource(wiring.open_source(settings), Wanted(), SystemClock())) as source:
        sink = ReplaySink(tmp_path / "alerts.jsonl", settings.output.alerts_topic, source.reported, is_forced=False)
        saved = SavedCheckpoints(FsspecCheckpointStore(str(tmp_path / "none"), "none", 1))
        loop_settings = LoopSettings(fingerprint, 0.1, float("inf"), 10, None, False, until_end=True)
        Loop(source, sink, processor, saved, SystemClock(), Metrics(), loop_settings).run()
        sink.close()
        found = {str(one): (span.end, digest(processor.snapshot(one, span.end, fingerprint))) for one, span in source.spans.items()}
    processor.close()

    assert found == site.state()


def test_a_replay_of_files_equals_one_of_the_log_they_were_loaded_into(tmp_path: Path) -> None:
    records = stream(1, 4, 400)
    on_log = make_site(tmp_path, f"sqlite:///{tmp_path}/topics.db", records, partitions=1, assignments=("record.entity=entity",))
    file = tmp_path / "readings.jsonl"
    lines = [json.dumps({**json.loads(record.value or b""), "entity": (record.key or b"").decode()}) for record in records]
    file.write_text("\n".join(lines) + "\n")
    again = make_site(tmp_path / "again", f"sqlite:///{tmp_path}/again.db", [], partitions=1, assignments=("record.entity=entity",))
    again.append([line.encode() for line in lines])

    assert again.replay("--export", str(tmp_path / "log.parquet"), "--alerts", str(tmp_path / "log.jsonl")) == 0, said(again)
    from_files = ("--source", f"file://{file}", "--export", str(tmp_path / "file.parquet"), "--alerts", str(tmp_path / "file.jsonl"))
    assert on_log.replay(*from_files) == 0, said(on_log)

    assert len(replayed_alerts(tmp_path / "log.jsonl")) > 3
    assert rows(tmp_path / "file.parquet") == rows(tmp_path / "log.parquet")
    assert replayed_alerts(tmp_path / "file.jsonl") == replayed_alerts(tmp_path / "log.jsonl")


def test_some_entities_are_judged_as_they_are_among_all(site: Site) -> None:
    every, some = site.folder / "every.parquet", site.folder / "some.parquet"
    assert site.replay("--export", str(every)) == 0, said(site)
    assert site.replay("--entities", "pump-[02]", "--export", str(some)) == 0, said(site)

    assert [row for row in rows(some) if row["entity"]] == [row for row in rows(every) if row["entity"] in ("pump-0", "pump-2")]


def test_a_range_by_time_holds_the_records_whose_event_time_lies_in_it(site: Site) -> None:
    every, some = site.folder / "every.parquet", site.folder / "some.parquet"
    start, end = (datetime.fromtimestamp(1_700_000_000 + 60 * record, UTC) for record in (100, 250))
    assert site.replay("--export", str(every)) == 0, said(site)
    assert site.replay("--from", start.isoformat(), "--to", end.isoformat(), "--warm-up", "0", "--export", str(some)) == 0, said(site)

    inside = [row for row in rows(every) if row["timestamp"] and start <= row["timestamp"] < end]  # type: ignore[operator]
    assert [row for row in rows(some) if row["timestamp"]] == inside


def test_interrupted_it_leaves_a_whole_export_and_says_up_to_where(site: Site) -> None:
    export = site.folder / "scores.parquet"
    process = site.start_replay("--speed", "600x", "--export", str(export), "--set", "log=" + site.settings.log)
    deadline_s = time.monotonic() + 60
    while "partition_recovered" not in said(site) and time.monotonic() < deadline_s:
        process.join(0.05)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(30)

    assert process.exitcode == 130, said(site)
    assert "interrupted" in said(site)
    assert len(rows(export)) < len(RECORDS)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--from", "300", "--to", "100"), "the range is empty; --to is exclusive"),
        (("--from", "999999"), "no record from 999999 to the end; retained offsets: readings[0] 0 to before"),
        (("--from", "10", "--warm-up", "20"), "--warm-up 20 --from 10: the range is empty"),
        (("--report", "same.html", "--alerts", "same.html"), "same.html: is named twice"),
        (("--from", "2100-01-01"), "no record from 2100-01-01T00:00:00Z"),
        (("--from", "yesterday"), "neither an offset nor an ISO 8601 time"),
        (("--topic", "nothing"), "nothing"),
        (("--entities", "valve-*"), "no entity of the range fits"),
        (("--start-from", "checkpoint"), "none of readings[0] at or before offset 0"),
        (("--source", "file:///nowhere/*.csv"), "/nowhere"),
        (("--source", __file__, "--start-from", "checkpoint"), "a daemon saves the state of a log, not of files"),
    ],
)
def test_a_range_that_cannot_be_replayed_is_refused_in_a_sentence_and_nothing_is_written(site: Site, arguments: tuple[str, ...], told: str) -> None:
    export = site.folder / "scores.parquet"

    assert site.replay(*arguments, "--export", str(export)) == 2
    assert told in said(site)
    assert "Traceback" not in said(site)
    assert not export.exists()


@pytest.mark.parametrize("own", ["topics.db", "settings.yaml", "model/manifest.json"])
def test_not_even_force_replaces_what_the_daemon_lives_on(site: Site, own: str) -> None:
    before = (site.folder / own).read_bytes()

    assert site.replay("--export", str(site.folder / own), "--force") == 2
    assert "is the daemon's own; name another file" in said(site)
    assert (site.folder / own).read_bytes() == before


def test_a_report_shows_silences_and_faults_of_records_with_how_they_ended(tmp_path: Path) -> None:
    possible = "record.features=[{name: flow, possible: [-0.9, 0.9]}, {name: pressure}, {name: current}]"
    watched = (possible, "incidents.silence_after=5m", "incidents.recovery={count: 2, of: 4}")
    site = make_site(tmp_path, f"sqlite:///{tmp_path}/topics.db", RECORDS, assignments=watched)
    report, told = tmp_path / "report.html", tmp_path / "alerts.jsonl"

    assert site.replay("--report", str(report), "--alerts", str(told)) == 0, said(site)

    alerts, page = replayed_alerts(told), unescape(report.read_text())
    over = [one for one in alerts if one["kind"] in ("silence", "data_quality") and one["status"] == "resolved"]
    assert {one["kind"] for one in over} == {"silence", "data_quality"}
    for one in over:
        told_of = [same for same in alerts if same["incident_id"] == one["incident_id"]]
        assert all(str(same["explanation"]["message"]) in page for same in (told_of[0], told_of[-1]))  # type: ignore[index]


def test_labels_that_do_not_fit_cost_the_measures_not_the_report(site: Site) -> None:
    (site.folder / "labels.csv").write_text("entity,start,end\nvalve-9,2023-11-14T22:13:20Z,2023-11-14T23:13:20Z\n")
    report = site.folder / "report.html"

    assert site.replay("--labels", str(site.folder / "labels.csv"), "--report", str(report)) == 2
    assert "valve-9" in said(site)
    assert "Not measured against labels" in report.read_text()


def test_a_range_of_offsets_takes_what_a_shorter_partition_has(site: Site) -> None:
    export = site.folder / "scores.parquet"
    assert site.replay("--from", "50", "--to", "390", "--export", str(export)) == 0, said(site)

    ends = {number: max(int(str(row["offset"])) for row in rows(export) if row["partition"] == number) for number in (0, 1)}
    assert min(ends.values()) < 389


def test_a_replay_commits_nothing_and_leaves_the_daemons_checkpoints_alone(site: Site) -> None:
    site.run_to_end()
    before = {path: path.stat().st_mtime_ns for path in sorted((site.folder / "checkpoints").rglob("*"))}
    alerts = len(site.alerts())

    assert site.replay("--alerts", str(site.folder / "alerts.jsonl")) == 0, said(site)

    assert {path: path.stat().st_mtime_ns for path in sorted((site.folder / "checkpoints").rglob("*"))} == before
    assert len(site.alerts()) == alerts
