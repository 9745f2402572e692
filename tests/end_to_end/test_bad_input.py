"""Bad records, bad files, bad settings: each told with a reason, nothing lost, nothing stopped that can go on."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from pathlib import Path

import pytest

from anomaly_daemon.domain.records import Message
from tests.end_to_end.harness import Site, kill, make_site
from tests.small import stream

GOOD = stream(1, 4, 300)
BAD = {
    "tombstone": None,
    "malformed_json": b'{"flow": NaN}',
    "encoding": b'{"flow": 1, "time": 1700000000, "x": "\xff"}',
    "schema": b"[1, 2, 3]",
    "feature_type": b'{"flow": "fast", "pressure": 1, "current": 1, "time": 1700000000}',
    "time_missing": b'{"flow": 1, "pressure": 1, "current": 1}',
    "time_invalid": b'{"flow": 1, "pressure": 1, "current": 1, "time": "soon"}',
    "time_out_of_range": b'{"flow": 1, "pressure": 1, "current": 1, "time": 99999999999}',
    "features_missing": b'{"time": 1700000000}',
    "oversized": b'{"flow": 1, "time": 1700000000, "x": "' + b"y" * 1_000_000 + b'"}',
}


def logged(site: Site, event: str) -> list[dict[str, float]]:
    """The log lines of this event."""
    return [json.loads(line) for line in site.log().splitlines() if f'"event": "{event}"' in line]


def facts(site: Site) -> dict[str, float]:
    """The closing log line of the last life."""
    return logged(site, "stopped")[-1]


def rejected(site: Site) -> int:
    """How many the log told of."""
    return sum(int(line["records"]) for line in logged(site, "records_rejected"))


def by_entity(site: Site) -> list[tuple[object, ...]]:
    """What was announced, without what names the offsets."""
    found = [(alert["entity"], alert["starts_at"], alert["sequence"], alert["features"], alert["anomaly_score"]) for alert in site.alerts()]
    return sorted(found, key=lambda one: (str(one[0]), str(one[1]), int(str(one[2]))))


def test_every_kind_of_bad_record_is_dead_lettered_whole_and_the_others_are_judged_as_if_it_were_not_there(tmp_path: Path) -> None:
    with_bad = make_site(tmp_path / "bad", f"sqlite:///{tmp_path}/bad.db", GOOD[:150], partitions=1)
    clean = make_site(tmp_path / "clean", f"sqlite:///{tmp_path}/clean.db", GOOD, partitions=1)
    with_bad.send(Message("readings", b"pump-1", value) for value in BAD.values())
    with_bad.send([Message("readings", None, GOOD[0].value), Message("readings", b"\xff", GOOD[0].value)])
    with_bad.fill(GOOD[150:])

    with_bad.run_to_end()
    clean.run_to_end()

    letters = with_bad.dead_letters()
    assert [headers["dead_letter.reason"].decode() for _, _, headers in letters] == [*BAD, "entity_missing", "entity_invalid"]
    assert [value for _, value, _ in letters][: len(BAD)] == list(BAD.values())
    assert [headers["dead_letter.offset"] for _, _, headers in letters] == [str(150 + number).encode() for number in range(len(letters))]
    told = facts(with_bad)
    assert told["records_consumed"] == told["records_scored"] + told["dead_letter_records"] + told["records_dropped"] == 300 + len(letters)
    assert (rejected(with_bad), rejected(clean)) == (len(letters), 0)
    assert by_entity(with_bad) == by_entity(clean)
    assert len(clean.alerts()) > 0


def test_a_damaged_checkpoint_is_told_and_an_older_one_or_the_log_is_used(tmp_path: Path) -> None:
    harmed = make_site(tmp_path / "harmed", f"sqlite:///{tmp_path}/harmed.db", GOOD[:200])
    unharmed = make_site(tmp_path / "unharmed", f"sqlite:///{tmp_path}/unharmed.db", GOOD)
    harmed.run_to_end()
    for path in (harmed.folder / "checkpoints").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-7] + b"garbage")
    harmed.fill(GOOD[200:])

    harmed.run_to_end()
    unharmed.run_to_end()

    assert "checkpoint_refused" in harmed.events()
    assert "state_rebuilt_from_log" in harmed.events()
    assert harmed.alerts() == unharmed.alerts()
    assert harmed.state() == unharmed.state()


def test_records_that_retention_took_before_they_were_read_are_told_and_the_rest_is_judged(tmp_path: Path) -> None:
    site = make_site(tmp_path, f"sqlite:///{tmp_path}/topics.db", GOOD[:100], partitions=1)
    site.run_to_end()
    site.fill(GOOD[100:])
    take_before(tmp_path, 150)

    site.run_to_end()

    fifty_were_told_lost(site)
    assert facts(site)["records_consumed"] == 150


def test_records_that_retention_took_under_way_are_told_and_counted_too(tmp_path: Path) -> None:
    site = make_site(tmp_path, f"sqlite:///{tmp_path}/topics.db", GOOD[:100], partitions=1)
    process = site.daemon()
    with sqlite3.connect(tmp_path / "topics.db") as connection:
        while connection.execute("SELECT max(next_offset) FROM committed").fetchone()[0] != 100:
            process.join(0.02)
            assert process.exitcode is None, site.log_tail()
    connection.close()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    site.fill(GOOD[100:])
    take_before(tmp_path, 150)
    os.kill(process.pid, signal.SIGCONT)
    while "records_lost_to_retention" not in site.log():
        process.join(0.02)
        assert process.exitcode is None, site.log_tail()
    os.kill(process.pid, signal.SIGTERM)
    process.join(30)

    assert process.exitcode == 0
    fifty_were_told_lost(site)


def take_before(folder: Path, offset: int) -> None:
    with sqlite3.connect(folder / "topics.db") as connection:
        (partition,) = connection.execute("SELECT p.id FROM partitions p JOIN topics t ON t.id = topic_id WHERE t.name = 'readings'").fetchone()
        connection.execute("DELETE FROM records WHERE partition_id = ? AND offset < ?", (partition, offset))
        connection.execute("UPDATE partitions SET earliest = ? WHERE id = ?", (offset, partition))
    connection.close()


def fifty_were_told_lost(site: Site) -> None:
    (told,) = [json.loads(line) for line in site.log().splitlines() if "records_lost_to_retention" in line]
    assert (told["committed"], told["earliest"], told["records"]) == (100, 150, 50)
    assert facts(site)["records_lost"] == 50


@pytest.mark.parametrize("name", ["manifest.json", "weights"])
def test_a_damaged_artifact_is_refused_with_exit_code_2(tmp_path: Path, name: str) -> None:
    site = make_site(tmp_path, f"sqlite:///{tmp_path}/topics.db", GOOD[:10])
    (path,) = (site.folder / "model").glob(f"{name}*")
    path.write_bytes(path.read_bytes()[:-20])

    process = site.daemon("--until-end")
    process.join(60)

    assert process.exitcode == 2
    assert str(site.folder / "model") in site.log()
    assert "Traceback" not in site.log()


def test_missing_topics_are_refused_by_name_with_the_remedy(tmp_path: Path) -> None:
    site = make_site(tmp_path, f"sqlite:///{tmp_path}/topics.db", GOOD[:10])
    elsewhere = Site(site.folder, (*site.assignments, "input.topics=[nowhere]", "topics.create_topics=false"))

    process = elsewhere.daemon("--until-end")
    process.join(60)

    assert process.exitcode == 2
    assert "nowhere" in site.log()
    assert "topics.create_topics: true" in site.log()


def test_a_reload_changes_what_can_change_and_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    site = make_site(tmp_path, f"sqlite:///{tmp_path}/topics.db", GOOD)
    settings_file = site.folder / "settings.yaml"
    good = settings_file.read_text()
    process = site.daemon()
    wait_for(site, process, "partition_recovered", 2)

    settings_file.write_text(good + "incidents: {cooldown: 1h}\nengine: {decode_every: 4}\n")
    hang_up(process)
    wait_for(site, process, "settings_reloaded", 1)
    settings_file.write_text(good + "thresold: {z: 4}\n")
    hang_up(process)
    wait_for(site, process, "settings_refused", 1)
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join(30)
    kill(process)

    assert process.exitcode == 0
    reloaded = [json.loads(line) for line in site.log().splitlines() if "settings_reloaded" in line]
    assert reloaded[0]["changed"] == ["incidents.cooldown"]
    assert "restart_needed" in site.events()
    assert "threshold" in site.log_tail()


def hang_up(process: object) -> None:
    os.kill(process.pid, signal.SIGHUP)  # type: ignore[attr-defined]


def wait_for(site: Site, process: object, event: str, times: int) -> None:
    for _ in range(1200):
        if site.events().count(event) >= times:
            return
        process.join(0.05)  # type: ignore[attr-defined]
        assert process.exitcode is None, site.log_tail()  # type: ignore[attr-defined]
    raise AssertionError(f"{event} was not seen: {site.log_tail()}")
