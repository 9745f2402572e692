import numpy as np
import pytest
import torch
from torch import Tensor

from anomaly_daemon.settings import Threshold as ThresholdSettings
from anomaly_daemon.thresholds.base import HELD_BACK, JUDGED, Judgement, Threshold
from anomaly_daemon.thresholds.registry import build
from tests.slab_rows import fresh_rows, vector

USUAL = list(np.exp(np.random.default_rng(0).normal(-1.0, 0.2, 300)))
HIGH = 8.0


def fed(
    threshold: Threshold, scores: list[float], rows: dict[str, Tensor] | None = None, *, z: float = 4.0, level: float = 0.9
) -> tuple[dict[str, Tensor], list[Judgement]]:
    """One entity's rows after these scores, each learned in full, and what was said of them."""
    rows = fresh_rows(threshold.columns(), z=z, level=level) if rows is None else rows
    judgements = []
    for score in scores:
        judgements.append(threshold.judge(rows, vector(score)))
        threshold.learn(rows, vector(score), vector(0.1 if judgements[-1].is_suspect.item() else 1.0), judgements[-1])
        rows["observations"] += 1
    return rows, judgements


def flags(judgements: list[Judgement]) -> list[bool]:
    return [bool(one.is_anomaly.item()) for one in judgements]


def test_over_a_span_one_high_record_is_no_anomaly_and_several_are() -> None:
    alone, averaged = build(ThresholdSettings()), build(ThresholdSettings(span=10))

    spike = [*USUAL, 1.5, 0.4, 0.4]
    assert flags(fed(alone, spike, z=5.0)[1])[-3:] == [True, False, False]
    assert flags(fed(averaged, spike, z=5.0)[1])[-3:] == [False, False, False]
    assert flags(fed(averaged, [*USUAL, *[1.5] * 10], z=5.0)[1])[-1]


def test_what_is_averaged_is_the_log_score_with_the_first_records_alike() -> None:
    rows, _ = fed(build(ThresholdSettings(span=3)), [1.0, 4.0, 2.0])

    assert rows["threshold.recent"].item() == pytest.approx(np.log([1.0, 4.0]).mean() / 2 + np.log(2.0) / 2, abs=1e-5)


@pytest.mark.parametrize("options", [{"span": 7}, {"span": 3, "recovery": 0.6}, {"reference_observations": 40, "span": 2}])
@pytest.mark.parametrize("method", ["ewma", "static"])
def test_the_threshold_said_is_what_the_very_score_would_have_had_to_exceed(method: str, options: dict[str, float]) -> None:
    threshold = build(ThresholdSettings(method=method, **options))
    rows, _ = fed(threshold, [*USUAL, HIGH, HIGH, 2.0], level=0.5)
    limit = threshold.judge(rows, vector(1.0)).threshold

    assert threshold.judge(rows, limit * (1 + 1e-9)).is_anomaly.item()
    assert not threshold.judge(rows, limit * (1 - 1e-9)).is_anomaly.item()


def test_a_reference_stays_and_its_highest_is_the_least_that_is_anomalous() -> None:
    threshold = build(ThresholdSettings(reference_observations=300))
    rows, _ = fed(threshold, [*USUAL[:-1], HIGH], z=0.1)
    kept = {name: rows[f"threshold.{name}"].clone() for name in ("mean", "variance", "floor")}

    rows, later = fed(threshold, [HIGH * 0.99, HIGH * 1.01, 50.0, HIGH * 1.01], rows)

    assert flags(later) == [False, True, True, True]
    assert later[0].deviations.item() == HELD_BACK
    assert all(torch.equal(rows[f"threshold.{name}"], column) for name, column in kept.items())


@pytest.mark.parametrize("method", ["ewma", "static"])
def test_a_score_going_back_recovers_until_it_was_usual_again(method: str) -> None:
    threshold = build(ThresholdSettings(method=method, recovery=0.5, reference_observations=300))

    _, judgements = fed(threshold, [*USUAL, HIGH, 5.0, 3.0, 7.0, 0.2, 3.0], level=0.5)

    assert flags(judgements)[300:] == [True, True, False, True, False, True]
    assert judgements[302].is_suspect.item()


def test_the_peak_is_forgotten_by_half_in_a_half_life() -> None:
    threshold = build(ThresholdSettings(recovery=0.5, half_life=100, reference_observations=300))
    rows, _ = fed(threshold, [*USUAL, HIGH, *[3.0] * 39])
    assert not threshold.judge(rows, vector(3.0)).is_anomaly.item()

    rows, _ = fed(threshold, [3.0] * 5, rows)
    assert threshold.judge(rows, vector(3.0)).is_anomaly.item()


@pytest.mark.parametrize("method", ["ewma", "static"])
def test_a_record_without_evidence_changes_nothing(method: str) -> None:
    threshold = build(ThresholdSettings(method=method, span=5, recovery=0.5, reference_observations=1000))
    rows, _ = fed(threshold, [*USUAL, HIGH])
    before = {name: column.clone() for name, column in rows.items()}
    rows[JUDGED] = vector(0.0)

    threshold.learn(rows, vector(0.0), vector(0.0), threshold.judge(rows, vector(0.0)))

    assert all(torch.equal(rows[name], column) for name, column in before.items() if name != JUDGED)


def test_without_the_options_nothing_more_is_kept() -> None:
    kept = {column.name for column in build(ThresholdSettings()).columns()}

    assert not kept & {"threshold.recent", "threshold.floor", "threshold.peak"}
