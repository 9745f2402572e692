from __future__ import annotations

import numpy as np
import torch

from anomaly_daemon.state.segments import lay_out
from anomaly_daemon.statistics.reservoir import Reservoir
from tests.slab_rows import fresh_rows

UNITS = 15
NAN = float("nan")


def states(values: np.ndarray, units: int = UNITS) -> np.ndarray:
    """What each row of one entity finds, [T, units]."""
    encoder = Reservoir("e", values.shape[1], units)
    return encoder.before([1] * len(values), fresh_rows(encoder.columns), values)


def noise(rows: int, features: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, features))


def test_a_row_finds_the_state_of_the_rows_before_it() -> None:
    values = noise(50)
    other = values.copy()
    other[30] += 1

    found, changed = states(values), states(other)

    assert (found[0] == 0).all()
    assert (found[:31] == changed[:31]).all()
    assert np.abs(found[31] - changed[31]).max() > 0.05


def test_whatever_the_state_was_it_is_forgotten() -> None:
    values = noise(1000)
    other = values.copy()
    other[:200] = noise(200, seed=1)

    assert np.abs(states(values)[-1] - states(other)[-1]).max() < 1e-6


def test_states_stay_within_one_whatever_comes() -> None:
    assert np.abs(states(1e6 * noise(300))).max() <= 1


def test_a_missing_value_counts_as_usual() -> None:
    holed, usual = noise(60), noise(60)
    holed[20:30, 1], usual[20:30, 1] = NAN, 0.0

    assert (states(holed) == states(usual)).all()


def test_a_readout_of_it_tells_the_last_value_and_the_average_of_the_last_thirty() -> None:
    values = np.random.default_rng(4).uniform(-1, 1, (3000, 1))
    inputs = states(values)
    average = np.convolve(values[:, 0], np.ones(30) / 30)[:3000]

    for past in (values[:, 0], average):
        target = np.roll(past, 1)
        weights = np.linalg.lstsq(inputs[100:2000], target[100:2000], rcond=None)[0]
        assert np.corrcoef(inputs[2000:] @ weights, target[2000:])[0, 1] > 0.9


def test_no_bit_depends_on_other_entities_or_cuts() -> None:
    entity, values = np.random.default_rng(2).integers(7, size=400), noise(400)
    encoder = Reservoir("e", 2, UNITS)
    state, found = fresh_rows(encoder.columns, 7), np.empty((400, UNITS))
    for first, last in ((0, 1), (1, 8), (8, 200), (200, 400)):
        layout = lay_out(entity[first:last])
        rows = {"e.state": state["e.state"][torch.from_numpy(layout.slots)]}
        found[first:last][layout.order] = encoder.before(layout.widths.tolist(), rows, values[first:last][layout.order])
        state["e.state"][torch.from_numpy(layout.slots)] = rows["e.state"]

    for one in range(7):
        assert found[entity == one].tobytes() == states(values[entity == one]).tobytes()
