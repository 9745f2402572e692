from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_daemon.domain.columns import FROZEN
from anomaly_daemon.state.segments import lay_out
from anomaly_daemon.statistics.mewma import Mewma, Spread, Unseen, pulled, whitened, whitening_of
from tests.slab_rows import fresh_rows

NAN = float("nan")
SPANS = (1, 5, 20)


class Bank:
    """Averages and spread of some entities, fed a stream cut anywhere."""

    def __init__(self, entities: int = 1, spans: Sequence[int] = SPANS, features: int = 2, half_life: float | None = None) -> None:
        self.averages, self.spread = Mewma("chart", spans, features, half_life), Spread("chart", (len(spans), features), 50)
        self.state = fresh_rows((*self.averages.columns, *self.spread.columns), entities)

    def feed(
        self, slots: NDArray[np.int64], values: NDArray[np.float32], cuts: Sequence[int] = (), unseen: Unseen | None = None
    ) -> tuple[Tensor, Tensor]:
        """[records, S, F] in log order: averages less reference, and these by their spread."""
        differences = torch.empty(len(values), self.state["chart.variance"].shape[1], values.shape[1])
        standardised = torch.empty_like(differences)
        for first, last in pairwise(sorted({0, *(cut for cut in cuts if cut < len(values)), len(values)})):
            layout = lay_out(slots[first:last])
            widths, chosen = layout.widths.tolist(), torch.from_numpy(layout.slots)
            rows = {name: column[chosen] for name, column in self.state.items()}
            found = self.averages.differences(widths, rows, torch.from_numpy(values[first:last][layout.order]), rows["observations"] == 0, unseen)
            place = first + torch.from_numpy(layout.order)
            differences[place], standardised[place] = found, self.spread.standardised(widths, rows, found)
            rows["observations"] += torch.from_numpy(np.bincount(layout.rank))
            for name, column in rows.items():
                self.state[name][chosen] = column
        return differences, standardised


def noise(rows: int, features: int = 2, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(rows, features)).astype(np.float32)


def alone(values: NDArray[np.float32], spans: Sequence[int] = SPANS) -> tuple[Tensor, Tensor]:
    return Bank(spans=spans, features=values.shape[1]).feed(np.zeros(len(values), np.int64), values)


def plain_average(values: NDArray[np.float32], span: int) -> NDArray[np.float64]:
    averages = [values[0].astype(np.float64)]
    for value in values[1:]:
        averages.append(averages[-1] + 2 / (span + 1) * (value - averages[-1]))
    return np.array(averages)


def test_what_is_frozen_moves_neither_reference_nor_spread_and_touches_nobody_else() -> None:
    bank, values = Bank(entities=2, half_life=20), torch.from_numpy(noise(2) + 5)
    rows = {name: column.clone() for name, column in bank.state.items()}
    free = {name: column.clone() for name, column in rows.items()}
    rows[FROZEN] = torch.tensor([True, False])

    for given in (rows, free):
        bank.spread.standardised([2], given, bank.averages.differences([2], given, values))

    for name in ("chart.reference", "chart.variance"):
        assert torch.equal(rows[name][0], bank.state[name][0])
        assert not torch.equal(free[name][0], bank.state[name][0])
    assert all(torch.equal(rows[name][1], column[1]) for name, column in free.items())
    assert torch.equal(rows["chart.averages"], free["chart.averages"])


def test_each_span_is_a_plain_exponentially_weighted_average_begun_with_the_first_value() -> None:
    values = noise(100)

    found, _ = alone(values)

    for place, span in enumerate(SPANS):
        assert found[:, place].numpy() == pytest.approx(plain_average(values, span), abs=1e-5)


def test_a_missing_value_leaves_its_averages_and_touches_no_other_feature() -> None:
    values = noise(40)
    holed = values.copy()
    holed[10:15, 1] = NAN

    found, _ = alone(holed)
    whole, _ = alone(values)

    assert torch.equal(found[:, :, 0], whole[:, :, 0])
    assert torch.equal(found[10:15, :, 1], found[9:10, :, 1].expand(5, -1))
    there = np.delete(np.arange(40), range(10, 15))
    assert found[there, 1, 1].numpy() == pytest.approx(plain_average(values[there], 5)[:, 1], abs=1e-5)


def related(rows: int, features: int = 2, seed: int = 0) -> NDArray[np.float32]:
    """Features that wander together."""
    random = np.random.default_rng(seed)
    common = np.zeros(rows)
    for row in range(1, rows):
        common[row] = 0.95 * common[row - 1] + random.normal()
    return (common[:, None] + 0.5 * random.normal(size=(rows, features))).astype(np.float32)


def whitening_for(values: NDArray[np.float32]) -> Tensor:
    averages = alone(values)[0].double()
    return whitening_of(torch.stack([span.mT @ span for span in averages.unbind(1)]) / len(values), 0.0).float()


@pytest.mark.parametrize("missing", [1, 4])
def test_averages_of_what_is_missing_go_where_the_others_have_them_so_that_no_distance_grows(missing: int) -> None:
    whitening = whitening_for(related(4000, 6))
    values = related(600, 6, seed=1)
    holed = values.copy()
    holed[300:, :missing] = NAN
    unseen = pulled(SPANS, whitening)

    stale, whole = alone(holed)[0][400:], alone(values)[0][400:]
    drawn = Bank(features=6).feed(np.zeros(600, np.int64), holed, unseen=unseen)[0][400:]

    def distance(found: Tensor) -> float:
        return float(whitened(found, whitening).square().sum(-1).mean())

    assert distance(drawn) < 0.3 * distance(stale)
    assert (drawn - whole).abs().mean() < 0.5 * (stale - whole).abs().mean()


def test_a_feature_of_every_other_record_keeps_most_of_what_its_average_told() -> None:
    values = related(600)
    unseen = pulled(SPANS, whitening_for(related(4000)))
    values[500:, 1] += 5  # a fault of the one whose records come and go
    holed = values.copy()
    holed[501::2, 1] = NAN

    drawn, _ = Bank().feed(np.zeros(600, np.int64), holed, unseen=unseen)
    whole, _ = alone(values)

    apart, usually = (found[560:, -1, 1] - found[560:, -1, 0] for found in (drawn, whole))
    assert apart.mean() > 0.7 * usually.mean()


def test_features_that_know_nothing_of_each_other_go_back_to_the_reference_and_context_stays() -> None:
    holed = noise(200)
    holed[100:] = NAN
    holed[:100] += 3

    drawn, _ = Bank().feed(np.zeros(200, np.int64), holed, unseen=pulled(SPANS, torch.tensor([[1.0, 0.0]] * len(SPANS))))

    assert drawn[-1, :, 0].abs().max() < 0.2
    assert torch.equal(drawn[-1, :, 1], drawn[99, :, 1])


def test_cuts_change_no_bit_where_values_are_missing() -> None:
    unseen = pulled(SPANS, whitening_for(related(4000)))
    slots, values = np.random.default_rng(3).integers(0, 5, 300), related(300, seed=2)
    values[np.random.default_rng(4).random(values.shape) < 0.3] = NAN

    whole, _ = Bank(5).feed(slots, values, unseen=unseen)
    cut, _ = Bank(5).feed(slots, values, range(7, 300, 13), unseen)

    assert torch.equal(whole, cut)


def test_without_a_half_life_the_reference_stays_at_nought() -> None:
    found, _ = alone(np.full((200, 1), 2.0, np.float32))

    assert (found == 2.0).all()


def test_the_reference_goes_half_the_way_to_a_new_level_in_its_half_life_and_is_held_against_only_after() -> None:
    bank = Bank(features=1, half_life=30)

    found, _ = bank.feed(np.zeros(300, np.int64), np.full((300, 1), 2.0, np.float32))

    assert found[[0, 30], 0, 0].tolist() == pytest.approx([2.0, 1.0], abs=1e-4)
    assert found[-1].abs().max() < 0.01
    assert bank.state["chart.reference"].item() == pytest.approx(2.0, abs=0.01)


def test_a_wild_value_moves_the_reference_no_more_than_one_three_deviations_off() -> None:
    def reference_after(value: float) -> float:
        bank = Bank(features=1, half_life=30)
        bank.feed(np.zeros(1, np.int64), np.array([[value]], np.float32))
        return float(bank.state["chart.reference"])

    assert reference_after(1e6) == reference_after(3.0) > reference_after(2.0) > 0
    assert reference_after(-1e6) == -reference_after(3.0)


def test_a_lasting_change_of_the_spread_becomes_usual() -> None:
    _, found = alone(3 * noise(1000, 1), spans=(1,))

    assert found[:20].std() > 2
    assert found[-300:].std() == pytest.approx(1.0, abs=0.2)


def test_a_wild_number_is_told_whole_and_teaches_the_spread_next_to_nothing() -> None:
    bank = Bank(features=1, spans=(1,))
    bank.feed(np.zeros(500, np.int64), noise(500, 1))
    before = bank.state["chart.variance"].item()

    _, found = bank.feed(np.zeros(1, np.int64), np.array([[1000.0]], np.float32))

    assert found.item() == pytest.approx(1000 / before**0.5, rel=1e-3)
    assert before < bank.state["chart.variance"].item() < 1.05 * before


def test_what_never_moves_is_not_measured_ever_finer() -> None:
    def told_after(rows: int) -> float:
        values = np.zeros((rows + 1, 1), np.float32)
        values[-1] = 1.0
        return float(alone(values, (1,))[1][-1])

    assert 2 < told_after(1000) == told_after(2000) < 11


def test_neither_averages_nor_spread_depend_on_where_batches_are_cut() -> None:
    slots, values = np.random.default_rng(1).integers(0, 5, 300), noise(300)
    values[::7, 0] = NAN
    whole, cut = Bank(5, half_life=20), Bank(5, half_life=20)

    expected, found = whole.feed(slots, values), cut.feed(slots, values, [*range(1, 40), 77, 150, 151])

    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert all(torch.equal(cut.state[name], column) for name, column in whole.state.items())


def moments_of(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values.T @ values / len(values))[None]


def correlated(rows: int = 2000) -> NDArray[np.float64]:
    mixed: NDArray[np.float64] = np.random.default_rng(2).normal(size=(rows, 3)) @ np.array([[1.0, 0.8, 0.0], [0.0, 0.5, 0.2], [0.0, 0.0, 3.0]])
    return mixed


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 1.0])
def test_squares_of_what_is_whitened_sum_to_mahalanobis_distance(shrinkage: float) -> None:
    values = correlated()
    covariance = values.T @ values / len(values)
    variance = np.diag(np.diag(covariance))
    covariance = (1 - shrinkage) * covariance + shrinkage * variance + 1e-3 * np.trace(covariance) / 3 * np.eye(3)

    found = whitened(torch.from_numpy(values)[:, None].float(), whitening_of(moments_of(values), shrinkage).float())

    expected = (values @ np.linalg.inv(covariance) * values).sum(1)
    assert (found**2).sum(-1)[:, 0].numpy() == pytest.approx(expected, rel=1e-4)


def test_full_shrinkage_leaves_each_feature_to_itself() -> None:
    root = whitening_of(moments_of(correlated()), 1.0)[0]

    assert torch.equal(root, torch.diag(root.diagonal()))


def test_features_that_never_varied_are_whitened_to_finite_numbers() -> None:
    values = correlated()
    values[:, 1] = 0.0

    assert whitening_of(moments_of(values), 0.1).isfinite().all()
    assert whitening_of(torch.zeros(1, 3, 3, dtype=torch.float64), 0.1).isfinite().all()


@pytest.mark.parametrize("features", [1, 3, 17])
def test_the_bits_of_a_whitened_row_do_not_depend_on_the_batch(features: int) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(600, 3, features, generator=generator)
    whitening = torch.randn(3, features, features, generator=generator)

    whole = whitened(values, whitening)

    for size in (1, 7, 255, 256, 257):
        assert torch.equal(torch.cat([whitened(part, whitening) for part in torch.split(values, size)]), whole)
