"""Whatever stands in a record: every channel says a finite number or nothing, and only finite numbers are kept."""

from __future__ import annotations

import json
from contextlib import closing
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomaly_daemon import settings as settings_of
from anomaly_daemon import wiring
from anomaly_daemon.domain.records import Batch, Record
from anomaly_daemon.model.artifact import Artifact
from anomaly_daemon.model.corpus import EntitySequence
from anomaly_daemon.model.fitting import fit
from tests.small import EVERY_CHANNEL, P, is_sound

ROWS = 120
wild = st.sampled_from([1e300, -1e300, 3.4e38, -3.4e38, 1e-310, 0.0, 1.0, None])
# What a column held in training: noise, one value throughout, two values, nothing at all.
COLUMNS = {"noise": 1.0, "constant": 0.0, "switch": None, "missing": float("nan")}


@cache
def trained(columns: tuple[str, ...], wishes: tuple[str, ...]) -> tuple[settings_of.Settings, Artifact]:
    features = ", ".join(f"{{name: f{number}}}" for number in range(len(columns)))
    small = (
        "model.hidden=4",
        "model.code=2",
        "training.epochs=1",
        "training.steps=20",
        "engine.ring=16",
        "threshold.warmup_observations=4",
        EVERY_CHANNEL,
    )
    wanted = settings_of.load((), (f"record.features=[{features}]", "record.time={path: time, format: s}", *small, *wishes), {})
    generator = np.random.default_rng(0)
    values = np.stack(
        [generator.normal(size=ROWS) * spread if spread is not None else np.arange(ROWS) % 2 for spread in map(COLUMNS.get, columns)], 1
    )
    sequence = EntitySequence("pump", values.astype(np.float32), np.full(ROWS, 60.0))
    return wanted, fit([sequence], wanted, [f"f{number}" for number in range(len(columns))])


@pytest.mark.parametrize(
    "wishes", [(), ("model.scale=fleet", "evidence.calibration=trained"), ("model.per=entity", "evidence.switches=false")], ids=str
)
@pytest.mark.parametrize("columns", [("noise",), ("constant",), ("missing",), ("noise", "constant", "switch", "missing")], ids=" ".join)
@settings(max_examples=10, deadline=None)
@given(rows=st.lists(st.lists(wild, min_size=4, max_size=4), min_size=10, max_size=30))
def test_evidence_and_state_are_finite_whatever_the_values(columns: tuple[str, ...], wishes: tuple[str, ...], rows: list[list[float | None]]) -> None:
    wanted, artifact = trained(columns, wishes)
    records = [
        Record(
            P, offset, 0, b"pump", json.dumps({f"f{number}": value for number, value in enumerate(row)} | {"time": 1_700_000_000 + offset}).encode()
        )
        for offset, row in enumerate(rows)
    ]
    built, fingerprint, _ = wiring.build_processor(wanted, artifact)
    with closing(built):
        built.begin(P)
        scored = built.process(Batch(records), {}).scored
        kept = built.snapshot(P, len(records), fingerprint).columns

    assert scored is not None
    scores = scored.scores
    for name, errors in scores.evidence.items():
        assert np.isfinite(errors[~np.isnan(errors)]).all(), name
        assert not (errors < 0).any(), name
    is_told = ~np.isnan(np.stack(list(scores.evidence.values()))).all(0)
    assert ((scores.anomaly_score >= 0) & (scores.anomaly_score <= 1)).tolist() == is_told.tolist()
    for name, column in kept.items():
        assert is_sound(name, column), name
