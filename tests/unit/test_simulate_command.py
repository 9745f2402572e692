from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from anomaly_daemon.adapters.sqlite_append import partition_of
from anomaly_daemon.cli import main
from anomaly_daemon.domain.records import Record
from anomaly_daemon.settings import load
from anomaly_daemon.simulation.labels import read_labels
from anomaly_daemon.simulation.stream import parse_iso_us
from anomaly_daemon.wiring import open_source

SENSORS = ["simulate", "sensors", "--entities", "3", "--duration", "12h", "--faults-per-entity-per-day", "4"]


def lines(path: Path) -> list[dict[str, object]]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in content.splitlines()]


def test_sensors_go_to_a_file_and_their_labels_to_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records, labels = tmp_path / "records.jsonl.gz", tmp_path / "labels.csv"

    assert main([*SENSORS, "--output", str(records), "--labels", str(labels)]) == 0

    silent = sum((label.end_us - label.start_us) // 60_000_000 + 1 for label in read_labels(labels) if label.kind == "silence")
    assert len(lines(records)) == 3 * 720 - silent
    assert {line["entity"] for line in lines(records)} == {"pump-01", "pump-02", "pump-03"}
    assert len(read_labels(labels)) == 3
    assert min(label.start_us for label in read_labels(labels)) >= parse_iso_us("2026-01-01T06:00:00Z")
    told = capsys.readouterr().out
    assert f"{len(lines(records)):,} records of 3 pumps" in told
    assert "3 anomalies planted" in told
    assert "train with --to 2026-01-01T06:00:00Z" in told


def test_the_same_command_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        arguments = ["--output", str(tmp_path / f"{name}.jsonl.gz"), "--labels", str(tmp_path / f"{name}.csv")]
        assert main(["simulate", "transactions", "--entities", "20", "--duration", "4d", "--seed", "5", *arguments]) == 0

    assert (tmp_path / "one.jsonl.gz").read_bytes() == (tmp_path / "two.jsonl.gz").read_bytes()
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


def test_records_go_to_a_topic_under_their_entity_with_the_event_time_as_timestamp(tmp_path: Path) -> None:
    log = f"log=sqlite:///{tmp_path / 'topics.db'}"

    assert (
        main(
            ["simulate", "transactions", "--entities", "20", "--duration", "2d", "--topic", "payments", "--create", "--partitions", "2", "--set", log]
        )
        == 0
    )

    source = open_source(load([], [log], {}), topics=("payments",))
    assigned = [partition for change in source.poll(0.1).changes for partition in change.partitions]
    for partition in assigned:
        source.seek(partition, 0)
    records: list[Record] = []
    while batch := source.poll(0.1).records:
        records += batch
    source.close()
    assert len(assigned) == 2
    assert len(records) > 50
    for record in records:
        fields = json.loads(record.value or b"")
        assert record.key == fields["card"].encode()
        assert record.timestamp_ms * 1000 == parse_iso_us(fields["timestamp"])
    assert len(Counter(record.partition for record in records)) == 2


@pytest.mark.parametrize(("what", "key"), [("sensors", "entity"), ("transactions", "card")])
def test_a_file_and_a_topic_hold_the_same_records_in_the_same_order(tmp_path: Path, what: str, key: str) -> None:
    common = ["simulate", what, "--entities", "20", "--duration", "1d", "--seed", "3"]
    log = ["--set", f"log=sqlite:///{tmp_path / 'topics.db'}"]
    assert main([*common, *log, "--topic", "simulated", "--create", "--partitions", "3"]) == 0
    assert main(["dump", *log, "--topic", "simulated", "--output", str(tmp_path / "topic.jsonl")]) == 0
    assert main([*common, "--output", str(tmp_path / "file.jsonl")]) == 0

    of_file: dict[int, list[tuple[str, object]]] = {}
    for line in lines(tmp_path / "file.jsonl"):
        name = str(line.pop(key) if what == "sensors" else line[key])
        of_file.setdefault(partition_of(name.encode(), 3), []).append((name, line))
    of_topic: dict[int, list[tuple[str, object]]] = {}
    for dumped in lines(tmp_path / "topic.jsonl"):
        of_topic.setdefault(int(str(dumped["partition"])), []).append((str(dumped["key"]), json.loads(str(dumped["value"]))))

    assert len(of_topic) == 3
    assert of_topic == of_file


def test_a_file_loaded_into_a_topic_is_placed_as_if_simulated_there(tmp_path: Path) -> None:
    common = ["simulate", "transactions", "--entities", "20", "--duration", "1d"]
    log = ["--set", f"log=sqlite:///{tmp_path / 'topics.db'}", "--set", "topics.create_topics=true"]
    assert main([*common, "--output", str(tmp_path / "file.jsonl.gz")]) == 0
    assert main([*common, *log, "--topic", "direct"]) == 0
    columns = ["--key-column", "card", "--time-column", "timestamp"]
    assert main(["load", *log, "--topic", "loaded", *columns, str(tmp_path / "file.jsonl.gz")]) == 0

    for topic in ("direct", "loaded"):
        assert main(["dump", *log, "--topic", topic, "--output", str(tmp_path / topic)]) == 0

    assert (tmp_path / "loaded").read_text().replace('"topic":"loaded"', '"topic":"direct"') == (tmp_path / "direct").read_text()


def test_a_missing_topic_is_refused_with_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SENSORS, "--topic", "readings", "--set", f"log=sqlite:///{tmp_path / 'topics.db'}"]) == 2

    assert "no topic readings; add --create" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--duration", "5"], "--duration"),
        (["--interval", "soon"], "--interval"),
        (["--start", "yesterday"], "--start"),
        (["--rate", "fast"], "--rate"),
        (["--rate", "-1/s"], "--rate"),
        (["--entities", "0"], "--entities"),
        (["--create"], "--create"),
        (["--partitions", "0"], "--partitions"),
    ],
)
def test_a_wrong_argument_is_refused_by_name_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    output = tmp_path / "records.jsonl"

    assert main([*SENSORS, "--output", str(output), *(f"{arguments[0]}={arguments[1]}" if len(arguments) == 2 else arguments[0],)]) == 2

    assert named in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize("full", ["--output", "--labels"])
def test_a_disk_that_is_full_is_told_with_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str], full: str) -> None:
    files = {"--output": f"{tmp_path}/records.jsonl", "--labels": f"{tmp_path}/labels.csv"} | {full: "/dev/full"}

    assert main([*SENSORS, *(word for pair in files.items() for word in pair)]) != 0

    told = capsys.readouterr().err
    assert f"{full} /dev/full" in told
    assert "No space left on device; make room" in told


def test_interrupting_leaves_whole_records_and_says_so(tmp_path: Path) -> None:
    output = tmp_path / "records.jsonl"
    command = [sys.executable, "-m", "anomaly_daemon", *SENSORS, "--duration", "9d", "--rate", "2000/s", "--output", str(output)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 20
    while (not output.exists() or output.stat().st_size < 50_000) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=20)

    assert process.returncode == 130
    assert "stopped before the end" in told
    assert output.read_bytes().endswith(b"}\n")
    assert f"{len(lines(output)):,} records" in told
