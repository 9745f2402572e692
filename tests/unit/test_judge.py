import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from anomaly_daemon.domain.errors import SettingsError
from anomaly_daemon.domain.records import Phase
from anomaly_daemon.settings import Threshold as ThresholdSettings
from anomaly_daemon.statistics.reach import NORMAL
from anomaly_daemon.statistics.score_prior import UNKNOWN, ScorePrior
from anomaly_daemon.thresholds.judge import MODEL, Judge
from tests.slab_rows import CHANNELS, Stream

PRIORS = {"prediction": (-0.2, 0.5), "reconstruction": (0.3, 0.25)}
SCORE_PRIOR = ScorePrior(-0.8, 0.12, UNKNOWN.quantiles)  # of `usual`
WARMUP = 32


def judge(method: str = "ewma", **given: Any) -> Judge:
    return Judge(ThresholdSettings(method=method, warmup_observations=WARMUP, **given), [PRIORS], given.get("half_life", 1440), SCORE_PRIOR)


def usual(n: int, seed: int = 0) -> NDArray[np.float64]:
    return np.exp(np.random.default_rng(seed).normal(0.0, 0.4, (n, 2)))


def one_entity(n: int) -> NDArray[np.int64]:
    return np.zeros(n, np.int64)


def test_the_first_score_is_the_sum_of_each_channel_over_the_level_of_its_prior() -> None:
    verdicts = Stream(judge()).feed(one_entity(1), np.array([[2.0, 3.0]]))
    levels = [math.exp(mean + 2.326 * NORMAL * math.sqrt(variance)) for mean, variance in PRIORS.values()]
    score = math.log1p(2.0 / levels[0]) + math.log1p(3.0 / levels[1])

    assert verdicts["anomaly_score"][0] == pytest.approx(score / (1 + score))


def test_each_channel_comes_to_be_calibrated_on_its_entity() -> None:
    stream = Stream(judge())
    evidence = usual(3000) * [3.0, 0.5]
    stream.feed(one_entity(3000), evidence)

    assert stream.state["calibration.mean"][0].tolist() == pytest.approx([math.log(3), math.log(0.5)], abs=0.05)
    assert stream.state["calibration.variance"][0].tolist() == pytest.approx([0.16, 0.16], rel=0.15)


def test_a_verdict_does_not_depend_on_what_its_own_record_teaches() -> None:
    evidence = usual(WARMUP + 8)
    taught, not_taught = Stream(judge()), Stream(judge(suspect_learning=0.0))
    taught.feed(one_entity(len(evidence)), evidence)
    not_taught.state = {name: column.clone() for name, column in taught.state.items()}
    wild = np.array([[1e4, 1e4]])

    with_fresh = taught.feed(one_entity(1), wild)
    without = not_taught.feed(one_entity(1), wild, np.zeros((1, 2), np.bool_))

    assert with_fresh["is_anomaly"].all()
    assert {name: column.tobytes() for name, column in with_fresh.items()} == {name: column.tobytes() for name, column in without.items()}
    assert not torch.equal(taught.state["threshold.mean"], not_taught.state["threshold.mean"])


@pytest.mark.parametrize("method", ["ewma", "static", "spot", "quantile", "river:stats.Max"])
def test_nothing_is_anomalous_in_a_silent_warmup_and_the_phase_turns_live_after_it(method: str) -> None:
    evidence = usual(WARMUP + 1)
    evidence[WARMUP - 1 :] = 1e6

    verdicts = Stream(judge(method, warmup="silent", tail=0.01, suspect_learning=0.0, z=3.0)).feed(one_entity(len(evidence)), evidence)

    assert verdicts["phase"].tolist() == [Phase.WARMUP] * WARMUP + [Phase.LIVE]
    assert not verdicts["is_anomaly"][:WARMUP].any()


@pytest.mark.parametrize("method", ["ewma", "static", "spot", "quantile"])
@pytest.mark.parametrize("place", [0, 5, 20])
def test_a_wild_record_of_a_new_entity_is_anomalous_and_its_usual_ones_are_not(method: str, place: int) -> None:
    evidence = usual(WARMUP)
    evidence[place] = 1e6

    verdicts = Stream(judge(method, tail=0.01)).feed(one_entity(WARMUP), evidence)

    assert np.flatnonzero(verdicts["is_anomaly"]).tolist() == [place]
    assert set(verdicts["phase"].tolist()) == {Phase.WARMUP}


def test_rivers_estimators_know_no_prior_and_are_silent_in_warmup() -> None:
    evidence = usual(WARMUP)
    evidence[20] = 1e6

    assert not Stream(judge("river:stats.Max")).feed(one_entity(WARMUP), evidence)["is_anomaly"].any()


def test_whether_warmup_is_judged_changes_nothing_after_it() -> None:
    evidence = usual(3 * WARMUP)
    evidence[10] = evidence[50] = 1e6

    judged, silent = (Stream(judge(warmup=warmup)).feed(one_entity(len(evidence)), evidence) for warmup in ("judge", "silent"))

    assert {name: column[WARMUP:].tobytes() for name, column in judged.items()} == {
        name: column[WARMUP:].tobytes() for name, column in silent.items()
    }


def test_a_wild_record_is_anomalous_graded_and_improbable_and_the_next_usual_one_is_not() -> None:
    evidence = usual(400)
    evidence[398] = 1e5

    verdicts = Stream(judge()).feed(one_entity(400), evidence)

    assert np.flatnonzero(verdicts["is_anomaly"]).tolist() == [398]
    score, threshold = (verdicts[name][398] / (1 - verdicts[name][398]) for name in ("anomaly_score", "threshold"))
    assert verdicts["grade"][398] == pytest.approx(1 - threshold / score)
    assert verdicts["grade"][399] == 0
    assert verdicts["tail_probability"][398] == 1e-4


def test_a_record_of_which_no_channel_says_anything_is_not_judged_and_teaches_nothing_but_is_counted() -> None:
    stream = Stream(judge())
    stream.feed(one_entity(100), usual(100))
    before = {name: column.clone() for name, column in stream.state.items()}

    verdicts = stream.feed(one_entity(1), np.array([[np.nan, np.nan]]))

    assert np.isnan(verdicts["anomaly_score"]).all()
    assert np.isnan(verdicts["tail_probability"]).all()
    assert not verdicts["is_anomaly"].any()
    assert verdicts["grade"].tolist() == [0.0]
    assert stream.state.pop("observations").item() == before.pop("observations").item() + 1
    assert all(torch.equal(stream.state[name], column) for name, column in before.items())


def test_a_silent_channel_neither_scores_nor_calibrates() -> None:
    stream = Stream(judge())

    verdicts = stream.feed(one_entity(1), np.array([[2.0, np.nan]]))

    score = math.log1p(2.0 / math.exp(-0.2 + 2.326 * NORMAL * math.sqrt(0.5)))
    assert verdicts["anomaly_score"][0] == pytest.approx(score / (1 + score))
    assert stream.state["calibration.mean"][0, 1].item() == PRIORS["reconstruction"][0]
    assert stream.state["calibration.learned"][0].tolist() == [1.0, 0.0]


def test_a_value_that_is_not_new_scores_but_does_not_calibrate_again() -> None:
    stream = Stream(judge())

    verdicts = stream.feed(one_entity(1), np.array([[2.0, 50.0]]), np.array([[True, False]]))

    assert verdicts["anomaly_score"][0] > 0.7
    assert stream.state["calibration.learned"][0].tolist() == [1.0, 0.0]


def test_suspects_learn_at_a_tenth() -> None:
    stream = Stream(judge())
    stream.feed(one_entity(100), usual(100))
    stream.feed(one_entity(1), np.array([[1e5, 1e5]]))

    assert stream.state["threshold.learned"].item() == pytest.approx(100.1)
    assert stream.state["calibration.learned"][0].tolist() == pytest.approx([100.1, 100.1])


def test_a_long_incident_barely_moves_the_level_of_its_channels() -> None:
    stream = Stream(judge())
    stream.feed(one_entity(500), usual(500))
    before = stream.state["calibration.mean"].clone()

    verdicts = stream.feed(one_entity(200), usual(200, seed=1) * 1e4)

    assert verdicts["is_anomaly"].all()
    assert (stream.state["calibration.mean"] - before).abs().max() < 0.1


def test_an_entity_is_as_alert_after_a_long_incident_of_its_youth_as_before() -> None:
    stream = Stream(judge())
    stream.feed(one_entity(250), usual(250))
    before = stream.feed(one_entity(1), usual(1))["threshold"][0]

    assert stream.feed(one_entity(300), usual(300, seed=1) * 1e4)["is_anomaly"].all()
    assert stream.feed(one_entity(20), usual(20, seed=2))["threshold"][-1] - before < 0.05
    assert stream.feed(one_entity(1), usual(1, seed=3) * 100)["is_anomaly"].all()


@pytest.mark.parametrize("hours", [2, 7])
def test_an_entity_is_as_alert_after_hours_at_rest_as_before(hours: int) -> None:
    stream = Stream(judge())
    stream.feed(one_entity(3000), usual(3000))
    before = stream.feed(one_entity(1), usual(1))["threshold"][0]

    stream.feed(one_entity(60 * hours), np.zeros((60 * hours, 2)))

    assert abs(stream.feed(one_entity(1), usual(1))["threshold"][0] - before) < 0.12
    assert stream.feed(one_entity(1), usual(1, seed=3) * 100)["is_anomaly"].all()


@pytest.mark.parametrize("at", [20, 40, 60])
def test_a_fault_in_warmup_is_told_whole_and_leaves_the_entity_alert(at: int) -> None:
    stream = Stream(judge())
    stream.feed(one_entity(at), usual(at))

    assert stream.feed(one_entity(30), usual(30, seed=1) * 1e4)["is_anomaly"].all()
    assert not stream.feed(one_entity(100), usual(100, seed=2))["is_anomaly"].any()
    assert stream.feed(one_entity(1), usual(1, seed=3) * 100)["is_anomaly"].all()


def test_an_entity_unlike_all_others_is_no_incident_once_it_showed_itself() -> None:
    stream = Stream(judge())
    verdicts = stream.feed(one_entity(500), usual(500) * 50)["is_anomaly"]

    assert verdicts[:16].any()
    assert not verdicts[20:].any()


def test_what_stays_just_short_of_suspect_does_not_soon_make_an_entity_deaf() -> None:
    stream = Stream(judge())
    stream.feed(one_entity(500), usual(500))
    before = stream.feed(one_entity(1), usual(1))["threshold"][0]

    stream.feed(one_entity(60), usual(60, seed=1) * 5)

    assert stream.feed(one_entity(1), usual(1))["threshold"][0] - before < 0.12


def test_an_infinite_error_is_the_largest_there_is_and_leaves_finite_state() -> None:
    stream = Stream(judge())

    verdicts = stream.feed(one_entity(60), np.where(np.arange(120).reshape(60, 2) % 7 == 0, np.inf, usual(60)))

    assert np.isfinite(verdicts["anomaly_score"]).all()
    assert all(torch.isfinite(column).all() for column in stream.state.values())


def test_the_same_error_counts_more_for_a_quieter_entity() -> None:
    stream = Stream(judge(), entities=2)
    slots = np.tile([0, 1], 300)
    stream.feed(slots, usual(600) * np.where(slots == 0, 0.01, 1.0)[:, None])

    verdicts = stream.feed(np.array([0, 1]), np.array([[1.0, 1.0], [1.0, 1.0]]))

    assert verdicts["is_anomaly"].tolist() == [True, False]


def test_static_level_may_differ_by_entity() -> None:
    stream = Stream(judge("static"), entities=2)
    stream.state["parameter.level"] = torch.tensor([0.3, 0.95], dtype=torch.float64)
    stream.feed(np.tile([0, 1], WARMUP), usual(2 * WARMUP))

    verdicts = stream.feed(np.array([0, 1]), np.full((2, 2), 5.0))

    assert verdicts["threshold"].tolist() == pytest.approx([0.3, 0.95])
    assert verdicts["is_anomaly"].tolist() == [True, False]


def test_no_rows_give_no_verdicts() -> None:
    stream = Stream(judge())

    assert all(len(column) == 0 for column in stream.feed(one_entity(0), usual(0)).values())


def test_only_river_methods_cannot_be_checkpointed() -> None:
    assert judge("spot").is_checkpointable
    assert not judge("river:stats.Max").is_checkpointable


def test_columns_start_at_the_priors_of_the_channels() -> None:
    columns = {column.name: column for column in judge().columns()}

    assert columns["calibration.mean"].fill.tolist() == [PRIORS[channel][0] for channel in CHANNELS]
    assert columns["calibration.variance"].shape == (2,)


def test_an_entity_starts_from_the_priors_of_its_model_and_goes_on_as_if_there_were_no_other() -> None:
    quiet = {"prediction": (-3.0, 0.1), "reconstruction": (-4.0, 0.2)}
    settings = ThresholdSettings(warmup_observations=WARMUP)
    slots, evidence = np.tile([0, 1], 100), usual(200)
    both = Stream(Judge(settings, [PRIORS, quiet], 1440), entities=2)
    both.state[MODEL] = torch.tensor([0, 1])

    found = both.feed(slots, evidence, cuts=(1, 2, 90))

    for number, priors in enumerate((PRIORS, quiet)):
        own = slots == number
        alone = Stream(Judge(settings, [priors], 1440))
        expected = alone.feed(one_entity(100), evidence[own])
        assert {name: column[own].tobytes() for name, column in found.items()} == {name: column.tobytes() for name, column in expected.items()}
        assert torch.equal(both.state["calibration.mean"][number], alone.state["calibration.mean"][0])


def test_without_a_half_life_the_priors_stay() -> None:
    stream = Stream(Judge(ThresholdSettings(warmup_observations=WARMUP), [PRIORS], None))

    stream.feed(one_entity(300), usual(300) * 50)

    assert stream.state["calibration.mean"][0].tolist() == [mean for mean, _ in PRIORS.values()]
    assert stream.state["calibration.variance"][0].tolist() == [variance for _, variance in PRIORS.values()]


def test_what_each_channel_added_sums_to_the_score() -> None:
    evidence = usual(200)
    evidence[5, 0] = evidence[7, 1] = np.nan
    evidence[9] = np.nan

    found = Stream(judge()).feed(one_entity(200), evidence)

    score = found["parts"].sum(1)
    assert found["parts"].shape == (200, 2)
    assert (found["parts"] >= 0).all()
    assert found["parts"][5, 0] == found["parts"][7, 1] == 0
    is_judged = ~np.isnan(found["anomaly_score"])
    assert is_judged.tolist() == [row != 9 for row in range(200)]
    assert found["anomaly_score"][is_judged] == pytest.approx((score / (1 + score))[is_judged])


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(SettingsError, match="did you mean `static`"):
        judge("statik")
