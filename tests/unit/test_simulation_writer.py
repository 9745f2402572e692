from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.simulation.labels import Ledger
from anomaly_daemon.simulation.stream import SECOND_US, Chunk, Label
from anomaly_daemon.simulation.writer import SLEEP_MAX_S, FileOutput, produce
from tests.clock_by_hand import ClockByHand


class ListOutput:
    def __init__(self) -> None:
        self.chunks: list[Chunk] = []

    def write(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)

    def close(self) -> None:
        pass


def chunks(count: int, records: int) -> Iterator[Chunk]:
    for number in range(count):
        times_us = [(number * records + row) * SECOND_US for row in range(records)]
        labels = [Label("pump-1", times_us[0], times_us[-1], "drift", ("flow",))]
        values = [b'{"timestamp":"%d"}' % time_us for time_us in times_us]
        yield Chunk([b"pump-1"] * records, values, times_us, labels, times_us[-1] + SECOND_US)


def test_records_leave_at_the_rate_asked_for_in_bounded_sleeps() -> None:
    clock = ClockByHand()
    output = ListOutput()

    produced = produce(chunks(4, 25), output, Ledger(None), clock, per_second=10.0)

    assert produced.records == 100
    assert 9.8 <= clock.seconds <= 10.0
    assert clock.longest_sleep_s <= SLEEP_MAX_S
    assert max(len(chunk.keys) for chunk in output.chunks) == 1


def test_flat_out_never_waits() -> None:
    clock = ClockByHand()
    produce(chunks(3, 10), ListOutput(), Ledger(None), clock)

    assert clock.seconds == 0


def test_cutting_chunks_into_pieces_loses_nothing_and_keeps_the_order() -> None:
    output = ListOutput()
    ledger = Ledger(None)
    produce(chunks(2, 25), output, ledger, ClockByHand(), per_second=100.0)

    assert [value for piece in output.chunks for value in piece.values] == [value for chunk in chunks(2, 25) for value in chunk.values]
    assert ledger.kinds == {"drift": 2}


def test_stopping_leaves_whole_pieces_and_labels_of_no_more_than_was_written() -> None:
    output = ListOutput()
    file = io.StringIO()

    produced = produce(chunks(4, 25), output, Ledger(file), ClockByHand(), per_second=100.0, is_stopped=lambda: len(output.chunks) >= 4)

    assert not produced.is_whole
    assert produced.records == sum(len(chunk.keys) for chunk in output.chunks) == 35  # pieces of 10, 10, 5 and 10
    assert file.getvalue().splitlines()[1:] == [
        "pump-1,1970-01-01T00:00:00Z,1970-01-01T00:00:24Z,drift,flow",
        "pump-1,1970-01-01T00:00:25Z,1970-01-01T00:00:35Z,drift,flow",
    ]


@pytest.mark.parametrize("name", ["records.jsonl", "records.jsonl.gz"])
def test_lines_hold_the_key_beside_the_value_and_the_same_records_give_the_same_bytes(tmp_path: Path, name: str) -> None:
    def write(path: Path) -> bytes:
        path.parent.mkdir()
        output = FileOutput(path, "entity")
        for chunk in chunks(2, 3):
            output.write(chunk)
        output.close()
        return path.read_bytes()

    first, second = write(tmp_path / "one" / name), write(tmp_path / "two" / name)

    assert first == second
    lines = (gzip.decompress(first) if name.endswith(".gz") else first).splitlines()
    assert [json.loads(line) for line in lines] == [{"entity": "pump-1", "timestamp": str(second * SECOND_US)} for second in range(6)]


def test_a_file_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        FileOutput(tmp_path / "missing" / "records.jsonl", None)
