from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from anomaly_daemon import wiring
from anomaly_daemon.channels.models import Models
from anomaly_daemon.domain.records import Alert, Batch, Record
from anomaly_daemon.model.artifact import Artifact
from anomaly_daemon.settings.evidence import ChannelName
from tests import small

LENGTH = 240
OWN = "model.per=entity"
STRANGER = "pump-5"  # the small detector was trained on pump-0 to pump-3


@cache
def artifact(*assignments: str) -> Artifact:
    return small.artifact(OWN, *assignments)


def judged(
    served: Artifact, records: Sequence[Record], *assignments: str, cuts: Sequence[int] = ()
) -> tuple[dict[str, NDArray[np.float64]], list[Alert]]:
    """Numbers of each record in log order, by name, and the alerts."""
    built, _, _ = wiring.build_processor(small.settings(*assignments), served)
    built.begin(small.P)
    with closing(built):
        outputs = [built.process(Batch(records[first:last]), {}) for first, last in itertools.pairwise((0, *cuts, len(records)))]
    parts = [output.scored.scores for output in outputs if output.scored is not None]
    assert [record.offset for output in outputs if output.scored for record in output.scored.observations.records] == [one.offset for one in records]
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("anomaly_score", "tail_probability", "threshold", "grade")}
    evidence = {name: np.concatenate([part.evidence[name] for part in parts]) for name in parts[0].evidence}
    return columns | evidence, [alert for output in outputs for alert in output.alerts]


def of(entity: str, records: Sequence[Record]) -> list[int]:
    return [place for place, record in enumerate(records) if record.key == entity.encode()]


@pytest.mark.parametrize("shared", [(), ("model.network=shared",)], ids=["own networks", "one network"])
def test_each_entity_gets_what_the_model_that_serves_it_alone_would_give(shared: tuple[str, ...]) -> None:
    every = artifact(*shared)
    by_entity = {f"pump-{number}": own for number, (_, own) in enumerate(every.own)}
    records = small.stream(1, 6, LENGTH)

    found, alerts = judged(every, records, small.EVERY_CHANNEL, cuts=(1, 2, 50, 90))

    assert alerts
    for entity in (*by_entity, STRANGER):
        places = of(entity, records)
        expected, own_alerts = judged(by_entity.get(entity, replace(every, own=())), [records[place] for place in places], small.EVERY_CHANNEL)
        assert {name: column[places].tobytes() for name, column in found.items()} == {name: column.tobytes() for name, column in expected.items()}
        said = [alert.body["features"] for alert in alerts if alert.entity == entity]
        assert said == [alert.body["features"] for alert in own_alerts]


def test_models_of_their_own_say_something_else_than_the_fleets() -> None:
    records = small.stream(1, 6, LENGTH)
    found, fleets = judged(artifact(), records)[0], judged(replace(artifact(), own=()), records)[0]

    is_equal = np.isclose(found["level"], fleets["level"], equal_nan=True)

    assert is_equal[of(STRANGER, records)].all()
    assert not is_equal[of("pump-1", records)].all()


def test_the_first_pattern_that_fits_chooses_the_model_and_none_the_fleets() -> None:
    every = artifact()
    patterned = replace(every, own=tuple(zip(("pump-1?", "pump-*"), (own for _, own in every.own[:2]), strict=True)))

    models = Models(patterned, small.settings(), "cpu")

    assert models.of(["pump-1", "pump-12", "fan-12", "pump-1"]).tolist() == [2, 1, 0, 2]
    assert Models(replace(every, own=()), small.settings(), "cpu").of(["pump-1", "fan"]).tolist() == [0, 0]


@pytest.mark.parametrize("channels", [*(f"evidence.channels=[{name}]" for name in get_args(ChannelName)), small.EVERY_CHANNEL])
def test_shares_of_features_and_of_channels_in_an_alert_sum_to_one_and_the_faulty_one_leads_whatever_channels_are_at_work(channels: str) -> None:
    records = small.stream(1, 4, 480)
    begin = of("pump-2", records)[85]  # from there its pressure is shifted

    _, alerts = judged(artifact(), records, channels)

    for alert in alerts:
        for parts in ("features", "channels"):
            shares = [one["contribution"] for one in alert.body[parts]]
            assert min(shares) >= 0
            assert sum(shares) == pytest.approx(1.0)
    told = next(alert for alert in alerts if alert.entity == "pump-2" and alert.transition.value != "closed" and alert.offset >= begin)
    assert max(told.body["features"], key=lambda feature: feature["contribution"])["feature"] == "pressure"
