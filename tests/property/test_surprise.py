"""Surprise does not depend on where batches are cut, and whatever is sent, its errors are finite."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anomaly_daemon.model.corpus import EntitySequence, build
from anomaly_daemon.model.surprise import fit_surprise
from anomaly_daemon.settings import Settings
from anomaly_daemon.state.segments import lay_out
from anomaly_daemon.statistics.recent import RecentSums
from tests.slab_rows import fresh_rows

ENTITIES = 4
ROWS = st.lists(st.tuples(st.integers(0, ENTITIES - 1), st.floats(0, 1e6), st.floats(0, 1e9)), min_size=1, max_size=40)
READINGS = st.one_of(st.floats(-1e300, 1e300), st.just(float("nan")), st.sampled_from([0.0, 1.0, 1e300]))


@given(ROWS, st.sets(st.integers(1, 39)))
def test_recent_sums_do_not_depend_on_where_batches_are_cut(rows: list[tuple[int, float, float]], cuts: set[int]) -> None:
    entities, added, gaps = (np.array(column) for column in zip(*rows, strict=True))
    sums = RecentSums("x", (60.0, 3600.0, 1e5))

    def bits(edges: list[int]) -> tuple[bytes, bytes]:
        held = fresh_rows(sums.columns, ENTITIES)["x.sums"]
        found = torch.empty(len(rows), 4, dtype=torch.float64)
        for start, end in itertools.pairwise(edges):
            layout = lay_out(entities[start:end])
            order = torch.from_numpy(start + layout.order)
            own = held[layout.slots]
            given_rows = (torch.from_numpy(column)[order] for column in (added, gaps))
            found[order] = sums.advance(layout.widths.tolist(), {"x.sums": own}, *given_rows)
            held[layout.slots] = own
        return found.numpy().tobytes(), held.numpy().tobytes()

    assert bits([0, *sorted(cut for cut in cuts if cut < len(rows)), len(rows)]) == bits([0, len(rows)])


@settings(max_examples=50)
@given(st.lists(st.tuples(READINGS, READINGS), min_size=12, max_size=60), st.lists(st.tuples(READINGS, READINGS), min_size=1, max_size=8))
def test_whatever_was_trained_on_and_whatever_comes_the_errors_are_finite(seen: list[tuple[float, float]], later: list[tuple[float, float]]) -> None:
    """Two features that may be constant, missing throughout or huge."""
    wanted = Settings(model={"scale": "fleet"})
    with np.errstate(over="ignore"):
        values = np.array(seen).clip(-3e38, 3e38).astype(np.float32)
    corpus, scale = build([EntitySequence("one", values, np.full(len(values), 60.0))], wanted)

    fit, errors = fit_surprise(corpus, scale, wanted.evidence.surprise.half_lives, torch.ones(2, 2, dtype=torch.bool))
    terms = fit.terms(torch.from_numpy(scale.transform(np.array(later))).clamp(-10, 10))
    sums = torch.full((len(later), 3), 1e12, dtype=torch.float64)

    for found in (errors, terms, fit.error(sums), fit.ordinary):
        assert torch.isfinite(found).all()
        assert (found >= 0).all()
