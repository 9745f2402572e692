"""A fixed recurrent network, the same for every entity, whose state tells the recent past at several paces: an encoder that needs no training.

An echo state network in its sparsest form: every unit hears the inputs and its neighbour on a ring. On the host, with numpy.
Sources: Jaeger 2001, "The echo state approach to analysing and training recurrent neural networks"; Rodan & Tiňo 2011, "Minimum Complexity Echo
State Network"; Jaeger, Lukoševičius, Popovici & Siewert 2007 (leaky units).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_daemon.domain.columns import Column

Floats = NDArray[np.float64]

_LEAKS = (1.0, 0.3, 0.1, 0.03)  # units take turns in following at once and slowly
_RING = 0.9  # below 1: whatever the state was, it is forgotten
_INPUT_MAX, _BIAS_MAX = 1.4, 0.5
_SEED = 0


class Reservoir:
    """The state of every entity, float64 [units], each within ±1; it starts at 0."""

    def __init__(self, name: str, inputs: int, units: int) -> None:
        self._state = f"{name}.state"
        self.columns = (Column(self._state, "float64", (units,)),)
        generator = np.random.default_rng(_SEED)
        self._weights = generator.uniform(-_INPUT_MAX, _INPUT_MAX, (inputs, units)) / np.sqrt(inputs)
        self._bias = generator.uniform(-_BIAS_MAX, _BIAS_MAX, units)
        self._leak = np.resize(np.array(_LEAKS), units)
        self._neighbour = np.roll(np.arange(units), 1)

    def before(self, widths: Sequence[int], rows: Mapping[str, Tensor], values: Floats) -> Floats:
        """The state that each row finds, [N, units]; the column is advanced in place.

        widths: [T] rows of each step, those of the same entities first. values: [N, inputs], scaled; a missing one (NaN) counts as usual, 0.
        """
        heard = np.nan_to_num(values, nan=0.0)
        drive = np.repeat(self._bias[None], len(heard), 0)
        for column, weights in zip(heard.T, self._weights, strict=True):
            drive += column[:, None] * weights
        state = rows[self._state].cpu().numpy().copy()
        found = np.empty_like(drive)
        start = 0
        for width in widths:
            here = slice(start, start + width)
            own = found[here] = state[:width]
            total = drive[here] + _RING * own[:, self._neighbour]
            # Softsign: no bit of it depends on which library's tangent is at hand.
            state[:width] = own + self._leak * (total / (1 + np.abs(total)) - own)
            start += width
        rows[self._state].copy_(torch.from_numpy(state))
        return found
