from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anomaly_daemon import wiring
from anomaly_daemon.adapters.dump_format import encode_record
from anomaly_daemon.adapters.range_source import Span
from anomaly_daemon.adapters.score_export import ParquetExport
from anomaly_daemon.cli import main
from anomaly_daemon.domain.records import Batch, BatchOutput, Partition, Record
from anomaly_daemon.evaluation.comparison import compare
from anomaly_daemon.evaluation.comparison.causes import differences_between
from anomaly_daemon.evaluation.comparison.exports import read_export
from anomaly_daemon.settings import Settings, digest
from tests import small
from tests.end_to_end.harness import Site, make_site
from tests.small import artifact, stream

LENGTH = 600
CHANNELS = "evidence.channels=[prediction, reconstruction]"  # the incidents counted here are theirs
RECORDS = stream(3, 4, LENGTH)


def settings(*assignments: str) -> Settings:
    return small.settings(CHANNELS, *assignments)


def replayed(
    folder: Path, name: str, *assignments: str, records: Sequence[Record] = RECORDS, batch: int = 50, first: int = 0, noted: bool = True
) -> tuple[str, str]:
    """An export and the alerts of a replay from nothing, reported from offset `first` on."""
    built, _ = small.processor(CHANNELS, *assignments)
    partitions = sorted({record.partition for record in records})
    spans = {one: Span(0, 0, first, max(record.offset for record in records if record.partition == one) + 1) for one in partitions}
    metadata = wiring.describe(settings(*assignments), artifact(), mode="replay", started_from="nothing", spans=spans)
    export = ParquetExport(folder / f"{name}.parquet", built.channels, metadata if noted else {}, is_forced=False)
    outputs: list[BatchOutput] = []
    for partition in partitions:
        built.begin(partition)
        export.begin(partition, first)
    for start in range(0, len(records), batch):
        outputs.append(built.process(Batch(records[start : start + batch]), dict.fromkeys(partitions, first)))
        export.write(outputs[-1])
    export.close()
    built.close()
    bodies = [msgspec.json.encode(alert.body) for output in outputs for alert in output.alerts]
    (folder / f"{name}.jsonl").write_bytes(b"".join(body + b"\n" for body in bodies))
    return str(folder / f"{name}.parquet"), str(folder / f"{name}.jsonl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("diff")


@pytest.fixture(scope="module")
def base(folder: Path) -> tuple[str, str]:
    return replayed(folder, "base")


def diff(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    assert main(["diff", *words, "--format", "json"]) == code, capsys.readouterr().err
    return dict(json.loads(capsys.readouterr().out))


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["diff", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def changed(outcome: dict[str, Any], *kinds: str) -> list[dict[str, Any]]:
    return [change for change in outcome["changes"] if change["kind"] in kinds]


def as_told(path: str) -> dict[str, tuple[object, ...]]:
    """Per incident of alerts: start, end, severity and peak, as its last alert has them."""
    bodies = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return {
        body["incident_id"]: (body["starts_at"], body["ends_at"], body["severity"], body["source_records"]["first_offset"])
        for body in sorted(bodies, key=lambda body: body["sequence"])
    }


def test_two_replays_of_the_same_differ_in_nothing_however_their_batches_were_cut(
    folder: Path, base: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    again, _ = replayed(folder, "again", batch=7)

    outcome = diff(capsys, base[0], again, "--fail-on-change")

    assert outcome["changes"] == outcome["differences"] == outcome["notes"] == []
    assert outcome["counts"] == {"added": 0, "gone": 0, "moved": 0, "re-graded": 0, "same": len(as_told(base[1]))}
    assert outcome["counts"]["same"] > 3


def test_incidents_read_off_an_export_are_those_that_its_alerts_tell(base: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    outcome = diff(capsys, *base)

    assert outcome["changes"] == []
    assert outcome["before"]["incidents"] == outcome["after"]["incidents"] == len(as_told(base[1]))


def test_incident_open_at_the_end_of_an_export_is_open_in_its_alerts_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = set()
    for last in range(325, 349, 4):  # one opens at offset 328 and closes within these
        export, alerts = replayed(folder, f"until-{last}", records=RECORDS[:last])
        assert diff(capsys, export, alerts)["changes"] == []
        found.add(any(ends_at is None for _, ends_at, *_ in as_told(alerts).values()))
    assert found == {True, False}


@pytest.mark.parametrize("first", [112, 120, 440, 482])
def test_incident_that_began_before_the_range_is_the_same_in_export_and_alerts(
    folder: Path, base: tuple[str, str], first: int, capsys: pytest.CaptureFixture[str]
) -> None:
    export, _ = replayed(folder, f"from-{first}", first=first)

    outcome = diff(capsys, export, base[1])

    assert outcome["changes"] == []
    assert outcome["counts"]["same"] > 0


def test_other_z_adds_and_removes_incidents_and_is_named_as_the_reason(
    folder: Path, base: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    strict, _ = replayed(folder, "strict", "threshold.z=4")

    outcome = diff(capsys, base[0], strict)

    assert changed(outcome, "gone")
    assert all(change["causes"] == ["settings"] for change in outcome["changes"])
    assert outcome["differences"] == [{"cause": "settings", "key": "threshold.z", "before": "2.0", "after": "4.0"}]
    back = diff(capsys, strict, base[0])
    assert [change["before"] for change in changed(back, "added")] == [None] * len(changed(outcome, "gone"))
    assert len(changed(back, "added")) == len(changed(outcome, "gone"))


def test_other_recovery_moves_incidents_and_its_keys_are_named(folder: Path, base: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    slow, _ = replayed(folder, "slow", "incidents.recovery={count: 40, of: 40}")

    outcome = diff(capsys, base[0], slow)

    moved = changed(outcome, "moved")
    assert moved
    assert any(change["before"]["incident_id"] == change["after"]["incident_id"] for change in moved)
    assert {one["key"] for one in outcome["differences"]} == {"incidents.recovery.count", "incidents.recovery.of"}


def test_settings_that_decide_nothing_are_no_reason(folder: Path, base: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    other, _ = replayed(folder, "other-place", "input.group=another", "engine.resident_max=32")

    outcome = diff(capsys, base[0], other)

    assert outcome["changes"] == outcome["differences"] == []


@pytest.mark.parametrize(
    "assignment",
    [
        "threshold.suspect_z=3",
        "model.scale=fleet",
        "engine.decode_every=4",
        "overrides=[{match: 'pump-*', threshold: {z: 3}}]",
        "record.entity={path: id}",
        "engine.device=cpu",
        "training.epochs=3",
        "output.alerts_topic=elsewhere",
        "logging.level=debug",
    ],
)
def test_settings_named_as_a_reason_are_those_of_the_settings_hash(base: tuple[str, str], assignment: str) -> None:
    one, other = (replace(read_export(Path(base[0])), settings=settings(*more).model_dump(mode="json")) for more in ((), (assignment,)))

    assert bool(differences_between(one, other, with_rows=False)) == (digest(settings()) != digest(settings(assignment)))


def test_removed_record_is_told_by_its_offset_as_the_reason(folder: Path, base: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    target = next(record.offset for record in RECORDS if record.key == b"pump-0" and record.offset > 150)
    fewer, _ = replayed(folder, "fewer", records=[record for record in RECORDS if record.offset != target])

    outcome = diff(capsys, base[0], fewer)

    assert outcome["changes"]
    assert all(change["causes"] == ["data"] for change in outcome["changes"])
    (told,) = outcome["differences"]
    assert told["key"] == f"readings[0] offset {target}"
    assert told["before"].startswith("pump-0 at ")
    assert told["after"] is None


def test_range_that_goes_on_adds_what_lies_there_for_want_of_data(folder: Path, base: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    shorter, _ = replayed(folder, "shorter", records=RECORDS[:400])

    outcome = diff(capsys, shorter, base[0])

    assert [change["after"]["first_offset"] >= 400 for change in changed(outcome, "added")] == [True] * 2
    assert all(change["causes"] == ["data"] for change in outcome["changes"])
    assert outcome["differences"] == [{"cause": "data", "key": "range of readings[0]", "before": "offsets 0 to 399", "after": "offsets 0 to 599"}]


def test_severity_that_differs_is_a_regrading(folder: Path, base: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    stricter, _ = replayed(folder, "stricter", "threshold.z=3")

    (regraded,) = changed(diff(capsys, base[0], stricter), "re-graded")

    assert regraded["is_regraded"]
    assert (regraded["before"]["severity"], regraded["after"]["severity"]) == ("critical", "high")
    assert regraded["before"]["incident_id"] == regraded["after"]["incident_id"]


def test_scores_that_differ_at_the_same_records_are_told_with_the_state_they_began_with(
    folder: Path, base: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    warm, _ = replayed(folder, "warm", first=100)
    cold, _ = replayed(folder, "cold", records=RECORDS[100:], first=100, batch=60)
    table = pq.read_table(cold)
    notes = json.loads(table.schema.metadata[b"anomaly_daemon"])
    notes["partitions"]["readings[0]"]["warm_up_from"] = 100
    pq.write_table(table.replace_schema_metadata({"anomaly_daemon": json.dumps(notes)}), cold)

    outcome = diff(capsys, warm, cold)

    assert outcome["changes"]
    assert all(change["causes"] == ["data"] for change in outcome["changes"])
    warm_up, first = outcome["differences"]
    assert warm_up == {"cause": "data", "key": "warm-up of readings[0]", "before": "from offset 0", "after": "from offset 100"}
    assert first["key"] == "readings[0] offset 100"
    assert first["before"].startswith("anomaly_score ")


def renoted(folder: Path, name: str, path: str, **notes: object) -> str:
    """A copy of an export that notes other things of its run."""
    table = pq.read_table(path)
    told = json.loads(table.schema.metadata[b"anomaly_daemon"]) | notes
    pq.write_table(table.replace_schema_metadata({"anomaly_daemon": json.dumps(told)}), folder / name)
    return str(folder / name)


def test_other_model_and_version_are_named(folder: Path, base: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    strict, _ = replayed(folder, "strict-model", "threshold.z=4")
    other = renoted(folder, "model.parquet", strict, model={"name": "pumps", "version": "2", "fingerprint": "f" * 64}, version="9.9")

    outcome = diff(capsys, base[0], other)

    assert all(change["causes"] == ["settings", "model", "version"] for change in outcome["changes"])
    assert [(one["key"], one["after"]) for one in outcome["differences"]] == [
        ("threshold.z", "4.0"),
        ("model", "pumps 2 (ffffffffffff)"),
        ("anomaly-daemon", "9.9"),
    ]


def test_exports_without_notes_are_compared_for_reasons_unknown(folder: Path, base: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    bare, _ = replayed(folder, "bare", "threshold.z=4", noted=False)

    outcome = diff(capsys, base[0], bare)

    assert {tuple(change["causes"]) for change in outcome["changes"]} == {("unknown",)}
    assert "bare.parquet: notes neither settings nor model" in outcome["notes"][0]


def test_ends_are_compared_where_it_is_not_known_which_incidents_are_open(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick, _ = replayed(folder, "bare-quick", noted=False)
    slow, _ = replayed(folder, "bare-slow", "incidents.recovery={count: 40, of: 40}", noted=False)

    assert any(change["before"]["first_offset"] == change["after"]["first_offset"] for change in changed(diff(capsys, quick, slow), "moved"))


def test_partitions_may_come_in_any_order(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine, other = stream(3, 4, 300), stream(5, 4, 300, partition=Partition("readings", 1))
    apart, _ = replayed(folder, "apart", records=[*mine, *other])
    merged = [record for pair in zip(mine, other, strict=True) for record in pair]
    woven, _ = replayed(folder, "woven", records=merged, batch=16)
    looser, _ = replayed(folder, "looser", "threshold.z=1.8", records=merged, batch=16)

    assert diff(capsys, apart, woven)["changes"] == []
    assert {one["cause"] for one in diff(capsys, apart, looser)["differences"]} == {"settings"}


def test_alerts_against_alerts_tell_settings_by_their_hash(folder: Path, base: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    _, strict = replayed(folder, "strict-alerts", "threshold.z=4")

    outcome = diff(capsys, base[1], strict)

    assert changed(outcome, "gone")
    assert [one["key"] for one in outcome["differences"]] == ["settings_hash"]


def test_lines_of_dump_are_alerts_too(folder: Path, base: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    bodies = Path(base[1]).read_bytes().splitlines()
    dumped = folder / "dumped.txt"
    dumped.write_bytes(b"".join(encode_record(Record(Partition("alerts", 0), n, 0, b"", body)) + b"\n" for n, body in enumerate(bodies)))

    assert diff(capsys, str(dumped), base[1])["changes"] == []


def test_rules_of_incidents_that_exports_do_not_hold_are_told_and_fail_a_pipeline_and_alerts_show_what_they_change(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watched, other = (replayed(folder, f"silence-{after}", f"incidents.silence_after={after}") for after in ("4m", "15m"))

    outcome = diff(capsys, watched[0], other[0], "--fail-on-change", code=1)

    assert (outcome["changes"], outcome["untold"]) == ([], ["incidents.silence_after"])
    assert outcome["notes"][0].startswith("incidents.silence_after: decide on silences, data quality or lasting changes, which an export")
    assert main(["diff", watched[0], other[0]]) == 0
    assert "no incident that exports hold differs, of others they cannot tell;" in capsys.readouterr().out
    assert changed(diff(capsys, watched[1], other[1], "--fail-on-change", code=1), "gone")


@pytest.mark.parametrize(
    ("one", "is_untold"),
    [
        ("quality.stuck_after=1h", True),
        ("regime={after: 2h}", True),
        ("record.features=[{name: flow, possible: [-9, 9]}, {name: pressure}, {name: current}]", True),
        ("overrides=[{match: pump-1, incidents: {silence_after: 5m}}]", True),
        ("incidents.update_every=1m", False),
        ("threshold.half_life=50", False),
    ],
)
def test_only_settings_that_decide_on_such_incidents_are_untold(base: tuple[str, str], one: str, is_untold: bool) -> None:
    side = read_export(Path(base[0]))
    other = replace(side, settings=settings(one).model_dump(mode="json"))

    differences = differences_between(side, other, with_rows=False)

    assert differences
    assert bool(compare(side, other, [], 0, differences).untold) == is_untold


def test_table_shows_so_many_changes_and_counts_the_rest(folder: Path, base: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    strict, _ = replayed(folder, "strict-table", "threshold.z=4")

    assert main(["diff", base[0], strict, "--limit", "2", "--fail-on-change"]) == 1

    captured = capsys.readouterr()
    assert captured.out.count("│ gone") == 2
    assert "4 more changes are left out" in captured.out
    assert captured.out.endswith("0 added, 4 gone, 2 moved, 0 re-graded; 0 are the same\n")
    assert "settings: threshold.z: 2.0 → 4.0" in captured.out
    assert "4 gone" in captured.err
    assert "--fail-on-change" in captured.err


def test_page_tells_what_the_table_does(folder: Path, base: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    strict, _ = replayed(folder, "strict-page", "threshold.z=4")

    diff(capsys, base[0], strict, "--report", str(folder / "page.html"))

    page = (folder / "page.html").read_text()
    assert "threshold.z" in page
    assert page.count("moved") >= 2


@pytest.fixture(scope="module")
def site(folder: Path) -> Site:
    made = make_site(folder / "site", f"sqlite:///{folder / 'site' / 'topics.db'}", RECORDS, partitions=1, assignments=(CHANNELS,))
    made.run_to_end(120, "--export", str(folder / "live.parquet"))
    return made


def live(site: Site) -> list[str]:
    return ["-c", str(site.folder / "settings.yaml")]


def test_replay_differs_in_nothing_from_what_live_published(site: Site, base: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    outcome = diff(capsys, base[0], "live", *live(site))

    assert outcome["changes"] == outcome["differences"] == outcome["notes"] == []
    assert outcome["counts"]["same"] > 3


def test_incident_that_live_closed_after_the_range_counts_as_open_there(site: Site, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for last in range(111, 150, 6):
        export, _ = replayed(folder, f"cut-{last}", records=RECORDS[:last])
        assert diff(capsys, "live", export, *live(site))["changes"] == []


def test_other_settings_than_live_had_are_told_by_their_hash(site: Site, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strict, _ = replayed(folder, "strict-live", "threshold.z=4")

    outcome = diff(capsys, "live", strict, *live(site))

    assert changed(outcome, "gone")
    assert [one["key"] for one in outcome["differences"]] == ["settings_hash"]


def test_alerts_of_entities_that_were_not_replayed_are_left_out(base: tuple[str, str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some, _ = replayed(folder, "some", records=[record for record in RECORDS if record.key != b"pump-0"])

    outcome = diff(capsys, base[1], some)

    assert {change["entity"] for change in outcome["changes"]} <= {"pump-1", "pump-2", "pump-3"}
    assert "of entities without a record in" in outcome["notes"][0]


def test_nothing_in_common_is_refused_with_a_remedy(folder: Path, base: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    early, _ = replayed(folder, "early", records=RECORDS[:100])
    late, _ = replayed(folder, "late", first=400)
    other_detector, other_alerts = replayed(folder, "other-detector", "detector_id=another")
    other_topic, _ = replayed(folder, "other-topic", records=stream(3, 2, 100, partition=Partition("payments", 0)))

    assert "ranges do not overlap" in refused(capsys, early, late)
    assert "detector anomaly-daemon" in refused(capsys, base[0], other_detector)
    assert "detector another" in refused(capsys, other_alerts, base[0])
    assert "is of topic readings" in refused(capsys, base[0], other_topic)


def test_what_cannot_be_read_is_refused_with_file_and_remedy(
    folder: Path, base: tuple[str, str], site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    junk, empty, quiet = folder / "junk.bin", folder / "empty", folder / "quiet.jsonl"
    junk.write_bytes(Path(base[1]).read_bytes().splitlines()[0] + b"\n{}\n")
    empty.touch()
    quiet.touch()
    pq.write_table(pa.table({"a": [1]}), folder / "foreign.parquet")
    pq.write_table(pq.read_table(base[0]).slice(0, 0), folder / "none.parquet")
    (folder / "torn.parquet").write_bytes(Path(base[0]).read_bytes()[:-100])
    (folder / "torn.jsonl.gz").write_bytes(b"\x1f\x8b\x08")

    assert "junk.bin: line 2: neither an alert" in refused(capsys, base[0], str(junk))
    assert "is empty" in refused(capsys, str(empty), base[0])
    assert "not exported scores" in refused(capsys, base[0], str(folder / "foreign.parquet"))
    assert "holds no record" in refused(capsys, base[0], str(folder / "none.parquet"))
    assert "damaged or cut short" in refused(capsys, base[0], str(folder / "torn.parquet"))
    assert "cannot be read" in refused(capsys, base[0], str(folder / "torn.jsonl.gz"))
    assert "no such file" in refused(capsys, base[0], str(folder / "missing.jsonl"))
    assert "cannot be read" in refused(capsys, base[0], str(folder))
    assert "format 2" in refused(capsys, base[0], renoted(folder, "future.parquet", base[0], format=2))
    assert "--limit 0" in refused(capsys, *base, "--limit", "0")
    assert "already holds something" in refused(capsys, *base, "--report", str(junk))
    assert "must be an export" in refused(capsys, "live", "live", *live(site))
    assert "no topic nowhere" in refused(capsys, base[0], "live", *live(site), "--set", "output.alerts_topic=nowhere")
    assert diff(capsys, str(quiet), str(quiet))["counts"]["same"] == 0
