from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_daemon.state.segments import lay_out
from anomaly_daemon.statistics.rls import Rls
from tests.slab_rows import fresh_rows

Floats = NDArray[np.float64]
INPUTS, OUTPUTS, HALF_LIFE = 4, 2, 200.0
KEPT = 0.5 ** (1 / HALF_LIFE)


def rows_of(rows: int, seed: int = 0, noise: float = 0.1) -> tuple[Floats, Floats]:
    """Inputs, the last a constant, and what follows from them."""
    generator = np.random.default_rng(seed)
    inputs = np.concatenate([generator.uniform(-1, 1, (rows, INPUTS - 1)), np.ones((rows, 1))], 1)
    weights = np.array([[1.0, -2.0, 0.5, 0.3], [0.0, 0.7, 0.7, -1.0]])
    return inputs, inputs @ weights.T + noise * generator.normal(size=(rows, OUTPUTS))


def told(entity: NDArray[np.int64], inputs: Floats, targets: Floats, cuts: Sequence[int] = ()) -> tuple[Floats, dict[str, Tensor]]:
    """Errors in log order, and the columns after it; batches end before each of `cuts`."""
    readout = Rls("r", inputs.shape[1], targets.shape[1], HALF_LIFE)
    every = fresh_rows(readout.columns, int(entity.max()) + 1)
    state = {column.name: every[column.name] for column in readout.columns}
    errors = np.empty_like(targets)
    for first, last in pairwise((0, *cuts, len(targets))):
        layout = lay_out(entity[first:last])
        slots = torch.from_numpy(layout.slots)
        rows = {name: column[slots] for name, column in state.items()}
        found = readout.errors(layout.widths.tolist(), rows, inputs[first:last][layout.order], targets[first:last][layout.order])
        errors[first:last][layout.order] = found
        for name, column in rows.items():
            state[name][slots] = column
    return errors, state


def alone(inputs: Floats, targets: Floats) -> tuple[Floats, dict[str, Tensor]]:
    return told(np.zeros(len(targets), np.int64), inputs, targets)


def test_its_errors_are_those_of_a_ridge_regression_with_fading_weights_on_the_rows_before() -> None:
    inputs, targets = rows_of(300)

    errors, _ = alone(inputs, targets)

    for row in (40, 41, 100, 299):
        fading = KEPT ** np.arange(row - 1, -1, -1)
        moments = (inputs[:row].T * fading) @ inputs[:row] + KEPT**row * np.eye(INPUTS)
        weights = np.linalg.solve(moments, (inputs[:row].T * fading) @ targets[:row])
        assert errors[row] == pytest.approx(targets[row] - inputs[row] @ weights, abs=1e-8)


def test_nothing_is_told_before_an_entity_has_been_learned_from_ten_times_as_often_as_there_are_inputs() -> None:
    errors, _ = alone(*rows_of(60))

    assert np.isnan(errors[: 10 * INPUTS]).all()
    assert not np.isnan(errors[10 * INPUTS :]).any()


def test_a_relation_that_changed_is_learned_anew() -> None:
    inputs, targets = rows_of(3000)
    targets[1000:] *= -1

    errors, _ = alone(inputs, targets)

    assert np.abs(errors[1000:1010]).mean() > 1
    assert np.abs(errors[-500:]).mean() < 0.15


def test_a_wild_row_teaches_no_more_than_one_four_deviations_off() -> None:
    inputs, targets = rows_of(1000)
    wild, four = targets.copy(), targets.copy()
    wild[800] += 1e6
    four[800] += 40 * 0.1

    expected, found = alone(inputs, four)[0], alone(inputs, wild)[0]

    assert found[801:] == pytest.approx(expected[801:], abs=1e-3)
    assert np.abs(found[801:]).mean() == pytest.approx(np.abs(alone(inputs, targets)[0][801:]).mean(), rel=0.02)


def test_a_missing_output_is_not_learned_and_a_missing_row_leaves_every_bit() -> None:
    inputs, targets = rows_of(400)
    _, before = alone(inputs[:200], targets[:200])
    holed = targets.copy()
    holed[200:] = np.nan
    _, after = alone(inputs, holed)
    holed[200:, 1] = targets[200:, 1]
    errors, half = alone(inputs, holed)

    assert all(torch.equal(before[name], column) for name, column in after.items())
    assert np.isnan(errors[200:, 0]).all()
    assert torch.equal(half["r.weights"][0, 0], before["r.weights"][0, 0])
    assert not torch.equal(half["r.weights"][0, 1], before["r.weights"][0, 1])


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_no_bit_depends_on_where_batches_are_cut(batch: int) -> None:
    inputs, targets = rows_of(600)
    targets[np.random.default_rng(1).random(targets.shape) < 0.2] = np.nan
    entity = np.random.default_rng(2).integers(5, size=600)

    whole, whole_state = told(entity, inputs, targets)
    parts, parts_state = told(entity, inputs, targets, range(batch, 600, batch))

    assert whole.tobytes() == parts.tobytes()
    assert all(torch.equal(whole_state[name], column) for name, column in parts_state.items())


@pytest.mark.parametrize("inputs", [3, 16])
def test_no_bit_of_an_entity_depends_on_a_hundred_others_beside_it(inputs: int) -> None:
    generator = np.random.default_rng(3)
    entity = np.tile(np.arange(101), 10 * inputs + 20)
    x, y = generator.uniform(-1, 1, (len(entity), inputs)), generator.normal(size=(len(entity), 1))

    beside, _ = told(entity, x, y)
    chosen = entity == 50

    assert beside[chosen].tobytes() == alone(x[chosen], y[chosen])[0].tobytes()


@pytest.mark.parametrize("still", [0.0, 1.0, 1e-9])
def test_inputs_that_stand_still_leave_all_finite_and_what_follows_is_learned(still: float) -> None:
    inputs, targets = rows_of(6000)
    inputs[:4000] = still
    targets[:4000] = 0.0

    errors, state = alone(inputs, targets)

    assert all(column.isfinite().all() for column in state.values())
    assert torch.linalg.eigvalsh(state["r.inverse"][0]).min() > 0
    assert np.abs(errors[-50:]).mean() < 0.3
