"""What training keeps for the surprise channel: how often each feature goes as far as it does while nothing is wrong.

A feature's surprise is minus the log of the share of ordinary rows that went at least as far, so features of any shape
are on one scale, and independent ones may be added (Fisher 1932, "Statistical Methods for Research Workers").
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_daemon.model.corpus import Corpus
from anomaly_daemon.model.scaling import FleetScale
from anomaly_daemon.settings import Feature
from anomaly_daemon.state.segments import lay_out
from anomaly_daemon.statistics.ordered import summed
from anomaly_daemon.statistics.recent import RecentSums

Reals = NDArray[np.float64]

# However far out, a feature says no more than this.
SURPRISE_MAX = 30.0
# Less is everyday: only what goes beyond adds up.
EVERYDAY = 2.0
_KNOTS = 64
_RAREST = 7.0  # minus the log of the rarest share that is read off the rows themselves: about one in a thousand
# Beyond the last knot the tail is taken as exponential, as the farthest rows are on average: this share of them, but not too few.
_TAIL_SHARE = 0.01
_TAIL_ROWS_MIN = 20
_TAIL_SCALE_MIN = 0.05  # on the scale the network sees
# Of each sequence, while the entity's habits are still being learned.
_LEAD_IN_SHARE = 0.2
_QUANTILE = 0.99
_ORDINARY_MIN = 1e-9
_BLOCK_ROWS = 2**16
# Strange in one direction only: what is frequent, usual or overdue is no surprise; silence is told by itself.
_UPWARD, _DOWNWARD = ("category", "unusual_time", "count"), ("elapsed",)


@dataclass(frozen=True, slots=True)
class SurpriseFit:
    """How far features go while nothing is wrong; F features, K knots, H half-lives; float64, in two rows: of a feature, and of its negative.

    knots:    [2, F, K], never falling. surprise: [2, F, K], at the knots.
    reach:    [2, F], how far beyond the last knot one more unit of surprise lies.
    discount: [2, F], taken off: log 2 where both directions are evidence, 0 where only this one is, infinite where it is none.
    ordinary: [1 + H], the .99 quantile of a row's surprise and of its recent sums.
    """

    half_lives_s: tuple[float, ...]
    knots: Tensor
    surprise: Tensor
    reach: Tensor
    discount: Tensor
    ordinary: Tensor

    @property
    def is_evidence(self) -> Tensor:
        """Which features count: bool [F]."""
        return torch.isfinite(self.discount).any(0)

    def tensors(self) -> dict[str, Tensor]:
        """All but the half-lives, by name."""
        return {"knots": self.knots, "surprise": self.surprise, "reach": self.reach, "discount": self.discount, "ordinary": self.ordinary}

    def on(self, device: str) -> SurpriseFit:
        """The same, there."""
        return SurpriseFit(self.half_lives_s, **{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def terms(self, scaled: Tensor) -> Tensor:
        """Each feature's surprise beyond the everyday, softly: float32 [N, F], NaN = missing → float64 [N, F], 0 where missing or no evidence."""
        is_present = ~scaled.isnan()
        values = torch.where(is_present, scaled, 0.0).double().T.contiguous()  # [F, N]
        surprise = torch.maximum(self._one_way(0, values), self._one_way(1, -values)).clamp(0.0, SURPRISE_MAX)
        beyond = torch.log1p(torch.exp(surprise - EVERYDAY)).T  # [N, F]
        return torch.where(is_present & self.is_evidence, beyond, 0.0)

    def error(self, sums: Tensor) -> Tensor:
        """[N, 1 + H] → [N]: log(1 + error) is the sum over now and each half-life of log(1 + surprise / ordinary)."""
        return torch.expm1(summed(torch.log1p(sums / self.ordinary)))

    def _one_way(self, way: int, values: Tensor) -> Tensor:
        """Surprise of values [F, N] in one direction, less the discount; 0 before the first knot."""
        knots, surprise = self.knots[way], self.surprise[way]  # [F, K]
        place = torch.searchsorted(knots, values, right=True)
        below, above = (place - 1).clamp(min=0), place.clamp(max=knots.shape[1] - 1)
        low, high = knots.gather(1, below), knots.gather(1, above)
        share = torch.where(high > low, (values - low) / (high - low), 0.0).clamp(0.0, 1.0)
        start = surprise.gather(1, below)
        between = start + share * (surprise.gather(1, above) - start)
        beyond = (values - knots[:, -1:]).clamp(min=0.0) / self.reach[way][:, None]
        return torch.where(place > 0, between + beyond, 0.0) - self.discount[way][:, None]


def directions(features: Iterable[Feature], names: Sequence[str], is_evidence: Tensor) -> Tensor:
    """Whether a feature that rises is evidence, and one that falls: bool [2, F], in the order of the columns' names. is_evidence: bool [F]."""
    one_way = {feature.columns[0]: feature.kind for feature in features if feature.kind in (*_UPWARD, *_DOWNWARD)}
    found = torch.tensor([[one_way.get(name) not in _DOWNWARD for name in names], [one_way.get(name) not in _UPWARD for name in names]])
    return found & is_evidence


def fit_surprise(corpus: Corpus, scale: FleetScale, half_lives_s: tuple[float, ...], is_evidence: Tensor) -> tuple[SurpriseFit, Tensor]:
    """Fitted on the training parts, the start of each left out; and the errors it finds on the validation parts, float64 [R].

    is_evidence: bool [2, F], see `directions`.
    """
    values, gaps = corpus.values.cpu(), corpus.gaps.cpu()
    is_fitted, is_later = _parts(corpus)
    rows = values[torch.from_numpy(is_fitted)].double().numpy()
    knots, surprise, reach = (torch.from_numpy(np.stack(way)) for way in zip(_fit_one_way(rows), _fit_one_way(-rows), strict=True))
    discount = torch.from_numpy(np.where(is_evidence, np.where(is_evidence.all(0), math.log(2), 0.0), np.inf))
    unscaled = SurpriseFit(half_lives_s, knots, surprise, reach, discount, torch.ones(1 + len(half_lives_s), dtype=torch.float64))
    added = torch.cat([summed(unscaled.terms(block)) for block in torch.split(values, _BLOCK_ROWS)])
    lengths = np.diff([*corpus.first_rows, len(values)])
    layout = lay_out(np.repeat(np.arange(len(lengths)), lengths))
    order = torch.from_numpy(layout.order)
    recent = RecentSums("surprise", half_lives_s)
    kept = {column.name: torch.zeros(len(lengths), *column.shape, dtype=torch.float64) for column in recent.columns}
    sums = torch.empty(len(values), 1 + len(half_lives_s), dtype=torch.float64)
    sums[order] = recent.advance(layout.widths.tolist(), kept, added[order], gaps_s(gaps[order], scale))
    ordinary = np.quantile(sums[torch.from_numpy(is_fitted)].numpy(), _QUANTILE, axis=0)
    fit = replace(unscaled, ordinary=torch.from_numpy(np.maximum(ordinary, _ORDINARY_MIN)))
    return fit, fit.error(sums[torch.from_numpy(is_later)])


def gaps_s(gaps: Tensor, scale: FleetScale) -> Tensor:
    """Seconds since the record before, float64, from what the network is told of them; an unknown gap is an ordinary one."""
    return torch.expm1(gaps.double() * scale.gap_deviation + scale.gap_mean).clamp(min=0.0)


def _parts(corpus: Corpus) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which rows are fitted on, and which are held out to calibrate on: [R] each."""
    is_fitted, is_later = np.zeros((2, len(corpus.values)), np.bool_)
    for first, split in zip(corpus.first_rows, corpus.splits, strict=True):
        is_fitted[first + int(_LEAD_IN_SHARE * split.training) : first + split.training] = True
        is_later[first + split.training : first + split.training + split.validation] = True
    return is_fitted, is_later


def _fit_one_way(rows: Reals) -> tuple[Reals, Reals, Reals]:
    """Knots and surprise, [F, K] each, and reach, [F], of rows [R, F], NaN = missing. A feature that was never there has no surprise to give."""
    features = rows.shape[1]
    wanted = 1 - np.exp(-np.linspace(0.0, _RAREST, _KNOTS))
    knots, surprise, reach = np.zeros((features, _KNOTS)), np.zeros((features, _KNOTS)), np.full(features, np.inf)
    for feature, column in enumerate(rows.T):
        ordered = np.sort(column[~np.isnan(column)])
        total = len(ordered)
        if total:
            knots[feature] = ordered[np.minimum((total * wanted).astype(np.int64), total - 1)]
            as_far = total - np.searchsorted(ordered, knots[feature], side="left")
            surprise[feature] = -np.log((as_far + 1) / (total + 1))
            far = ordered[-max(int(_TAIL_SHARE * total), min(_TAIL_ROWS_MIN, total)) :]
            reach[feature] = max(float((far - far[0]).mean()), _TAIL_SCALE_MIN)
    return knots, surprise, reach
