from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from anomaly_daemon import settings as settings_of
from anomaly_daemon.domain.entity import EntityMatcher
from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.model.artifact import Artifact
from anomaly_daemon.model.corpus import EntitySequence
from anomaly_daemon.model.fitting import fit

ENTITIES = ("pump-1", "pump-2", "fan[3]", "fan-4")
SMALL = ("model.hidden=6", "model.code=2", "training.epochs=1", "training.steps=20", "engine.device=cpu")
PER_ENTITY, SHARED = ("model.per=entity",), ("model.per=entity", "model.network=shared")
PER_GROUP = ("model.per=group", "model.groups=['pump-*', '*-[24]', 'valve-*']")


def sequence(entity: str, number: int, rows: int = 60) -> EntitySequence:
    """Waves on a level of the entity's own."""
    values = np.sin(np.arange(rows)[:, None] / np.array([2.0, 5.0]) + number) + 3 * number
    return EntitySequence(entity, values.astype(np.float32), np.full(rows, 60.0))


SEQUENCES = tuple(sequence(entity, number) for number, entity in enumerate(ENTITIES))


def fitted(*assignments: str, sequences: tuple[EntitySequence, ...] = SEQUENCES) -> Artifact:
    return fit(sequences, settings_of.load((), (*SMALL, *assignments), {}), ("flow", "pressure"))


@cache
def once(*assignments: str) -> Artifact:
    return fitted(*assignments)


def weights(artifact: Artifact) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in artifact.model.state_dict().values()]


def test_without_further_wishes_there_is_one_model_for_all() -> None:
    assert once().own == ()
    assert once().history.entities == len(ENTITIES)


@pytest.mark.parametrize("wishes", [PER_ENTITY, SHARED])
def test_a_model_per_entity_serves_that_entity_whatever_signs_its_name_holds(wishes: tuple[str, ...]) -> None:
    own = once(*wishes).own

    assert [[entity for entity in ENTITIES if EntityMatcher(match).compiled().match(entity)] for match, _ in own] == [[entity] for entity in ENTITIES]
    assert [one.history.entities for _, one in own] == [1] * len(ENTITIES)
    assert not any(one.own for _, one in own)


def test_an_own_model_is_the_one_that_its_entity_alone_would_give() -> None:
    for number, (_, own) in enumerate(once(*PER_ENTITY).own):
        assert own.fingerprint == fitted(sequences=SEQUENCES[number : number + 1]).fingerprint


def test_the_fleets_model_is_the_same_with_and_without_others_beside_it() -> None:
    fleet = once(*PER_ENTITY)

    assert weights(fleet) == weights(once())
    assert (fleet.calibration, fleet.history) == (once().calibration, once().history)


def test_a_group_is_fitted_on_the_entities_that_fit_no_earlier_pattern_and_an_empty_one_has_no_model() -> None:
    own = once(*PER_GROUP).own

    assert [match for match, _ in own] == ["pump-*", "*-[24]"]
    assert own[0][1].fingerprint == fitted(sequences=SEQUENCES[:2]).fingerprint
    assert own[1][1].fingerprint == fitted(sequences=SEQUENCES[3:]).fingerprint


def test_a_shared_network_is_the_same_for_all_and_what_is_usual_is_their_own() -> None:
    artifact = once(*SHARED)

    assert all(weights(one) == weights(artifact) for one in artifact.all)
    assert len({float(one.scale.center[0]) for one in artifact.all}) == len(artifact.all)
    assert len({one.calibration["level"] for one in artifact.all}) == len(artifact.all)
    assert len({tuple(one.prediction_level.tolist()) for one in artifact.all}) == len(artifact.all)


def test_entities_too_short_for_a_model_are_served_by_the_fleets() -> None:
    short = sequence("pump-9", 1, rows=11)

    artifact = fitted(*PER_ENTITY, sequences=(*SEQUENCES[:1], short))

    assert [match for match, _ in artifact.own] == ["pump-1"]
    assert artifact.history.entities == 2


@pytest.mark.parametrize("wishes", [PER_ENTITY, SHARED])
def test_where_all_are_too_short_nothing_is_trained_and_the_remedy_told(wishes: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="at least one must have 12: widen --from"):
        fitted(*wishes, sequences=(sequence("pump-1", 1, rows=11),))


@pytest.mark.parametrize(
    ("wishes", "told"),
    [((), ["*"]), (PER_ENTITY, ["*", "pump-1", "pump-2", "fan[[]3]", "fan-4"]), (SHARED, ["*"]), (PER_GROUP, ["*", "pump-*", "*-[24]"])],
)
def test_progress_names_the_model_under_way(wishes: tuple[str, ...], told: list[str]) -> None:
    matches: list[str] = []

    fit(SEQUENCES, settings_of.load((), (*SMALL, *wishes), {}), ("flow", "pressure"), lambda match, _: matches.append(match))

    assert list(dict.fromkeys(matches)) == told


def test_the_same_sequences_give_the_same_bytes_for_every_model() -> None:
    assert fitted(*PER_ENTITY).fingerprint == once(*PER_ENTITY).fingerprint


def test_every_channel_of_every_model_is_calibrated_by_finite_numbers() -> None:
    for one in once(*PER_ENTITY).all:
        assert {"prediction", "reconstruction", "residual", "level"} <= one.calibration.keys()
        assert np.isfinite(list(one.calibration.values())).all()
        assert all(torch.isfinite(part).all() for chart in (one.level, one.residual) for part in (chart.whitening, chart.ordinary))


def test_of_a_category_its_rarity_alone_is_charted() -> None:
    rows = 60
    values = np.column_stack([np.sin(np.arange(rows) / 2), np.arange(rows) % 3, np.arange(rows) < 3, np.tile([-1, 1], rows // 2), np.ones(rows)])
    features = "record.features=[{name: flow}, {name: shop, kind: category, bits: 2}]"
    names = ("flow", "shop_rarity", "shop_new", "shop_bit_1", "shop_bit_2")
    artifact = fit([EntitySequence("pump-1", values.astype(np.float32), np.full(rows, 60.0))], settings_of.load((), (*SMALL, features), {}), names)

    for chart in (artifact.level, artifact.residual, artifact.linear_chart):
        assert (chart.whitening.diagonal(dim1=1, dim2=2) > 0).tolist() == [[True, True, False, False, False]] * len(chart.spans)
        assert not chart.whitening[:, 2:].any()
        assert not chart.whitening[:, :, 2:].any()
