"""What an alert tells of features that are several columns to the network."""

from __future__ import annotations

import json
from contextlib import closing

import numpy as np
import pytest

from anomaly_daemon import wiring
from anomaly_daemon.domain.errors import SettingsError
from anomaly_daemon.domain.records import Batch, Record
from anomaly_daemon.model.corpus import EntitySequence
from anomaly_daemon.model.fitting import fit
from anomaly_daemon.pipeline.features import FeatureTransforms
from tests.alert_cases import validate
from tests.small import P, settings

BITS = "record.features=[{name: flow}, {name: merchant, kind: category, bits: 4}]"


def test_the_bits_of_a_category_are_one_feature_of_an_alert_with_the_sum_of_their_shares() -> None:
    given = settings(BITS, "evidence.channels=[prediction]")
    generator = np.random.default_rng(0)
    values = np.column_stack([generator.normal(size=240), np.zeros((240, 2)), np.where(generator.random((240, 4)) < 0.5, 1, -1)])
    artifact = fit([EntitySequence("pump-0", values.astype(np.float32), np.full(240, 60.0))], given, FeatureTransforms(given.record.features).names)
    bodies = [{"flow": 9.0 * (step > 60), "merchant": "a" if step % 2 else "b", "time": 1_700_000_000 + 60 * step} for step in range(80)]
    processor, _, _ = wiring.build_processor(given, artifact)
    with closing(processor):
        processor.begin(P)
        output = processor.process(Batch([Record(P, step, 0, b"pump-0", json.dumps(body).encode()) for step, body in enumerate(bodies)]), {})

    assert output.alerts
    for alert in output.alerts:
        validate(alert.body)
        told = {one["feature"]: one for one in alert.body["features"]}
        assert list(told) == ["flow", "merchant_rarity", "merchant_new", "merchant"]
        assert sum(one["contribution"] for one in told.values()) == pytest.approx(1)
        assert told["merchant"]["contribution"] > 0
        assert {told["merchant"][key] for key in ("actual", "expected", "lower", "upper")} == {None}
        assert not told["merchant"]["imputed"]
        assert all(point["actual"][3] is None and point["actual"][0] is not None for point in alert.body["window"])


def test_a_feature_named_as_the_bits_of_another_are_told_is_refused() -> None:
    with pytest.raises(SettingsError, match="feature names must differ: merchant stands twice"):
        settings("record.features=[{name: merchant, kind: category, path: shop, bits: 2}, {name: merchant}]")
