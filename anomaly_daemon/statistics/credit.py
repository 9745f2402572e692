"""Lets suspects teach while they are few: statistics that never saw any would be of what is no suspect, and end where suspects begin."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from anomaly_daemon.domain.columns import Column


class Credit:
    """Suspects teach at full weight while it lasts, one each; every observation that may teach brings `back` of it back, up to `most`.

    The far end of an ordinary distribution never uses it up, a long incident does at once.
    """

    def __init__(self, name: str, most: float, back: float) -> None:
        self._name, self._most, self._back = name, most, back

    def column(self) -> Column:
        """What is left of it."""
        return Column(self._name, "float32", fill=self._most)

    def weighed(self, rows: Mapping[str, Tensor], weight: Tensor, is_taught: Tensor) -> Tensor:
        """The weight to learn at, [n], of `weight` [n] in [0, 1], below 1 suspect; 0 and no bit changed where nothing is taught, [n] bool."""
        credit = rows[self._name]
        if bool((weight == 1).all()):
            credit.add_(self._back).clamp_(max=self._most)
            return weight
        is_trusted = is_taught & (weight < 1) & (credit >= 1)
        credit.copy_(torch.where(is_taught, (credit - is_trusted.to(credit.dtype) + self._back).clamp_(max=self._most), credit))
        return torch.where(is_trusted, 1.0, weight * is_taught)
