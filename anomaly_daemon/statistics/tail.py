"""How rare a score is for its entity: two ways to tell the tail of its deviations, pooled by how well each told that entity's so far.

Quantiles that are followed hold whatever the distribution, but a run of high scores throws them out too far; a fitted tail is steady, but holds
only where its family does. Neither is exceeded as often as it says on every stream; which one is, a stream shows as it goes.
Sources: Vovk 1998, "A Game of Prediction with Expert Advice" (weights by likelihood; here with a share that none loses);
Diks, Panchenko & van Dijk 2011, "Likelihood-based Scoring Rules for Comparing Density Forecasts in Tails".
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from anomaly_daemon.domain.columns import Column
from anomaly_daemon.statistics.credit import Credit
from anomaly_daemon.statistics.excesses import Excesses
from anomaly_daemon.statistics.far_quantiles import FarQuantiles
from anomaly_daemon.statistics.score_prior import EXCESS_AT, LEVELS, ScorePrior
from anomaly_daemon.statistics.window import TAIL_PROBABILITY_MIN

_CREDIT, _CREDIT_BACK = 20.0, 0.02  # comes back over a thousand observations
_KEPT_SHARE = 0.05  # of the pool, whatever the odds
_EVIDENCE_MAX, _ODDS_MAX = 4.0, 1000.0  # of one excess, of all; logs


class Tail:
    """Tail probability of a deviation: below LEVELS[EXCESS_AT] pooled, above it by the followed quantiles alone.

    State: quantiles, moments of the excesses; log odds of the fitted tail against the followed one, and the credit of suspects, float32.
    """

    def __init__(self, name: str, half_life: float, prior: ScorePrior) -> None:
        """half_life: observations after which what an exceedance taught counts half. prior: what an entity begins from."""
        self._quantiles = FarQuantiles(name, half_life, prior.quantiles)
        self._excesses = Excesses(name, LEVELS[EXCESS_AT], half_life, prior.excess, prior.shape)
        self._gaps, self._moments = self._quantiles.gaps.name, self._excesses.moments.name
        self._odds, self._credit = f"{name}.odds", Credit(f"{name}.credit", _CREDIT, _CREDIT_BACK)

    def columns(self) -> tuple[Column, ...]:
        """Quantiles, moments, odds and credit, 48 bytes."""
        return (self._quantiles.gaps, self._excesses.moments, Column(self._odds, "float32"), self._credit.column())

    def known(self, rows: Mapping[str, Tensor], _deviations: Tensor) -> Tensor:
        """What is known of the tail as it stands, a copy, float32 [n, K + 3]."""
        return torch.cat([rows[self._gaps], rows[self._moments], rows[self._odds][:, None]], 1)

    def probability(self, known: Tensor, deviations: Tensor) -> Tensor:
        """Of a deviation [n] as high, float64 [n] in [1e-4, 1], by what was `known` [n, K + 3] before it."""
        known = known.double()
        gaps, moments, odds = known[:, : len(LEVELS)], known[:, len(LEVELS) : -1], known[:, -1]
        quantiles = gaps.cumsum(1)
        excess = deviations - quantiles[:, EXCESS_AT]
        followed = self._quantiles.log_probability(gaps, quantiles, deviations)[0].exp_()
        fitted = self._excesses.log_probability(moments, excess)[0].exp_() * LEVELS[EXCESS_AT]
        share = _KEPT_SHARE + (1 - 2 * _KEPT_SHARE) * odds.sigmoid()
        pooled = torch.where(excess > 0, torch.lerp(followed, fitted, share), followed)
        return pooled.clamp_(TAIL_PROBABILITY_MIN, 1.0)

    def learn(self, rows: Mapping[str, Tensor], _known: Tensor, deviations: Tensor, weight: Tensor, is_taught: Tensor, seen: Tensor) -> None:
        """Take deviations [n] in where they teach at all, [n] bool, at `weight` [n] in [0, 1], below 1 suspect; elsewhere no bit changes.

        Suspects of weight 0 teach too, while there is credit, see Credit. `seen` [n] float64 says how much was learned before.
        """
        taught = self._credit.weighed(rows, weight, is_taught)
        gaps = rows[self._gaps].double()
        quantiles = gaps.cumsum(1)
        far = ((deviations > quantiles[:, EXCESS_AT]) & (taught > 0)).nonzero()[:, 0]
        if len(far):
            self._compare(rows, far, gaps[far], quantiles[far], deviations[far], taught[far], seen[far])
        rows[self._gaps].copy_(self._quantiles.learned(gaps, quantiles, deviations, taught, seen))

    def _compare(
        self, rows: Mapping[str, Tensor], far: Tensor, gaps: Tensor, quantiles: Tensor, deviations: Tensor, weight: Tensor, seen: Tensor
    ) -> None:
        """Which of the two told an excess better, and what it teaches the fitted one; all [m] but `rows`, of which they are `far`."""
        moments, odds = rows[self._moments], rows[self._odds]
        before, excess = moments[far].double(), deviations - quantiles[:, EXCESS_AT]
        followed = self._quantiles.log_probability(gaps, quantiles, deviations)[1] - math.log(LEVELS[EXCESS_AT])
        fitted = self._excesses.log_probability(before, excess)[1]
        evidence = (fitted - followed).clamp_(-_EVIDENCE_MAX, _EVIDENCE_MAX) * weight
        odds[far] = (odds[far].double() + evidence).clamp_(-_ODDS_MAX, _ODDS_MAX).to(odds.dtype)
        moments[far] = self._excesses.learned(before, excess, weight, seen).to(moments.dtype)
