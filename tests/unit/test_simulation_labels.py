from __future__ import annotations

import io
from pathlib import Path

import pytest

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.simulation.labels import Ledger, Span, compare, read_labels
from anomaly_daemon.simulation.stream import SECOND_US, Label

SPIKE = Label("pump-1", 10 * SECOND_US, 12 * SECOND_US, "spike", ("flow", "current"))
SILENCE = Label("pump-2", 20 * SECOND_US, 40 * SECOND_US, "silence", ())


def written(tmp_path: Path, ledger_file: io.StringIO) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text(ledger_file.getvalue())
    return path


def test_labels_come_back_from_the_file_as_they_were(tmp_path: Path) -> None:
    file = io.StringIO()
    ledger = Ledger(file)
    ledger.add([SILENCE, SPIKE])
    ledger.finish(60 * SECOND_US)

    assert read_labels(written(tmp_path, file)) == [SPIKE, SILENCE]
    assert ledger.kinds == {"spike": 1, "silence": 1}


def test_a_label_is_written_only_after_its_last_record() -> None:
    file = io.StringIO()
    ledger = Ledger(file)
    ledger.add([SPIKE])
    ledger.settle(SPIKE.end_us)
    assert ledger.kinds.total() == 0

    ledger.settle(SPIKE.end_us + 1)
    assert file.getvalue().splitlines()[1:] == ["pump-1,1970-01-01T00:00:10Z,1970-01-01T00:00:12Z,spike,flow current"]


def test_an_interruption_cuts_the_label_under_way_and_drops_those_not_begun(tmp_path: Path) -> None:
    file = io.StringIO()
    ledger = Ledger(file)
    later = Label("pump-3", 50 * SECOND_US, 55 * SECOND_US, "drift", ("flow",))
    ledger.add([SILENCE, later])
    ledger.finish(30 * SECOND_US)

    assert read_labels(written(tmp_path, file)) == [Label("pump-2", 20 * SECOND_US, 30 * SECOND_US, "silence", ())]


@pytest.mark.parametrize(
    "text", ["a,b\n1,2\n", "entity,start,end,kind,channels\npump,yesterday,now,spike,flow\n", "entity,start,end,kind,channels\npump\n"]
)
def test_a_file_that_holds_no_labels_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.csv"
    path.write_text(text)

    with pytest.raises(InputError, match=r"other\.csv: not a labels file"):
        read_labels(path)


def test_labels_and_announced_spans_meet_where_they_overlap_on_the_same_entity() -> None:
    touching = Span("pump-1", 12 * SECOND_US, 15 * SECOND_US)
    elsewhere = Span("pump-2", 10 * SECOND_US, 15 * SECOND_US)

    comparison = compare([SPIKE, SILENCE], [touching, elsewhere])

    assert comparison.found == [SPIKE]
    assert comparison.missed == [SILENCE]
    assert comparison.false == [elsewhere]


def test_grace_lets_late_evidence_count() -> None:
    late = Span("pump-1", 14 * SECOND_US, 15 * SECOND_US)

    assert compare([SPIKE], [late]).missed == [SPIKE]
    assert compare([SPIKE], [late], grace_us=2 * SECOND_US).found == [SPIKE]
