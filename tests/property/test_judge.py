from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from anomaly_daemon.settings import Threshold as ThresholdSettings
from anomaly_daemon.thresholds.judge import Judge
from tests.slab_rows import Stream

PRIORS = {"prediction": (0.0, 1.0), "reconstruction": (0.0, 1.0)}
ENTITIES = 7
METHODS: dict[str, dict[str, Any]] = {
    "ewma": {},
    "static": {},
    "ewma, held back": {"method": "ewma", "span": 4, "reference_observations": 20, "recovery": 0.6},
    "static, held back": {"method": "static", "span": 2, "recovery": 0.6, "suspect_learning": 0.0},
    "spot": {"tail": 0.01, "window": 60},
    "quantile": {"tail": 0.05, "window": 60},
    "spot, held back": {"method": "spot", "tail": 0.01, "window": 60, "span": 4, "reference_observations": 20, "recovery": 0.6},
    "quantile, held back": {"method": "quantile", "tail": 0.05, "window": 60, "span": 2, "recovery": 0.6, "suspect_learning": 0.0},
    "river:anomaly.GaussianScorer": {"parameters": {"grace_period": 5}},
    "river:anomaly.HalfSpaceTrees": {"parameters": {"n_trees": 2, "height": 3, "window_size": 10}},
    "river:stats.RollingQuantile": {"tail": 0.05, "window": 60},
}


@st.composite
def streams(draw: st.DrawFn) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
    """Slots, evidence and freshness: unequal runs, bursts, missing and enormous errors."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 400))
    popularity = rng.dirichlet(np.full(ENTITIES, draw(st.sampled_from([0.1, 1.0, 10.0]))))
    slots = rng.choice(ENTITIES, n, p=popularity)
    evidence = np.exp(rng.normal(0, 1, (n, 2)))
    evidence *= np.where(rng.random((n, 1)) < 0.05, 1e4, 1.0)
    evidence[rng.random((n, 2)) < draw(st.sampled_from([0.0, 0.1, 0.6]))] = np.nan
    evidence[rng.random((n, 2)) < 0.01] = draw(st.sampled_from([0.0, 1e300, np.inf]))
    return slots, evidence, rng.random((n, 2)) < 0.7


def bits(verdicts: dict[str, NDArray[np.float64]]) -> dict[str, bytes]:
    return {name: column.tobytes() for name, column in verdicts.items()}


def state_bits(stream: Stream) -> dict[str, bytes]:
    return {name: column.numpy().tobytes() for name, column in stream.state.items()}


def new_stream(method: str) -> Stream:
    return Stream(
        Judge(ThresholdSettings(**{"method": method, "warmup_observations": 8, "half_life": 50, **METHODS[method]}), [PRIORS], 50),
        ENTITIES,
        z=2.0,
        level=0.8,
    )


@pytest.mark.parametrize("method", METHODS)
@given(drawn=streams(), cuts=st.lists(st.integers(0, 400), max_size=40))
@settings(deadline=None, max_examples=15)
def test_verdicts_and_state_do_not_depend_on_where_batches_are_cut(
    method: str, drawn: tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]], cuts: list[int]
) -> None:
    slots, evidence, fresh = drawn
    whole, cut = new_stream(method), new_stream(method)

    expected = whole.feed(slots, evidence, fresh)
    found = cut.feed(slots, evidence, fresh, [edge for edge in cuts if edge < len(slots)])

    assert bits(found) == bits(expected)
    assert state_bits(cut) == state_bits(whole)


@pytest.mark.parametrize("method", METHODS)
@given(drawn=streams())
@settings(deadline=None, max_examples=15)
def test_nothing_non_finite_enters_state_and_verdicts_stay_in_range(
    method: str, drawn: tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]
) -> None:
    slots, evidence, fresh = drawn
    stream = new_stream(method)

    verdicts = stream.feed(slots, evidence, fresh)

    is_judged = ~np.isnan(evidence).all(1)
    assert all(torch.isfinite(column).all() for column in stream.state.values())
    assert ((verdicts["anomaly_score"] >= 0) & (verdicts["anomaly_score"] <= 1)).tolist() == is_judged.tolist()
    assert ((verdicts["tail_probability"] >= 1e-4) & (verdicts["tail_probability"] <= 1)).tolist() == is_judged.tolist()
    assert ((verdicts["threshold"] >= 0) & (verdicts["threshold"] <= 1)).all()
    assert ((verdicts["grade"] >= 0) & (verdicts["grade"] <= 1)).all()
    assert not verdicts["is_anomaly"][~is_judged].any()
    assert stream.state["observations"].tolist() == np.bincount(slots, minlength=ENTITIES).tolist()


@pytest.mark.parametrize("method", ["ewma", "static", "ewma, held back", "spot", "quantile"])
@given(drawn=streams(), later=st.floats(0, 1e6))
@settings(deadline=None, max_examples=10)
def test_a_verdict_depends_on_no_later_record(
    method: str, drawn: tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]], later: float
) -> None:
    slots, evidence, fresh = drawn
    half = len(slots) // 2 + 1
    changed = evidence.copy()
    changed[half:] = later

    first, second = new_stream(method).feed(slots, evidence, fresh), new_stream(method).feed(slots, changed, fresh)

    assert bits({name: column[:half] for name, column in first.items()}) == bits({name: column[:half] for name, column in second.items()})
