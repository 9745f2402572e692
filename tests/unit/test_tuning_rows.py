from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anomaly_daemon import wiring
from anomaly_daemon.domain.records import Partition
from anomaly_daemon.evaluation.scores import ScoreFile
from anomaly_daemon.evaluation.tuning.choice import Choice
from anomaly_daemon.evaluation.tuning.incidents import FoundIncident
from anomaly_daemon.evaluation.tuning.rows import KeptRows, keep_rows
from anomaly_daemon.evaluation.tuning.solve import Range, Trial
from tests import small, tuning_cases

NEVER_US = 1 << 60


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = small.stream(1, 6, 1500) + small.stream(2, 6, 900, partition=Partition("readings", 1))
    return tuning_cases.export(tmp_path_factory.mktemp("scores") / "scores.parquet", records, small.settings())


def kept(path: Path, floor: float, rows_max: int = 1_000_000) -> KeptRows:
    with ScoreFile(path) as file:
        return keep_rows(file, "z", floor, 20, NEVER_US, rows_max)


def incidents(rows: KeptRows, z: float) -> list[FoundIncident]:
    settings = small.settings("incidents.cooldown=20m", "incidents.trigger={count: 2, of: 5}")
    trial = Trial(Range.of(rows, 0.6), settings, "z", wiring.build_rules)
    found = trial.whole(Choice(z, settings.incidents.trigger, settings.incidents.recovery, settings.incidents.cooldown))
    assert found is not None
    return found


def test_keeping_fewer_rows_changes_no_incident_above_the_floor(scores: Path) -> None:
    everything, few = kept(scores, -100.0), kept(scores, 2.5)

    assert len(few.value) < len(everything.value)
    assert len(incidents(everything, 2.5)) > 5
    for z in (2.5, 3.0, 4.5):
        assert incidents(few, z) == incidents(everything, z)


def test_the_floor_rises_where_more_rows_would_be_kept_than_there_is_room_for(scores: Path) -> None:
    everything, few = kept(scores, -100.0), kept(scores, 0.5, rows_max=700)

    assert len(few.value) <= 700
    assert few.floor > 0.5
    assert incidents(few, few.floor) == incidents(everything, few.floor) != []
    assert few.judged == everything.judged == len(everything.value)


def test_times_of_rows_left_out_are_remembered(scores: Path) -> None:
    everything, few = kept(scores, -100.0), kept(scores, 3.0)

    for place in range(1, len(few.value)):
        own = (everything.stream == few.stream[place]) & (everything.ordinal < few.ordinal[place])
        if few.stream[place] == few.stream[place - 1]:
            own &= everything.ordinal > few.ordinal[place - 1]
        left_out = everything.time_us[own]
        assert few.unseen_us[place] == (left_out.max() if len(left_out) else np.iinfo(np.int64).min)


def test_a_cooldown_that_a_record_ended_stays_ended_for_a_late_one(tmp_path: Path) -> None:
    rules = ("incidents.trigger={count: 1, of: 1}", "incidents.recovery={count: 1, of: 1}", "incidents.cooldown=30m", "threshold.z=1.5")
    records = tuning_cases.late(small.stream(9, 4, 1500), 3, 2400)
    rows = kept(tuning_cases.export(tmp_path / "scores.parquet", records, small.settings(*rules)), 1.5)
    trial = Trial(Range.of(rows, 0.6), small.settings(*rules), "z", wiring.build_rules)

    found = trial.whole(Choice.present(small.settings(*rules), "z")) or []

    told = {(one.incident_id, rows.entities[one.stream], one.first_offset, one.closing_offset) for one in found}
    assert told == tuning_cases.incidents(records, small.settings(*rules)) != set()
