"""Prediction, reconstruction, residual, conditional: what the composite LSTM autoencoder, its state carried per entity, did not expect.

Each dense segment is one `nn.LSTM` call from the carried state; an entity's newest `decode_steps` observations are rebuilt
every `decode_every` of its own observations. On the CPU no bit of any result depends on where the stream was cut into
micro-batches: recurrent layers run in oneDNN, all else is row-wise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anomaly_daemon.channels.base import Evidence, Seen
from anomaly_daemon.channels.chart import ChartChannel
from anomaly_daemon.channels.conditional import CONDITIONAL, ConditionalChannel
from anomaly_daemon.channels.ring import Ring
from anomaly_daemon.domain.columns import Column
from anomaly_daemon.model import errors
from anomaly_daemon.model.artifact import Artifact
from anomaly_daemon.model.charts import residual_of
from anomaly_daemon.model.scaling import FleetScale, scale_with
from anomaly_daemon.settings import Settings
from anomaly_daemon.statistics.ordered import summed

PREDICTION, RECONSTRUCTION, RESIDUAL = "prediction", "reconstruction", "residual"


@dataclass(slots=True)
class Memory:
    """What the network made of a micro-batch. expected: float32 [N, F], scaled, foretold before each row. tops: [N, H] after it.

    told: the rows last asked for and their windows, since an alert's window and its terms are of the same rows.
    """

    expected: Tensor
    tops: Tensor
    told: tuple[Tensor, Tensor] | None = None


class Recurrent:
    """The network of one model and its state of every entity."""

    def __init__(self, artifact: Artifact, settings: Settings, ring: Ring, device: str) -> None:
        engine = settings.engine
        self._shape, self._scale, self._device = artifact.shape, artifact.scale, device
        self._network = artifact.model.to(device).eval()
        self.prediction_level = artifact.prediction_level.to(device)
        self._reconstruction_level = artifact.reconstruction_level.to(device)[: engine.decode_steps]
        self._every, self._steps, self._ring, self._tails = engine.decode_every, engine.decode_steps, ring, settings.model.tails
        wanted, width = settings.evidence.channels, self._shape.layers * self._shape.hidden
        self._chart = ChartChannel(RESIDUAL, artifact.residual, settings.evidence.residual, device) if RESIDUAL in wanted else None
        self._conditional = ConditionalChannel(artifact.conditional, device) if CONDITIONAL in wanted and artifact.conditional is not None else None
        self._is_rebuilding = RECONSTRUCTION in wanted
        held = (Column(RECONSTRUCTION, "float32", fill=float("nan")),) if self._is_rebuilding else ()
        charted = tuple(column for part in (self._chart, self._conditional) if part is not None for column in part.columns)
        self.columns = (Column("hidden", "float32", (width,)), Column("cell", "float32", (width,)), *held, *charted)

    def observe(self, seen: Seen) -> tuple[dict[str, Evidence], Memory]:
        """See Channel."""
        tops, first = self._encode(seen)
        previous = torch.from_numpy(seen.layout.previous[len(first) :]).to(self._device)
        before = torch.cat([first, tops.index_select(0, previous)])
        expected = self._network.predict(before)
        memory = Memory(expected, tops)
        is_foretold = seen.index.count > 1
        prediction = torch.where(is_foretold, errors.prediction_error(expected, seen.scaled, self.prediction_level), torch.nan)
        evidence = {PREDICTION: Evidence(prediction, ~prediction.isnan(), lambda chosen: self._prediction_terms(seen, memory, chosen))}
        if self._is_rebuilding:
            reconstruction, is_due = self._reconstruct(seen, tops)
            evidence[RECONSTRUCTION] = Evidence(reconstruction, is_due, lambda chosen: self._reconstruction_terms(seen, memory, chosen))
        if self._chart is not None:
            residual = residual_of(expected, seen.scaled, self.prediction_level)
            evidence |= self._chart.observe(seen, torch.where(is_foretold[:, None], residual, torch.nan))
        if self._conditional is not None:
            evidence |= self._conditional.observe(seen, before)
        return evidence, memory

    def rebuilt(self, memory: Memory, chosen: Tensor) -> Tensor:
        """The newest observations at chosen rows, rebuilt from the states there, newest first: float32 [n, K, F], scaled. Equal for any batch."""
        if memory.told is None or memory.told[0] is not chosen:
            memory.told = chosen, self._network.reconstruct(self._network.encode(memory.tops.index_select(0, chosen)), self._steps)
        return memory.told[1]

    def _prediction_terms(self, seen: Seen, memory: Memory, chosen: Tensor) -> Tensor:
        expected, scaled = memory.expected.index_select(0, chosen), seen.scaled.index_select(0, chosen)
        return errors.squared_terms(expected, scaled, self.prediction_level).nan_to_num(nan=0.0)

    def _reconstruction_terms(self, seen: Seen, memory: Memory, chosen: Tensor) -> Tensor:
        terms = errors.squared_terms(self.rebuilt(memory, chosen), self._targets(seen, chosen), self._reconstruction_level)
        return summed(terms.nan_to_num(nan=0.0))

    def _encode(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """Top-layer output of every row, [N, H], and of each entity before its first row, [B, H]."""
        shape, rows = self._shape, seen.rows
        inputs = self._network.inputs(seen.scaled, seen.gaps)
        hidden, cell = (rows[name].view(-1, shape.layers, shape.hidden).transpose(0, 1).contiguous() for name in ("hidden", "cell"))
        first = hidden[-1].clone()
        tops = torch.empty((len(inputs), shape.hidden), device=self._device)
        for segment in seen.layout.segments():
            width, here = segment.width, slice(segment.start, segment.start + segment.steps * segment.width)
            state = (hidden[:, :width].contiguous(), cell[:, :width].contiguous())
            top, (next_hidden, next_cell) = self._network.step(inputs[here].view(segment.steps, width, -1), state)
            tops[here] = top.reshape(-1, shape.hidden)
            hidden[:, :width], cell[:, :width] = next_hidden, next_cell
        rows["hidden"].copy_(hidden.transpose(0, 1).reshape(len(first), -1))
        rows["cell"].copy_(cell.transpose(0, 1).reshape(len(first), -1))
        return tops, first

    def _reconstruct(self, seen: Seen, tops: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction error known at each row, float64 [N]: that of the entity's last rebuilt window; and whether it is new there."""
        index, rows = seen.index, seen.rows
        since = index.count.remainder(self._every)
        is_due = since == 0
        due = is_due.nonzero().flatten()
        held = rows[RECONSTRUCTION].index_select(0, index.rank).double()
        if len(due):
            rebuilt = self._network.reconstruct(self._network.encode(tops.index_select(0, due)), self._steps)
            found = torch.full((len(tops),), torch.nan, dtype=torch.float64, device=self._device)
            # Rounded as it is kept, so that a row says the same whether its window was rebuilt in this batch or before.
            found[due] = errors.reconstruction_error(rebuilt, self._targets(seen, due), self._reconstruction_level).float().double()
            last_due_step = index.step - since
            last_due = index.starts[last_due_step.clamp(min=0)] + index.rank
            held = torch.where(last_due_step >= 0, found.index_select(0, last_due), held)
            rows[RECONSTRUCTION].copy_(held.index_select(0, index.last_row))
        return held, is_due

    def _targets(self, seen: Seen, chosen: Tensor) -> Tensor:
        """The newest observations at the chosen rows on the scale of that row, newest first: float32 [chosen, K, F]."""
        history = self._ring.history(seen.index, seen.table, seen.values, chosen, self._steps)
        center, spread = (scale.index_select(0, chosen)[:, None] for scale in (seen.center, seen.spread))
        return scale_with(in_fleet_space(self._scale, history), center, spread, self._tails)


def in_fleet_space(scale: FleetScale, values: Tensor) -> Tensor:
    """Values [..., F] in the features' unit → float32 in fleet space, same shape and device."""
    flat = values.reshape(-1, values.shape[-1]).cpu().numpy()
    return torch.from_numpy(scale.transform(flat)).to(values.device).reshape(values.shape)
