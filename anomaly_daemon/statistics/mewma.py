"""Multivariate exponentially weighted moving averages (MEWMA): what sees a level move that no single record gives away.

A bank of charts, one a span: the average of each feature over about so many observations, against a reference that may
follow slowly; their distance is Mahalanobis', under the covariance that such averages have where nothing is wrong.
Sources: Lowry, Woodall, Champ & Rigdon 1992, "A Multivariate Exponentially Weighted Moving Average Control Chart"; Ledoit & Wolf 2004
(shrinkage); contributions of features: Garthwaite & Koch 2016, "Evaluating the contributions of individual variables to a quadratic form".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from anomaly_daemon.domain.columns import FROZEN, Column

# One wild value moves the reference as much as one that lies this many deviations off, no more.
_REFERENCE_STEP_MAX = 3.0
_RIDGE = 1e-3
_BLOCK_ROWS = 256
# What a place that only follows from the other features weighs beside a value: little enough that a feature of every other record keeps its own.
_PULL = 1 / 3

Unseen = Callable[[Tensor, Tensor], Tensor]
"""Averages less reference [n, S, F], and which features are there, bool [n, F], of rows that lack some → the change of those that are not."""


class Mewma:
    """The averages of every entity, float32 [S, F], and the reference, float32 [F], which starts at 0."""

    def __init__(self, name: str, spans: Sequence[int], features: int, reference_half_life: float | None) -> None:
        """reference_half_life: observations after which the reference has gone half the way to a new level; None: it stays at 0."""
        self._averages, self._reference = f"{name}.averages", f"{name}.reference"
        self._rates = rates_of(spans)
        self._rate = None if reference_half_life is None else _rate_of(reference_half_life)
        reference = () if self._rate is None else (Column(self._reference, "float32", (features,)),)
        self.columns = (Column(self._averages, "float32", (len(spans), features)), *reference)

    def differences(
        self, widths: Sequence[int], rows: Mapping[str, Tensor], values: Tensor, is_first: Tensor | None = None, unseen: Unseen | None = None
    ) -> Tensor:
        """Averages less reference at each row: float32 [N, S, F]; the columns are advanced in place.

        widths: [T] rows of each step, those of the same entities first. values: float32 [N, F], step after step; of a missing one
        (NaN) `unseen` moves the averages, without it they stay. is_first: bool [B], entities never seen, whose averages begin with what is there;
        None: all begin at the reference, so that they never stray farther than they do in the long run.
        """
        averages, rates, frozen = rows[self._averages], self._rates.to(values.device), rows.get(FROZEN)
        found, present = values.new_empty(len(values), len(rates), values.shape[1]), ~values.isnan()
        is_whole = unseen is None or bool(present.all())
        steps = zip(*(torch.split(column, list(widths)) for column in (found, values, present)), strict=True)
        for step, (told, value, there) in enumerate(steps):
            average = averages[: len(value)]
            difference = torch.where(there[:, None], value[:, None] - average, 0.0)
            change = (torch.where(is_first[: len(value), None, None], 1.0, rates) if is_first is not None and step == 0 else rates) * difference
            if unseen is not None and not is_whole:
                self._add_unseen(change, rows, average, there, unseen)
            average += change
            told.copy_(average)
            if self._rate is not None:
                reference = rows[self._reference][: len(value)]
                told -= reference[:, None]
                learns = there if frozen is None else there & ~frozen[: len(value), None]
                from_reference = torch.where(learns, value - reference, 0.0)
                reference += self._rate * from_reference.clamp(-_REFERENCE_STEP_MAX, _REFERENCE_STEP_MAX)
        return found

    def _add_unseen(self, change: Tensor, rows: Mapping[str, Tensor], average: Tensor, there: Tensor, unseen: Unseen) -> None:
        """What else changes of the averages [n, S, F], of the rows that lack some feature."""
        lacking = (~there).any(1).nonzero()[:, 0]
        if not len(lacking):
            return
        apart, seen = average[lacking], there[lacking]
        if self._rate is not None:
            apart = apart - rows[self._reference][lacking, None]
        change[lacking] += torch.where(seen[:, None], 0.0, unseen(apart, seen))


class Spread:
    """The variance of numbers whose usual one is 1, as each entity shows it of late: float32 [S, F]."""

    _GATE = 4.0  # a number so many deviations off counts as this one, and teaches a tenth
    _GATED = 0.1
    _FLOOR = 0.3  # what hardly moves any more is still not measured better

    def __init__(self, name: str, shape: tuple[int, ...], half_life: float) -> None:
        """half_life: observations after which half of a lasting change counts as usual."""
        self._variance, self._rate = f"{name}.variance", _rate_of(half_life)
        self.columns = (Column(self._variance, "float32", shape, 1.0),)

    def standardised(self, widths: Sequence[int], rows: Mapping[str, Tensor], numbers: Tensor) -> Tensor:
        """Each number by the deviation known before it: float32 [N, S, F] → same; the column is advanced in place."""
        variance, frozen = rows[self._variance], rows.get(FROZEN)
        found = torch.empty_like(numbers)
        for told, number in zip(*(torch.split(column, list(widths)) for column in (found, numbers)), strict=True):
            own = variance[: len(number)]
            deviation = own.sqrt().clamp(min=self._FLOOR)
            told.copy_(number / deviation)
            limit = self._GATE * deviation
            rate = torch.where(told.abs() > self._GATE, self._GATED * self._rate, self._rate)
            if frozen is not None:
                rate = torch.where(frozen[: len(number), None, None], 0.0, rate)
            squared = number.abs().minimum(limit) ** 2
            own += rate * (squared - own)
        return found


def rates_of(spans: Sequence[int]) -> Tensor:
    """What a new value weighs in the average over each span: float32 [S, 1]."""
    return torch.tensor([2 / (span + 1) for span in spans])[:, None]


def whitening_of(moments: Tensor, shrinkage: float) -> Tensor:
    """The symmetric inverse root of each span's covariance: [S, F, F] float64 of second moments → same shape.

    Off-diagonal entries are shrunk by that share, and a thousandth of the mean variance keeps what never varied finite.
    """
    variance = moments.diagonal(dim1=1, dim2=2)
    ridge = _RIDGE * variance.mean(1).clamp(min=1e-6)[:, None, None] * torch.eye(moments.shape[1], dtype=moments.dtype)
    values, vectors = torch.linalg.eigh((1 - shrinkage) * moments + shrinkage * torch.diag_embed(variance) + ridge)
    root: Tensor = (vectors / values.clamp(min=1e-12).sqrt()[:, None, :]) @ vectors.mT
    return root


def whitened(differences: Tensor, whitening: Tensor) -> Tensor:
    """[N, S, F] by [S, F, F] float32, or [S, F] where it is diagonal → [N, S, F]; a row's squares sum to its distance.

    A row's bits depend on that row only.
    """
    if whitening.dim() == differences.dim() - 1:
        return differences * whitening
    blocks = [(block[:, :, None, :] * whitening).sum(-1) for block in torch.split(differences, _BLOCK_ROWS)]  # [n, S, 1, F] · [S, F, F]
    return torch.cat(blocks)


def pulled(spans: Sequence[int], whitening: Tensor) -> Unseen:
    """Towards the place that a feature's average is expected at, given those of the other features. whitening: as `whitened` takes it.

    By the precision matrix, the square of the whitening, whose row over its diagonal is a feature's regression on the others; where several are
    missing each is pulled by what the others are by now, the more slowly the more there are, so that it settles.
    """
    if whitening.dim() == 2:
        regression = (whitening > 0).to(whitening.dtype)
    else:
        precision = (whitening.double() @ whitening.double()).float()
        regression = precision / precision.diagonal(dim1=1, dim2=2).clamp(min=torch.finfo(torch.float32).tiny)[:, :, None]

    rates = _PULL * rates_of(spans).to(whitening.device)

    def unseen(apart: Tensor, there: Tensor) -> Tensor:
        share = 1 / (~there).sum(1)
        return torch.minimum(rates, share[:, None, None]) * -whitened(apart, regression)

    return unseen


def without_zeros(whitening: Tensor) -> Tensor:
    """[S, F, F] → its diagonal [S, F] where nothing stands beside it: F times less to multiply."""
    diagonal = whitening.diagonal(dim1=1, dim2=2)
    return diagonal.contiguous() if torch.equal(torch.diag_embed(diagonal), whitening) else whitening


def _rate_of(half_life: float) -> float:
    return 1.0 - math.pow(0.5, 1 / half_life)
