import numpy as np
import pytest
import torch
from river import anomaly, stats

from anomaly_daemon.domain.errors import SettingsError
from anomaly_daemon.settings import Threshold as ThresholdSettings
from anomaly_daemon.thresholds.river import RiverThreshold
from tests.slab_rows import fresh_rows, vector


def scores(n: int = 200) -> list[float]:
    return list(np.random.default_rng(0).exponential(size=n))


def step(threshold: RiverThreshold, rows: dict[str, torch.Tensor], *score: float, weight: float = 1.0) -> tuple[list[float], list[bool], list[float]]:
    judgement = threshold.judge(rows, vector(*score))
    threshold.learn(rows, vector(*score), torch.full((len(score),), weight, dtype=torch.float64), judgement)
    rows["observations"] += 1
    return judgement.threshold.tolist(), judgement.is_anomaly.tolist(), judgement.tail[0].tolist()


def river(method: str, **parameters: float | str) -> RiverThreshold:
    return RiverThreshold(ThresholdSettings(method=f"river:{method}", parameters=parameters))


def test_a_supervised_detector_decides_as_river_itself() -> None:
    threshold, reference = river("anomaly.GaussianScorer", grace_period=20), anomaly.GaussianScorer(grace_period=20)
    rows = fresh_rows((), level=0.9)

    for score in scores():
        _, is_anomaly, tail = step(threshold, rows, score)

        assert is_anomaly == [reference.score_one({}, score) >= 0.9 and tail[0] <= 0.5]
        reference.learn_one({}, score)


def test_an_unsupervised_detector_decides_as_river_itself_with_a_seed_of_zero() -> None:
    threshold, reference = (
        river("anomaly.HalfSpaceTrees", n_trees=5, height=3, window_size=20),
        anomaly.HalfSpaceTrees(n_trees=5, height=3, window_size=20, seed=0),
    )
    rows = fresh_rows((), level=0.7)
    flags = []

    for score in scores():
        x = {"score": score / (1 + score)}
        _, is_anomaly, tail = step(threshold, rows, score)
        flags += is_anomaly

        assert flags[-1] == (reference.score_one(x) >= 0.7 and tail[0] <= 0.5)
        reference.learn_one(x)
    assert True in flags
    assert False in flags


@pytest.mark.parametrize(
    ("method", "parameters", "reference"),
    [
        ("stats.RollingQuantile", {"q": 0.9, "window_size": 30}, stats.RollingQuantile(0.9, 30)),
        ("stats.RollingQuantile", {}, stats.RollingQuantile(0.999, 2000)),
        ("stats.Quantile", {"q": 0.8}, stats.Quantile(0.8)),
        ("stats.Max", {}, stats.Max()),
    ],
)
def test_a_statistic_is_the_threshold(method: str, parameters: dict[str, float], reference: stats.base.Univariate) -> None:
    threshold = river(method, **parameters)
    rows = fresh_rows(())
    step(threshold, rows, 1.0)
    reference.update(1.0)

    for score in scores():
        beyond, is_anomaly, _ = step(threshold, rows, score)

        assert beyond == [reference.get()]
        assert is_anomaly == [score > reference.get()]
        reference.update(score)


def test_a_filter_classifies_by_itself_and_its_detector_is_named() -> None:
    threshold = river("anomaly.QuantileFilter", anomaly_detector="anomaly.StandardAbsoluteDeviation", q=0.95)
    reference = anomaly.QuantileFilter(anomaly.StandardAbsoluteDeviation(), q=0.95)
    rows = fresh_rows(())
    flags = []

    for score in scores():
        _, is_anomaly, tail = step(threshold, rows, score)
        flags += is_anomaly

        assert flags[-1] == (reference.classify(reference.score_one({}, score)) and tail[0] <= 0.5)
        reference.learn_one({}, score)
    assert True in flags


def test_a_score_lower_than_usual_is_no_anomaly_to_a_two_sided_detector() -> None:
    threshold = river("anomaly.GaussianScorer", grace_period=20)
    rows = fresh_rows((), level=0.9)
    for score in np.random.default_rng(1).normal(5.0, 0.1, 100):
        step(threshold, rows, float(score))

    assert step(threshold, rows, 0.0)[1] == [False]
    assert step(threshold, rows, 10.0)[1] == [True]


def test_the_threshold_reported_is_consistent_with_the_decision() -> None:
    threshold = river("anomaly.GaussianScorer", grace_period=20)
    rows = fresh_rows((), level=0.9)

    for score in scores():
        beyond, is_anomaly, _ = step(threshold, rows, score)

        assert (beyond[0] <= score) if is_anomaly[0] else (beyond[0] >= score)


def test_each_entity_has_its_own_estimator_and_one_never_seen_starts_anew() -> None:
    threshold = river("stats.Max")
    rows = fresh_rows((), entities=2)
    step(threshold, rows, 5.0, 1.0)

    assert step(threshold, rows, 2.0, 2.0)[1] == [False, True]

    rows["observations"][0] = 0  # the slot went to another entity
    assert threshold.judge(rows, vector(2.0, 2.0)).threshold.tolist() != [5.0, 2.0]


def test_a_suspect_score_is_not_learned() -> None:
    threshold = river("stats.Max")
    rows = fresh_rows(())
    step(threshold, rows, 1.0)
    step(threshold, rows, 7.0, weight=0.1)

    assert step(threshold, rows, 1.5)[0] == [1.0]


def test_tail_probability_is_the_rank_among_the_last_scores() -> None:
    threshold = river("stats.Max")
    rows = fresh_rows(())
    for score in range(1000):
        step(threshold, rows, float(score))

    assert threshold.judge(rows, vector(998.5)).tail[0].item() == 2 / 257
    assert threshold.judge(rows, vector(0.0)).tail[0].item() == 1.0


def test_its_state_cannot_be_checkpointed() -> None:
    threshold = river("stats.Max")

    assert threshold.columns() == ()
    assert not threshold.is_checkpointable


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("anomaly.GausianScorer", r"did you mean `river:anomaly.GaussianScorer`\?"),
        ("anomaly", "neither an anomaly detector nor a quantile estimator of river; name a detector or filter of river.anomaly"),
        ("os.system", "neither an anomaly detector"),
        ("compat.SKL2RiverRegressor", "neither an anomaly detector"),
        ("stats.base.Univariate", "neither an anomaly detector"),
        ("stats.Mean", "neither an anomaly detector nor a quantile estimator"),
        ("stats.Cov", "neither an anomaly detector nor a quantile estimator"),
    ],
)
def test_what_is_no_estimator_of_river_is_refused(method: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        river(method)


@pytest.mark.parametrize(
    ("method", "parameters", "message"),
    [
        ("anomaly.GaussianScorer", {"grace": 3}, "unexpected keyword argument 'grace'.*it is made by GaussianScorer.*grace_period=100"),
        ("stats.RollingQuantile", {"q": 7.0}, "not comprised between 0 and 1"),
        ("anomaly.QuantileFilter", {"anomaly_detector": "anomaly.Nothing", "q": 0.9}, "neither an anomaly detector"),
        ("anomaly.QuantileFilter", {"q": 0.9}, "missing 1 required positional argument: 'anomaly_detector'"),
    ],
)
def test_wrong_parameters_are_refused_with_the_words_of_river(method: str, parameters: dict[str, float | str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        river(method, **parameters)
