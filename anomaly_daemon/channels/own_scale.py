"""Each entity's own scale in fleet space: learned over its first observations, then kept."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from anomaly_daemon.domain.columns import FROZEN, Column
from anomaly_daemon.model.scaling import learn_scale, own_scale
from anomaly_daemon.state.segments import Layout

_MEAN, _VARIANCE, _COUNT = "scale.mean", "scale.variance", "scale.count"


class OwnScale:
    """Mean and variance of every feature over the entity's first `observations` values of it, see `learn_scale`."""

    def __init__(self, features: int, observations: int) -> None:
        # float16 counts exactly to 2048, the most that settings allow.
        shape = (features,)
        self.columns = (Column(_MEAN, "float32", shape), Column(_VARIANCE, "float32", shape, 1.0), Column(_COUNT, "float16", shape))
        self._observations = observations

    def before(self, layout: Layout, rows: Mapping[str, Tensor], fleet: Tensor) -> tuple[Tensor, Tensor]:
        """Center and spread of each row's entity, [N, F] each, as known before the row; then learn from `fleet` [N, F]."""
        rank = torch.from_numpy(layout.rank).to(fleet.device)
        count = rows[_COUNT]
        present, frozen = ~fleet.isnan(), rows.get(FROZEN)
        if frozen is not None:
            present &= ~frozen.index_select(0, rank)[:, None]
        if not bool((present & (count < self._observations).index_select(0, rank)).any()):
            center, spread = own_scale(count.float(), rows[_MEAN], rows[_VARIANCE])
            return center.index_select(0, rank), spread.index_select(0, rank)
        center, spread = torch.empty_like(fleet), torch.empty_like(fleet)
        for start, width in zip(layout.starts.tolist(), layout.widths.tolist(), strict=True):
            held, mean, variance = (rows[name][:width] for name in (_COUNT, _MEAN, _VARIANCE))
            here = slice(start, start + width)
            center[here], spread[here] = own_scale(held.float(), mean, variance)
            learn_scale(held, mean, variance, fleet[here], present[here] & (held < self._observations))
        return center, spread
