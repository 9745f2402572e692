"""The recurrent state of every entity, advanced a micro-batch at a time.

Observations come laid out time-major. Each dense segment is one `nn.LSTM` call from the carried state; each entity's
newest `decode_steps` observations are rebuilt every `decode_every` of its own observations. On the CPU no bit of any
result depends on where the stream was cut into micro-batches: recurrent layers run in oneDNN, all else is row-wise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_daemon.domain.columns import OBSERVATIONS, Column
from anomaly_daemon.domain.errors import ArtifactError
from anomaly_daemon.model import evidence as errors
from anomaly_daemon.model.artifact import Artifact
from anomaly_daemon.model.scaling import scale_with, shrunk_scale
from anomaly_daemon.settings import Engine as EngineSettings
from anomaly_daemon.settings import Model as ModelSettings
from anomaly_daemon.state.segments import Layout
from anomaly_daemon.state.table import Rows, Table

CHANNELS = ("prediction", "reconstruction")
_BAND_LEVELS = 3.0


@dataclass(frozen=True, slots=True)
class Window:
    """The entity's observations up to and at a record, oldest first; W points, F features, in the features' own units.

    actual, rebuilt: [W, F] float64, NaN = missing or not rebuilt. steps_back: [W], 0 = the record itself.
    expected, lower, upper: [F], of the record itself. contribution: [F] float64, sums to 1.
    """

    actual: NDArray[np.float64]
    rebuilt: NDArray[np.float64]
    expected: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    contribution: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Work:
    """What one micro-batch brought to light, in layout order; kept until its alerts are written.

    channels: name → float64 [N], NaN where there is nothing to say; fresh: name → bool [N], new at this row.
    values: float32 [N, F] as observed. center, spread: float32 [N, F], the entity's scale before this row.
    scaled, expected: float32 [N, F], what the network saw and what it had predicted. tops: [N, hidden].
    seen: int64 [B], observations of each entity before the micro-batch.
    """

    layout: Layout
    channels: Mapping[str, Tensor]
    fresh: Mapping[str, Tensor]
    values: Tensor
    center: Tensor
    spread: Tensor
    scaled: Tensor
    expected: Tensor
    tops: Tensor
    seen: Tensor


class Engine:
    """Scale, encode, predict, rebuild. Reads and writes the rows it is handed and, of the table, only its ring."""

    def __init__(self, artifact: Artifact, engine: EngineSettings, model: ModelSettings, device: str) -> None:
        if engine.decode_steps > artifact.decode_steps:
            raise ArtifactError(
                f"the artifact rebuilds {artifact.decode_steps} steps, engine.decode_steps asks for {engine.decode_steps}; train again"
            )
        if model.scale != artifact.scale_kind:
            raise ArtifactError(f"model.scale: {model.scale}: the artifact was trained with {artifact.scale_kind}; train again or set it back")
        self._artifact, self._settings, self._device = artifact, engine, device
        self._network = artifact.model.to(device).eval()
        self._prediction_level = artifact.prediction_level.to(device)
        self._reconstruction_level = artifact.reconstruction_level.to(device)[: engine.decode_steps]
        self._own_scale = model.scale == "entity"
        self._scale_observations = model.scale_observations
        shape = artifact.shape
        hidden = Column("hidden", "float32", (shape.layers * shape.hidden,))
        cell = Column("cell", "float32", (shape.layers * shape.hidden,))
        held = Column("reconstruction", "float32", fill=float("nan"))
        self._gathered: tuple[Column, ...] = (hidden, cell, held)
        if self._own_scale:
            self._gathered += tuple(Column(f"scale.{part}", "float32", (shape.features,)) for part in ("mean", "variance"))
            # float16 counts exactly to 2048, the most that settings allow.
            self._gathered += (Column("scale.count", "float16", (shape.features,)),)
        self._ring = Column("ring", "float32", (engine.ring, shape.features), fill=float("nan"))

    @property
    def columns(self) -> tuple[Column, ...]:
        """All that is kept per entity."""
        return (*self._gathered, self._ring)

    @property
    def gathered(self) -> tuple[str, ...]:
        """The columns handed in as rows; the ring is read and written in place."""
        return tuple(column.name for column in self._gathered)

    @torch.inference_mode()
    def observe(self, layout: Layout, rows: Rows, table: Table, values: NDArray[np.float32], gaps_s: NDArray[np.float64]) -> Work:
        """Advance every entity over its observations.

        values: float32 [N, F] in layout order, NaN = missing. gaps_s: float64 [N] seconds since the entity's previous record.
        rows: this engine's columns and `observations` of the layout's entities; the former are written in place.
        """
        observed = torch.from_numpy(values).to(self._device)
        seen = rows[OBSERVATIONS.name].long()
        fleet = self._fleet(observed)
        center, spread = self._scales(layout, rows, fleet)
        scaled = scale_with(fleet, center, spread)
        gaps = torch.from_numpy(np.ascontiguousarray(self._artifact.scale.gap(gaps_s))).to(self._device)
        tops, first = self._encode(layout, rows, self._network.inputs(scaled, gaps))
        expected = self._predict(layout, tops, first)
        prediction = errors.prediction_error(expected, scaled, self._prediction_level)
        index = _Index(layout, seen, self._settings.decode_every, self._device)
        prediction = torch.where(index.count > 1, prediction, torch.nan)
        reconstruction = self._reconstruct(index, rows, table, observed, center, spread, tops)
        return Work(
            layout=layout,
            channels={"prediction": prediction, "reconstruction": reconstruction},
            fresh={"prediction": ~prediction.isnan(), "reconstruction": index.is_due},
            values=observed,
            center=center,
            spread=spread,
            scaled=scaled,
            expected=expected,
            tops=tops,
            seen=seen,
        )

    @torch.inference_mode()
    def remember(self, work: Work, table: Table) -> None:
        """Write the observations into the ring; after this the work's windows can no longer be told."""
        layout, ring = work.layout, table.slab(self._ring.name)
        lengths = np.bincount(layout.rank)
        kept = np.flatnonzero(layout.step >= lengths[layout.rank] - self._settings.ring)
        slots = layout.slots[layout.rank[kept]]
        position = (work.seen.cpu().numpy()[layout.rank[kept]] + layout.step[kept]) % self._settings.ring
        index = (torch.from_numpy(slots).to(self._device), torch.from_numpy(position).to(self._device))
        ring[index] = work.values.index_select(0, torch.from_numpy(kept).to(self._device))

    @torch.inference_mode()
    def explain(self, work: Work, table: Table, row: int, points: int) -> Window:
        """What the network makes of one row: rebuilt from the state at that row, so equal whatever the batch."""
        scale, steps = self._artifact.scale, self._settings.decode_steps
        center, spread = work.center[row], work.spread[row]
        length = max(1, min(points, self._settings.ring))
        recent = self._recent(work, table, row, max(length, steps))
        rebuilt = self._network.reconstruct(self._network.encode(work.tops[row : row + 1]), steps)
        target = scale_with(self._fleet(recent[:steps]), center.expand(steps, -1), spread.expand(steps, -1))[None]
        terms = errors.squared_terms(rebuilt, target, self._reconstruction_level)[0].nan_to_num(nan=0.0).sum(0) / steps
        terms = terms + errors.squared_terms(work.expected[row], work.scaled[row], self._prediction_level).nan_to_num(nan=0.0)
        shares = terms.cpu().numpy()
        total = shares.sum()

        def unscaled(tensor: Tensor) -> NDArray[np.float64]:
            return np.asarray(scale.inverse((tensor * spread + center).cpu().numpy()), np.float64)

        band = _BAND_LEVELS * self._prediction_level
        expected = work.expected[row]
        told = np.full((length, recent.shape[1]), np.nan)
        told[: min(length, steps)] = unscaled(rebuilt[0])[: min(length, steps)]
        return Window(
            actual=recent[:length].double().cpu().numpy()[::-1],
            rebuilt=told[::-1],
            expected=unscaled(expected),
            lower=unscaled(expected - band),
            upper=unscaled(expected + band),
            contribution=shares / total if total > 0 else np.full(len(shares), 1 / len(shares)),
        )

    def _fleet(self, values: Tensor) -> Tensor:
        """Values in the fleet's scale, float32, same shape."""
        flat = values.reshape(-1, values.shape[-1]).cpu().numpy()
        return torch.from_numpy(np.ascontiguousarray(self._artifact.scale.transform(flat), dtype=np.float32)).to(self._device).reshape(values.shape)

    def _scales(self, layout: Layout, rows: Rows, fleet: Tensor) -> tuple[Tensor, Tensor]:
        """Center and spread of each row's entity, [N, F] each, as known before the row; then learn from it."""
        if not self._own_scale:
            return torch.zeros_like(fleet), torch.ones_like(fleet)
        rank = torch.from_numpy(layout.rank).to(self._device)
        count = rows["scale.count"]
        present = ~fleet.isnan()
        if not bool((present & (count < self._scale_observations).index_select(0, rank)).any()):
            center, spread = shrunk_scale(count.float(), rows["scale.mean"], rows["scale.variance"])
            return center.index_select(0, rank), spread.index_select(0, rank)
        center, spread = torch.empty_like(fleet), torch.empty_like(fleet)
        for start, width in zip(layout.starts.tolist(), layout.widths.tolist(), strict=True):
            mean, variance, held = rows["scale.mean"][:width], rows["scale.variance"][:width], count[:width]
            here = slice(start, start + width)
            center[here], spread[here] = shrunk_scale(held.float(), mean, variance)
            learns = present[here] & (held < self._scale_observations)
            number = held.float() + 1
            deviation = torch.where(learns, fleet[here] - mean, 0.0)
            variance.copy_(torch.where(learns, (1 - 1 / number) * (variance + deviation * deviation / number), variance))
            mean.add_(deviation / number)
            held.add_(learns)
        return center, spread

    def _encode(self, layout: Layout, rows: Rows, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Top-layer output of every row, [N, hidden], and of each entity before its first row, [B, hidden]."""
        shape = self._artifact.shape
        hidden, cell = (rows[name].view(-1, shape.layers, shape.hidden).transpose(0, 1).contiguous() for name in ("hidden", "cell"))
        first = hidden[-1].clone()
        tops = torch.empty((len(inputs), shape.hidden), device=self._device)
        for segment in layout.segments():
            width, here = segment.width, slice(segment.start, segment.start + segment.steps * segment.width)
            state = (hidden[:, :width].contiguous(), cell[:, :width].contiguous())
            top, (next_hidden, next_cell) = self._network.step(inputs[here].view(segment.steps, width, -1), state)
            tops[here] = top.reshape(-1, shape.hidden)
            hidden[:, :width], cell[:, :width] = next_hidden, next_cell
        rows["hidden"].copy_(hidden.transpose(0, 1).reshape(len(first), -1))
        rows["cell"].copy_(cell.transpose(0, 1).reshape(len(first), -1))
        return tops, first

    def _predict(self, layout: Layout, tops: Tensor, first: Tensor) -> Tensor:
        """What the network expected of each row before it saw it, [N, F]."""
        width = len(first)
        previous = torch.from_numpy(layout.previous[width:]).to(self._device)
        return self._network.predict(torch.cat([first, tops.index_select(0, previous)]))

    def _reconstruct(self, index: _Index, rows: Rows, table: Table, observed: Tensor, center: Tensor, spread: Tensor, tops: Tensor) -> Tensor:
        """Reconstruction error known at each row, float64 [N]: that of the entity's last rebuilt window."""
        steps = self._settings.decode_steps
        held = rows["reconstruction"].index_select(0, index.rank).double()
        due = index.due
        if len(due):
            rebuilt = self._network.reconstruct(self._network.encode(tops.index_select(0, due)), steps)
            history = self._history(index, table, observed, due, steps)
            target = scale_with(self._fleet(history), center.index_select(0, due)[:, None], spread.index_select(0, due)[:, None])
            found = torch.full((len(tops),), torch.nan, dtype=torch.float64, device=self._device)
            # Rounded as it is kept, so that a row says the same whether its window was rebuilt in this batch or before.
            found[due] = errors.reconstruction_error(rebuilt, target, self._reconstruction_level).float().double()
            held = torch.where(index.is_known, found.index_select(0, index.last_due), held)
            rows["reconstruction"].copy_(held.index_select(0, index.last_row))
        return held

    def _history(self, index: _Index, table: Table, observed: Tensor, due: Tensor, steps: int) -> Tensor:
        """Observed values of the `steps` newest records at each due row, newest first: [due, steps, F]."""
        back = torch.arange(steps, device=self._device)
        rank = index.rank.index_select(0, due)
        step = index.step.index_select(0, due)[:, None] - back
        is_here = step >= 0
        here = index.starts[step.clamp(min=0)] + rank[:, None]
        ring = table.slab(self._ring.name)
        number = index.seen.index_select(0, rank)[:, None] + step
        before = ring[index.slots.index_select(0, rank)[:, None], number.remainder(self._settings.ring)]
        before = torch.where((number >= 0)[..., None], before, torch.nan)
        return torch.where(is_here[..., None], observed[here.clamp(max=len(observed) - 1)], before)

    def _recent(self, work: Work, table: Table, row: int, points: int) -> Tensor:
        """Observed values of the `points` newest records at one row, newest first; NaN before the entity's first: [points, F]."""
        index = _Index(work.layout, work.seen, self._settings.decode_every, self._device)
        return self._history(index, table, work.values, torch.tensor([row], device=self._device), points)[0]


class _Index:
    """Where things stand in a layout, as tensors on the device."""

    def __init__(self, layout: Layout, seen: Tensor, decode_every: int, device: str) -> None:
        self.rank, self.step, self.starts, self.slots = (
            torch.from_numpy(array).to(device) for array in (layout.rank, layout.step, layout.starts, layout.slots)
        )
        self.seen = seen
        self.count = seen.index_select(0, self.rank) + self.step + 1
        since = self.count.remainder(decode_every)
        self.is_due = since == 0
        self.due = self.is_due.nonzero().flatten()
        last_due_step = self.step - since
        self.is_known = last_due_step >= 0
        self.last_due = self.starts[last_due_step.clamp(min=0)] + self.rank
        lengths = torch.bincount(self.rank)
        self.last_row = self.starts[lengths - 1] + torch.arange(len(lengths), device=device)
