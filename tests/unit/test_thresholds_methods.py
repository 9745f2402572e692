import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from anomaly_daemon.domain.errors import SettingsError
from anomaly_daemon.settings import Threshold as ThresholdSettings
from anomaly_daemon.thresholds.base import Threshold
from anomaly_daemon.thresholds.registry import METHODS, build
from tests.slab_rows import fresh_rows, vector


def taught(threshold: Threshold, scores: list[float], weight: float = 1.0, **given: float) -> dict[str, torch.Tensor]:
    rows = fresh_rows(threshold.columns(), **given)
    for score in scores:
        threshold.learn(rows, vector(score), vector(weight), threshold.judge(rows, vector(score)))
        rows["observations"] += 1
    return rows


def usual_scores(n: int = 400) -> list[float]:
    return list(np.exp(np.random.default_rng(0).normal(-1.0, 0.5, n)))


def test_ewma_puts_the_threshold_z_deviations_above_the_mean_log_score_in_which_young_scores_count_less() -> None:
    threshold = build(ThresholdSettings(half_life=1e9, outliers="full"))
    scores = usual_scores()
    rows = taught(threshold, scores, z=3.0)
    logs, age = np.log(np.array(scores) + 1e-6), np.arange(1, len(scores) + 1)
    mean = np.average(logs, weights=age * (age + 1))
    deviation = math.sqrt(np.average((logs - mean) ** 2, weights=age * (age + 1)))

    judgement = threshold.judge(rows, vector(0.4))

    assert judgement.threshold.item() == pytest.approx(math.exp(mean + 3.0 * deviation) - 1e-6)
    assert judgement.deviations.item() == pytest.approx((math.log(0.4 + 1e-6) - mean) / deviation)


def test_ewma_z_may_differ_by_entity() -> None:
    threshold = build(ThresholdSettings())
    rows = fresh_rows(threshold.columns(), entities=2)
    rows["parameter.z"] = vector(2.0, 5.0)
    for score in usual_scores():
        threshold.learn(rows, vector(score, score), vector(1, 1), threshold.judge(rows, vector(score, score)))

    assert threshold.judge(rows, vector(1.5, 1.5)).is_anomaly.tolist() == [True, False]


def test_ewma_stands_about_z_deviations_above_the_mean_log_score() -> None:
    threshold = build(ThresholdSettings(half_life=1e9))
    judgement = threshold.judge(taught(threshold, usual_scores(4000), z=3.0), vector(0.4))

    assert math.log(judgement.threshold.item()) == pytest.approx(-1.0 + 3.0 * 0.5, abs=0.1)


def test_ewma_learns_a_suspect_score_in_full_as_if_it_were_the_threshold() -> None:
    threshold = build(ThresholdSettings(outliers="full"))
    wild, at_threshold = taught(threshold, usual_scores()), taught(threshold, usual_scores())
    limit = threshold.judge(wild, vector(1.0)).threshold

    threshold.learn(wild, vector(1e6), vector(0.1), threshold.judge(wild, vector(1e6)))
    threshold.learn(at_threshold, limit, vector(0.1), threshold.judge(at_threshold, limit))

    assert torch.equal(wild["threshold.variance"], at_threshold["threshold.variance"])
    assert torch.equal(wild["threshold.mean"], at_threshold["threshold.mean"])


def test_ewma_learns_no_more_of_a_wild_score_than_of_one_just_out_of_reach() -> None:
    threshold = build(ThresholdSettings())
    wild, odd = taught(threshold, usual_scores()), taught(threshold, usual_scores())

    for rows, score in ((wild, 1e6), (odd, 5.0)):
        threshold.learn(rows, vector(score), vector(0.1), threshold.judge(rows, vector(score)))

    assert torch.equal(wild["threshold.variance"], odd["threshold.variance"])
    assert torch.equal(wild["threshold.mean"], odd["threshold.mean"])


def test_ewma_of_constant_scores_leaves_them_a_tenth_of_room_a_deviation() -> None:
    threshold = build(ThresholdSettings())

    judgement = threshold.judge(taught(threshold, [0.5] * 300), vector(0.5))

    assert judgement.threshold.item() == pytest.approx(0.5 * math.exp(0.4), rel=1e-4)


def test_static_threshold_stands_where_the_anomaly_score_reaches_the_level() -> None:
    threshold = build(ThresholdSettings(method="static"))
    rows = fresh_rows(threshold.columns(), entities=3, level=0.8)

    judgement = threshold.judge(rows, vector(3.9, 4.1, 0.0))

    assert judgement.threshold.tolist() == pytest.approx([4.0] * 3)
    assert judgement.is_anomaly.tolist() == [False, True, False]


@pytest.mark.parametrize("method", ["spot", "quantile"])
def test_windows_flag_what_is_beyond_their_quantile(method: str) -> None:
    threshold = build(ThresholdSettings(method=method, tail=0.01, window=400))
    rows = taught(threshold, usual_scores())
    beyond = threshold.judge(rows, vector(0.0)).threshold.item()

    assert beyond == pytest.approx(np.quantile(usual_scores(), 0.99), rel=0.25)
    assert threshold.judge(rows, vector(beyond * 1.01)).is_anomaly.item()
    assert not threshold.judge(rows, vector(beyond * 0.99)).is_anomaly.item()


@pytest.mark.parametrize("method", METHODS)
def test_judging_changes_nothing_and_a_higher_score_is_never_more_probable(method: str) -> None:
    threshold = build(ThresholdSettings(method=method, tail=0.01, window=400))
    rows = taught(threshold, usual_scores())
    before = {name: column.clone() for name, column in rows.items()}

    tails = [threshold.tail_probability(*threshold.judge(rows, vector(score)).tail).item() for score in (0.0, 0.1, 0.5, 1.0, 5.0, 1e9)]

    assert tails == sorted(tails, reverse=True)
    assert 1e-4 <= tails[-1] <= 1 / 400
    assert 0.99 < tails[0] <= 1
    assert all(torch.equal(rows[name], column) for name, column in before.items())


@pytest.mark.parametrize("method", METHODS)
def test_a_judgement_is_not_a_view_that_learning_moves(method: str) -> None:
    threshold = build(ThresholdSettings(method=method, tail=0.01, window=400))
    rows = taught(threshold, usual_scores(399))
    judgement = threshold.judge(rows, vector(9.0))
    before = [part.clone() for part in (judgement.threshold, judgement.is_anomaly, *judgement.tail)]

    threshold.learn(rows, vector(9.0), vector(1), judgement)

    assert all(torch.equal(old, new) for old, new in zip(before, (judgement.threshold, judgement.is_anomaly, *judgement.tail), strict=True))


def test_unknown_method_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(SettingsError, match=r"threshold.method: 'ewmaa' does not exist; did you mean `ewma`\?"):
        build(ThresholdSettings(method="ewmaa"))


def test_unknown_method_near_none_is_refused_with_all_of_them() -> None:
    with pytest.raises(SettingsError, match=r"known: ewma, spot, quantile, static, river:MODULE.CLASS"):
        build(ThresholdSettings(method="zzz"))


def test_parameters_without_river_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"threshold.parameters: only river: methods take them, not 'ewma'"):
        build(ThresholdSettings(parameters={"q": 0.9}))


def test_a_tail_rarer_than_spot_claims_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"threshold.tail: 1e-05 is rarer than a window of scores can bear out; set it to 0.0001 or more"):
        build(ThresholdSettings(method="spot", tail=1e-5))


def test_a_tail_that_the_window_cannot_hold_is_refused_with_the_window_it_needs() -> None:
    with pytest.raises(SettingsError, match=r"set threshold.window to 10000 or more, or threshold.method to spot"):
        build(ThresholdSettings(method="quantile", tail=1e-4, window=2000))


def test_ewma_counts_outliers_within_reach_or_in_full() -> None:
    scores = [*usual_scores(3000), *[1e-6] * 300]
    bounded, full = (build(ThresholdSettings(outliers=outliers)) for outliers in ("bounded", "full"))

    first, second = (threshold.judge(taught(threshold, scores), vector(1.0)).threshold.item() for threshold in (bounded, full))

    assert math.log(first) < 1.5
    assert math.log(second) > 3


def guarded(threshold: Threshold, rows: dict[str, torch.Tensor], scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Scores [steps, entities] judged and learned, suspects at a tenth; which were anomalies."""
    found = []
    for score in torch.from_numpy(scores):
        judgement = threshold.judge(rows, score)
        threshold.learn(rows, score, torch.where(judgement.is_suspect, 0.1, 1.0).double(), judgement)
        found.append(judgement.is_anomaly.numpy())
    return np.array(found)


@pytest.mark.parametrize(("method", "ratio_max"), [("spot", 1.4), ("quantile", 2.0)])
def test_the_guard_neither_cuts_the_tail_off_nor_lets_a_short_incident_make_its_entity_deaf(method: str, ratio_max: float) -> None:
    """Suspects at a tenth and no more had these quantiles exceeded 2.6 and 8.8 times as often as they say."""
    entities, window = 40, 2000
    threshold = build(ThresholdSettings(method=method, window=window, tail=1e-3))
    rows = fresh_rows(threshold.columns(), entities=entities)
    rows["observations"] += 10_000
    calm = np.exp(0.3 * np.random.default_rng(1).normal(size=(3 * window, entities)))
    guarded(threshold, rows, calm[:window])

    ratio = guarded(threshold, rows, calm[window:]).mean() / 1e-3
    told = guarded(threshold, rows, np.full((50, entities), 6.0)).mean()
    told_again = guarded(threshold, rows, np.full((1, entities), 6.0)).mean()

    assert 0.6 < ratio < ratio_max
    assert told > 0.95
    assert told_again > 0.95
