"""What suspects teach the methods whose suspects are the very scores beyond the quantile that they learn."""

from __future__ import annotations

import torch
from torch import Tensor

from anomaly_daemon.domain.columns import Column
from anomaly_daemon.statistics.credit import Credit
from anomaly_daemon.thresholds.base import PREFIX, Rows, may_teach

_MOST, _BACK = 5.0, 4.0  # of their credit; the latter in tails: four times what comes by chance
_REACH = 1.25  # quantiles


class Suspects:
    """Of the quantile at `tail`.

    All of them teach while they are no more than the tail has (see Credit), for without them the quantile ends lower and lower; but none as more than
    a little beyond the quantile, so that a short incident does not make its entity deaf. Measured on normal scores at a tail of 1e-3, and after 50
    records of an anomaly twice as high as the quantile: exceeded .97 times as often as said and not deaf to its like, in place of 2.6 times.
    """

    def __init__(self, tail: float) -> None:
        self._credit = Credit(f"{PREFIX}.suspects", _MOST, _BACK * tail)

    def columns(self) -> tuple[Column, ...]:
        """Their credit."""
        return (self._credit.column(),)

    def taught(self, rows: Rows, score: Tensor, weight: Tensor, quantile: Tensor) -> tuple[Tensor, Tensor]:
        """The scores and weights to learn, [n] each."""
        within = torch.where(weight < 1, score.minimum(quantile * _REACH), score)
        return within, self._credit.weighed(rows, weight, may_teach(rows))
