"""What training makes small: the Huber loss of the next observation plus that of the rebuilt window, over values that are present."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from anomaly_daemon.model.autoencoder import Autoencoder, Hidden
from anomaly_daemon.model.corpus import Chunk, Corpus, Pieces, chunks, whole_pieces
from anomaly_daemon.settings import Settings


@dataclass(frozen=True, slots=True)
class Loss:
    """Sum and count of both losses: float32 and int64 scalars on the device."""

    prediction: Tensor
    predicted: Tensor
    reconstruction: Tensor
    rebuilt: Tensor

    @classmethod
    def zero(cls, device: torch.device) -> Loss:
        """Of no chunk."""
        nothing = torch.zeros((), device=device)
        return cls(nothing, nothing.long(), nothing, nothing.long())

    def mean(self) -> Tensor:
        """Mean of each, added: what is made small."""
        return self.prediction / self.predicted.clamp(min=1) + self.reconstruction / self.rebuilt.clamp(min=1)

    def plus(self, other: Loss) -> Loss:
        """Over the chunks of both; carries no gradient of `other`."""
        return Loss(
            self.prediction + other.prediction.detach(),
            self.predicted + other.predicted,
            self.reconstruction + other.reconstruction.detach(),
            self.rebuilt + other.rebuilt,
        )


def chunk_loss(model: Autoencoder, chunk: Chunk, hidden: Hidden, huber_delta: float, noise: float = 0.0) -> tuple[Loss, Hidden]:
    """Loss of one chunk, and the hidden after it. Noise is put on what the network reads, never on what it is held against."""
    expected, rebuilt, hidden = forward(model, chunk, hidden, noise)
    return loss_of(chunk, expected, rebuilt, huber_delta), hidden


def loss_of(chunk: Chunk, expected: Tensor, rebuilt: Tensor, huber_delta: float) -> Loss:
    """Loss of what `forward` returned for a chunk."""
    return Loss(*_huber(expected, chunk.following, huber_delta), *_huber(rebuilt, chunk.windows, huber_delta))


def forward(model: Autoencoder, chunk: Chunk, hidden: Hidden, noise: float = 0.0) -> tuple[Tensor, Tensor, Hidden]:
    """Expected next observations [S, n, F], rebuilt windows [D, n, K, F], both float32, and the hidden after the chunk.

    hidden: of at least n pieces; those beyond n have ended.
    """
    steps, width, features = chunk.values.shape
    decodes, _, back, _ = chunk.windows.shape
    values = chunk.values + noise * torch.randn_like(chunk.values) if noise else chunk.values
    state = (hidden[0][:, :width].contiguous(), hidden[1][:, :width].contiguous())
    with torch.autocast("cuda", torch.bfloat16, enabled=values.device.type == "cuda"):
        top, (after, cell) = model.step(model.inputs(values, chunk.gaps), state)
        expected = model.predict(top.flatten(0, 1))  # [S·n, F]
        rebuilt = model.reconstruct(model.encode(top[chunk.decoded].flatten(0, 1)), back)  # [D·n, K, F]
    return (
        expected.float().reshape(steps, width, features),
        rebuilt.float().reshape(decodes, width, back, features),
        (after.float(), cell.float()),
    )


@torch.no_grad()
def held_out(model: Autoencoder, corpus: Corpus, pieces: Pieces, settings: Settings) -> Iterator[tuple[Chunk, Tensor, Tensor]]:
    """Each chunk of the pieces with its expected next observations and rebuilt windows, in eval mode."""
    model.eval()
    for group in pieces.groups(settings.training.batch):
        hidden = model.initial(len(group))
        for chunk in chunks(corpus, group, settings.training.steps, settings.engine.decode_every, settings.engine.decode_steps):
            expected, rebuilt, hidden = forward(model, chunk, hidden)
            yield chunk, expected, rebuilt


def held_out_loss(model: Autoencoder, corpus: Corpus, pieces: Pieces, settings: Settings) -> float:
    """Loss on pieces that nothing was fitted on."""
    total = Loss.zero(corpus.values.device)
    for chunk, expected, rebuilt in held_out(model, corpus, pieces, settings):
        total = total.plus(loss_of(chunk, expected, rebuilt, settings.training.huber_delta))
    return float(total.mean())


@torch.no_grad()
def foretold(model: Autoencoder, corpus: Corpus, settings: Settings) -> Tensor:
    """What was expected of every row of the corpus, the state carried from the first of its sequence: float32 [R, F], NaN for each first row."""
    expected = torch.full_like(corpus.values, torch.nan)
    for after, top in _carried(model, corpus, settings):
        expected[after] = model.predict(top)
    return expected


@torch.no_grad()
def states_before(model: Autoencoder, corpus: Corpus, settings: Settings) -> Tensor:
    """The top layer's output before every row of the corpus, carried likewise: float32 [R, H], zeros for each first row."""
    before = corpus.values.new_zeros(len(corpus.values), model.shape.hidden)
    for after, top in _carried(model, corpus, settings):
        before[after] = top
    return before


def _carried(model: Autoencoder, corpus: Corpus, settings: Settings) -> Iterator[tuple[Tensor, Tensor]]:
    """Some rows at a time, int64 [n], each with the top layer's output before it, [n, H]; in eval mode, over whole sequences."""
    model.eval()
    steps = settings.training.steps
    for group in whole_pieces(corpus).groups(settings.training.batch):
        hidden = model.initial(len(group))
        for begin in range(0, group.rows_max, steps):
            width = int((group.stop - group.start > begin).sum())
            start, stop = group.start[:width], group.stop[:width]
            row = start + torch.arange(begin, min(begin + steps, group.rows_max), device=corpus.values.device)[:, None]  # [S, n]
            place = row.clamp(max=len(corpus.values) - 1)
            state = (hidden[0][:, :width].contiguous(), hidden[1][:, :width].contiguous())
            top, hidden = model.step(model.inputs(corpus.values[place], corpus.gaps[place]), state)
            is_told = row + 1 < stop
            yield row[is_told] + 1, top[is_told]


def _huber(expected: Tensor, actual: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    """Sum over the values present, and how many these are."""
    present = ~torch.isnan(actual)
    # A NaN masked only after the loss would still make the gradient NaN.
    target = torch.where(present, actual, expected.detach())
    return functional.huber_loss(expected, target, reduction="sum", delta=delta), present.sum()
