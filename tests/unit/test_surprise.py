from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from anomaly_daemon import wiring
from anomaly_daemon.domain.errors import ArtifactError, SettingsError
from anomaly_daemon.model.artifact import load, save
from anomaly_daemon.model.corpus import Corpus, EntitySequence, build
from anomaly_daemon.model.fitting import fit
from anomaly_daemon.model.scaling import FleetScale
from anomaly_daemon.model.surprise import EVERYDAY, SURPRISE_MAX, SurpriseFit, directions, fit_surprise, gaps_s
from anomaly_daemon.settings import Feature, Settings
from anomaly_daemon.state.segments import lay_out
from anomaly_daemon.statistics.ordered import summed
from anomaly_daemon.statistics.recent import RecentSums
from tests import small
from tests.slab_rows import fresh_rows

ALONE = "evidence.channels=[surprise]"
FEATURES = (
    Feature(name="amount"),
    Feature(name="pace", kind="elapsed"),
    Feature(name="hour", kind="unusual_time", period="hour_of_day"),
    Feature(name="shop", kind="category"),
    Feature(name="time", kind="cyclic", period="hour_of_day"),
    Feature(name="sort", kind="category", context=True),
)
NAMES = tuple(name for feature in FEATURES for name in feature.columns)


def beyond(surprise: float) -> float:
    """What a feature of so much surprise adds up to."""
    return math.log1p(math.exp(surprise - EVERYDAY))


def fitted(values: np.ndarray, *, is_evidence: torch.Tensor | None = None) -> tuple[SurpriseFit, torch.Tensor, Corpus]:
    settings = Settings(model={"scale": "fleet"})
    rows = values.astype(np.float32)
    corpus, scale = build([EntitySequence("one", rows, np.full(len(rows), 60.0))], settings)
    wanted = torch.ones(2, rows.shape[1], dtype=torch.bool) if is_evidence is None else is_evidence
    fit, errors = fit_surprise(corpus, scale, settings.evidence.surprise.half_lives, wanted)
    return fit, errors, corpus


def test_recent_sums_are_those_of_a_loop_over_records() -> None:
    generator = np.random.default_rng(0)
    entities, added, gaps = generator.integers(0, 5, 200), generator.exponential(size=200), generator.exponential(500.0, 200)
    sums = RecentSums("x", (60.0, 3600.0))
    layout = lay_out(entities)
    found = sums.advance(
        layout.widths.tolist(), fresh_rows(sums.columns, 5), torch.from_numpy(added[layout.order]), torch.from_numpy(gaps[layout.order])
    )

    held = np.zeros((5, 2))
    wanted = np.empty((200, 3))
    for row, entity in enumerate(entities):
        for number, half_life_s in enumerate((60.0, 3600.0)):
            held[entity, number] = held[entity, number] * 0.5 ** (gaps[row] / half_life_s) + added[row]
        wanted[row] = added[row], *held[entity]
    assert found.numpy() == pytest.approx(wanted[layout.order], rel=1e-12)


def test_what_is_strange_in_one_direction_only_is_no_evidence_in_the_other() -> None:
    nominal = {column for feature in FEATURES for column in feature.nominal}
    up, down = directions(FEATURES, NAMES, torch.tensor([not name.startswith(("time", "sort")) and name not in nominal for name in NAMES])).tolist()

    assert NAMES == ("amount", "pace", "hour", "shop_rarity", "shop_new", "time_sin", "time_cos", "sort_rarity", "sort_new")
    assert up == [True, False, True, True, False, False, False, False, False]
    assert down == [True, True, False, False, False, False, False, False, False]


def test_a_value_surprises_by_the_share_of_ordinary_ones_that_go_as_far() -> None:
    fit, _, corpus = fitted(np.random.default_rng(0).normal(size=(20_000, 1)))
    place = np.quantile(corpus.values.numpy(), 0.99)

    ((far,), (middle,), (beyond_all,), (missing,)) = fit.terms(torch.tensor([[place], [0.0], [9.0], [torch.nan]])).tolist()

    assert far == pytest.approx(beyond(-math.log(2 * 0.01)), abs=0.1)  # one in fifty goes as far in either direction
    assert middle == pytest.approx(beyond(0.0), abs=0.01)
    assert beyond_all > beyond(15)
    assert missing == 0


def test_no_feature_says_more_than_the_most_and_what_training_never_saw_says_nothing() -> None:
    values = np.full((200, 2), np.nan)
    values[:, 0] = 5.0
    fit, errors, _ = fitted(values)

    constant, unseen = fit.terms(torch.tensor([[10.0, 10.0]]))[0].tolist()

    assert constant == pytest.approx(beyond(SURPRISE_MAX - math.log(2)), abs=2)
    assert unseen == pytest.approx(beyond(0.0))
    assert torch.isfinite(errors).all()


def test_the_features_of_few_records_are_not_taken_for_all_there_is() -> None:
    fit, _, corpus = fitted(np.random.default_rng(1).normal(size=(60, 1)))
    greatest = corpus.values.max()

    assert fit.terms(torch.stack([greatest, greatest + 0.3])[:, None]).flatten().diff().item() < 3


def test_ordinary_sums_have_an_error_of_about_one_in_each_part() -> None:
    fit, errors, _ = fitted(np.random.default_rng(0).normal(size=(5000, 3)))
    parts = 1 + len(fit.half_lives_s)

    assert fit.error(fit.ordinary[None]).item() == pytest.approx(2**parts - 1)
    assert (errors > 2**parts - 1).float().mean() < 0.02
    assert len(errors) == 5000 // 6


def test_the_sum_of_terms_is_theirs() -> None:
    assert summed(torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 0.5]])).tolist() == [7.0, 0.5]


def test_a_model_whose_channels_do_not_ask_the_network_leaves_it_untrained_and_says_so(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    sequences = [EntitySequence("pump-0", small.signal(generator, 240, 0), np.full(240, 60.0))]
    save(fit(sequences, small.settings(ALONE), small.NAMES), tmp_path)
    artifact = load(tmp_path)

    assert artifact.history.best_epoch == 0
    assert artifact.history.training_losses == ()
    assert not {"prediction", "reconstruction", "residual"} & set(artifact.calibration)
    wiring.build_processor(small.settings(ALONE), artifact)[0].close()
    with pytest.raises(ArtifactError, match=r"evidence\.channels: prediction, residual: the artifact was trained without.*train again"):
        wiring.build_processor(small.settings("evidence.channels=[prediction, level, residual]"), artifact)


@pytest.mark.parametrize("half_lives", ["[]", "[1h, 10m]", "[1h, 1h]", "['0', 1h]", "[1s, 2s, 3s, 4s, 5s, 6s, 7s, 8s, 9s]"])
def test_half_lives_that_do_not_rise_or_are_too_many_are_refused(half_lives: str) -> None:
    with pytest.raises(SettingsError, match="half_lives must rise, each longer than 0, 8 at most"):
        small.settings(f"evidence.surprise={{half_lives: {half_lives}}}")


def test_a_gap_that_is_unknown_counts_as_an_ordinary_one() -> None:
    scale = FleetScale(np.zeros(1), np.ones(1), math.log1p(60.0), 0.5)
    gaps = torch.from_numpy(scale.gap(np.array([60.0, 600.0, np.nan, -5.0])))

    assert gaps_s(gaps, scale).tolist() == pytest.approx([60.0, 600.0, 60.0, math.expm1(math.log1p(60.0) - 2.5)], rel=1e-5)
