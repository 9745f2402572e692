from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_daemon.channels.base import Seen
from anomaly_daemon.channels.novelty import NOVELTY, NoveltyChannel
from anomaly_daemon.channels.ring import Index
from anomaly_daemon.domain.columns import OBSERVATIONS
from anomaly_daemon.settings import Novelty as NoveltySettings
from anomaly_daemon.state.segments import lay_out
from anomaly_daemon.state.table import Table
from anomaly_daemon.statistics.novelty import Novelty
from tests.slab_rows import fresh_rows

REMEMBERED = 16


class PlainMemory:
    """One signal's memory, a value at a time."""

    def __init__(self) -> None:
        self.held, self.ends = list[float](), list[list[float]]()

    def step(self, value: float) -> tuple[float, float]:
        if not self.held:
            self.held, self.ends = [value], [[value, value], [value, value]]
            return 0.0, 0.0
        held = [-math.inf, *self.held, math.inf]
        size = max(math.sqrt(math.prod(high - low for low, high in self.ends)), 1e-100)
        far = 100 * size if size > 1e-100 else math.inf
        counted = min(max(value, self.ends[1][0] - far), self.ends[1][1] + far)
        for end, rate in zip(self.ends, (1 - 0.5 ** (1 / 300), 1 - 0.5 ** (1 / 3000)), strict=True):
            end[0] = counted if counted < end[0] else end[0] + rate * (counted - end[0])
            end[1] = counted if counted > end[1] else end[1] - rate * (end[1] - counted)
        above = bisect.bisect_left(held, value)
        nearest = above - 1 if value - held[above - 1] <= held[above] - value else above
        distance = abs(value - held[nearest])
        gap = min(held[nearest] - held[nearest - 1], held[nearest + 1] - held[nearest])
        if distance > 0 and len(self.held) == REMEMBERED:
            gaps = [high - low for low, high in pairwise(held)]
            pair = min(range(1, REMEMBERED), key=gaps.__getitem__)
            if distance > gaps[pair]:
                del self.held[pair - 1 if gaps[pair - 1] < gaps[pair + 1] else pair]
                bisect.insort(self.held, value)
        elif distance > 0:
            bisect.insort(self.held, value)
        return distance / size, gap / size if gap < math.inf else 0.0


def plain_scores(values: Sequence[float]) -> list[float]:
    """Of one feature of one entity, a row at a time: what the slab must come to."""
    memories = [PlainMemory() for _ in range(4)]
    mean = low = high = level = last = values[0]
    variance = activity = last_scaled = 0.0
    scores = []
    for count, value in enumerate(values):
        deviation = max(math.sqrt(variance), 0.05 * (high - low))
        scaled = float(np.arcsinh(min(max((value - mean) / max(deviation, 1e-300), -50), 50)))
        counted = min(max(value, mean - 50 * deviation), mean + 50 * deviation) if count > 30 and deviation > 0 else value
        level += 2 / 31 * (counted - level)
        activity += 2 / 11 * (abs(scaled - last_scaled) - activity)
        near = [memory.step(signal) for memory, signal in zip(memories, (value, level, abs(value - last), activity), strict=True)]
        decades = [math.log10(min(max(distance, 1e-5), 1) / 1e-5) for distance, _ in near]
        spacing = math.log10((near[0][0] + 1e-5) / (sum(near[0]) + 1e-5))
        scores.append(decades[0] + 0.5 * spacing + 0.2 * sum(decades[1:]))
        step, rate = value - mean, max(1 - 0.5 ** (1 / 1000), 1 / (count + 2))
        if count > 30:
            step = min(max(step, -10 * deviation), 10 * deviation)
        mean, variance = mean + rate * step, (1 - rate) * (variance + rate * step * step)
        low, high, last, last_scaled = min(low, counted), max(high, counted), value, scaled
    return scores


def walks(entities: int, rows: int, features: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Random walks in log order, some on a grid, with wild values, missing ones and runs of one value: entity [N], values [N, features]."""
    random = np.random.default_rng(3)
    entity = random.integers(entities, size=rows)
    values = np.empty((rows, features))
    for one in range(entities):
        chosen = entity == one
        walk = random.normal(size=(int(chosen.sum()), features)).cumsum(0) * 10.0**one
        walk[20::11] *= 30
        values[chosen] = walk.round() if one % 2 else walk
    values[rows // 3 : rows // 2][:, 0] = 1.0
    values[random.random(values.shape) < 0.1] = np.nan
    return entity, values


def told(entity: NDArray[np.int64], values: NDArray[np.float64], cuts: Sequence[int] = ()) -> tuple[NDArray[np.float64], dict[str, Tensor]]:
    """Scores in log order, and the columns after it; batches end before each of `cuts`."""
    novelty = Novelty("n", values.shape[1], REMEMBERED)
    every = fresh_rows(novelty.columns, int(entity.max()) + 1)
    state = {column.name: every[column.name] for column in novelty.columns}
    scores = np.empty_like(values)
    for first, last in pairwise((0, *cuts, len(values))):
        layout = lay_out(entity[first:last])
        slots = torch.from_numpy(layout.slots)
        rows = {name: column[slots] for name, column in state.items()}
        here = values[first:last][layout.order]
        scores[first:last][layout.order] = novelty.scores(layout.widths.tolist(), rows, torch.from_numpy(here)).numpy()
        for name, column in rows.items():
            state[name][slots] = column
    return scores, state


def test_is_what_a_loop_over_single_values_finds() -> None:
    entity, values = walks(entities=4, rows=3000, features=2)

    scores, _ = told(entity, values)

    for one in range(4):
        for found, value in zip(scores[entity == one].T, values[entity == one].T, strict=True):
            is_there = ~np.isnan(value)
            assert np.abs(found[is_there] - plain_scores(value[is_there].tolist())).max() <= 1e-12
            assert np.isnan(found[~is_there]).all()


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_no_bit_depends_on_where_batches_are_cut(batch: int) -> None:
    entity, values = walks(entities=5, rows=600, features=2)

    whole, whole_state = told(entity, values)
    parts, parts_state = told(entity, values, range(batch, 600, batch))

    assert whole.tobytes() == parts.tobytes()
    assert all(torch.equal(whole_state[name], column) for name, column in parts_state.items())


def test_a_missing_value_leaves_every_bit() -> None:
    entity, values = walks(entities=2, rows=100, features=1)
    _, before = told(entity, values)

    _, after = told(np.append(entity, [0, 1]), np.append(values, [[np.nan], [np.nan]], axis=0))

    assert all(torch.equal(after[name], column) for name, column in before.items())


def test_what_is_far_from_everything_is_new_once() -> None:
    values = np.sin(np.arange(500.0))
    values[[400, 420]] = 9.0

    scores, _ = told(np.zeros(500, np.int64), values[:, None])

    assert scores[400, 0] > 6.0
    assert scores[420, 0] < 3.0


@pytest.mark.parametrize("wild", [65535.0, -3e38, 1e300])
def test_one_wild_value_does_not_make_deaf(wild: float) -> None:
    values = np.sin(np.arange(2500.0))
    values[400] = wild
    values[[1500, 2400]] = 9.0, -9.0

    scores, state = told(np.zeros(2500, np.int64), values[:, None])

    assert scores[400, 0] > 6.0
    assert scores[1500, 0] > 4.0
    assert scores[2400, 0] > 5.0
    kept = state["n.scale"].flatten().tolist()
    assert kept[4] - kept[3] < 200


@pytest.mark.parametrize(
    "values", [[1e300, -1e300] * 40, [0.0] * 80, [5e-324, 0.0, 1e-200] * 20, [math.inf, 1.0, -math.inf] * 20, [7.0] * 40 + [7.1]]
)
def test_extremes_and_constants_stay_finite(values: list[float]) -> None:
    scores, state = told(np.zeros(len(values), np.int64), np.array(values)[:, None])

    assert np.isfinite(scores).all()
    assert all(not column.isnan().any() for column in state.values())
    assert state["n.scale"].isfinite().all()
    assert state["n.reach"].isfinite().all()


def test_a_row_is_as_new_as_its_newest_feature_and_context_is_none(tmp_path: Path) -> None:
    channel = NoveltyChannel([0, 2], NoveltySettings(refractory=0))
    values = torch.sin(torch.arange(300.0))[:, None].repeat(1, 3)
    values[200] = torch.tensor([1.5, 50.0, 9.0])
    values[250] = torch.tensor([torch.nan, 50.0, torch.nan])
    layout = lay_out(np.zeros(300, np.int64))
    table = Table((*channel.columns, OBSERVATIONS), resident_max=1, entities_max=1, device="cpu", spill=tmp_path / "spill")
    rows = fresh_rows(channel.columns)
    index = Index(layout, rows[OBSERVATIONS.name], "cpu")
    zeros = torch.zeros_like(values)

    evidence = channel.observe(Seen(layout, index, rows, table, values, values, zeros, zeros + 1, zeros[:, 0]))[NOVELTY]

    terms, at_last = evidence.terms(torch.tensor([200, 250]))
    assert terms[2] > terms[0] > terms[1] == 0
    assert evidence.error[200] == terms[2]
    assert evidence.error.isnan().nonzero().flatten().tolist() == [250]
    assert evidence.fresh.tolist() == [row != 250 for row in range(300)]
    assert at_last.tolist() == [0.0, 0.0, 0.0]
