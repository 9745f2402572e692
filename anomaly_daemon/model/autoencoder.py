"""The composite LSTM autoencoder, whole and in forward order: inputs → encoder → (next observation, code → rebuilt window).

The encoder carries (h, c) from one observation to the next for as long as an entity lives; nothing is ever re-encoded.
A linear head on h predicts the next observation; a zero-input decoder started from the code of h rebuilds the newest
window, newest observation first. On the CPU in eval mode the bits of a row do not depend on the batch around it.

Sources
    cell and gates   Hochreiter & Schmidhuber 1997, Long Short-Term Memory; forget gate: Gers, Schmidhuber & Cummins 2000
    autoencoder      Srivastava, Mansimov & Salakhutdinov 2015, arXiv:1502.04681: composite model, unconditional decoder, reversed target
    anomalies        Malhotra et al. 2016, arXiv:1607.00148: reconstruction error of an LSTM encoder-decoder
    initial weights  Glorot & Bengio 2010 (input); Saxe, McClelland & Ganguli 2014, arXiv:1312.6120 (recurrent);
                     Jozefowicz, Zaremba & Sutskever 2015 (forget bias 1)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

Hidden = tuple[Tensor, Tensor]

# Rows of one multiply-and-sum, windows of one decoder call: what stays in the cache.
LINEAR_BLOCK = 256
DECODER_BLOCK = 512
# Entities of a call are rounded up, the more the wider it is: oneDNN prepares anew for each shape that it has not seen of late, which takes a
# millisecond and memory.
WIDTH_UNIT, _WIDTHS_AN_OCTAVE = 16, 4


@dataclass(frozen=True, slots=True)
class Shape:
    """Widths of the network: F features, H hidden units, Z numbers of code, L stacked encoder layers; bounds hold where it is read from a file."""

    features: Annotated[int, Meta(ge=1, le=4096)]
    hidden: Annotated[int, Meta(ge=1, le=1024)]
    code: Annotated[int, Meta(ge=1, le=1024)]
    layers: Annotated[int, Meta(ge=1, le=16)] = 1


class InvariantLinear(nn.Linear):
    """A linear layer whose rows, in eval mode on the CPU, have the same bits in a batch of any size.

    Matrix products choose their kernel, and with it the order of summation, by the number of rows; a sum along the
    last axis of a contiguous tensor does not. While training and on other devices it is `nn.Linear`.
    """

    def forward(self, rows: Tensor) -> Tensor:
        """[N, in] → [N, out]."""
        if self.training or rows.device.type != "cpu":
            return super().forward(rows)
        blocks = [(block[:, None, :] * self.weight).sum(-1) for block in torch.split(rows, LINEAR_BLOCK)]  # [n, 1, in] · [out, in] → [n, out]
        return torch.cat(blocks) + self.bias


class Autoencoder(nn.Module):
    """The network. T steps, B entities, N rows, M windows of K observations."""

    def __init__(self, shape: Shape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = nn.LSTM(2 * shape.features + 1, shape.hidden, shape.layers, dropout=dropout if shape.layers > 1 else 0.0)
        self.next_observation = InvariantLinear(shape.hidden, shape.features)
        self.code = InvariantLinear(shape.hidden, shape.code)
        self.decoder_hidden = InvariantLinear(shape.code, shape.hidden)
        self.decoder_cell = InvariantLinear(shape.code, shape.hidden)
        self.decoder = nn.LSTM(1, shape.hidden)
        self.observation = InvariantLinear(shape.hidden, shape.features)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw all weights anew from torch's generator: Glorot per gate, orthogonal per recurrent gate, forget bias 1."""
        for lstm in (self.encoder, self.decoder):
            for name, parameter in lstm.named_parameters():
                if name.startswith("bias"):
                    parameter.zero_()
                    if name.startswith("bias_ih"):
                        parameter[self.shape.hidden : 2 * self.shape.hidden] = 1.0  # gates stand as input, forget, candidate, output
                    continue
                draw = nn.init.xavier_uniform_ if name.startswith("weight_ih") else nn.init.orthogonal_
                for gate in parameter.chunk(4):
                    draw(gate)
        for linear in (self.next_observation, self.code, self.decoder_hidden, self.decoder_cell, self.observation):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def inputs(self, scaled: Tensor, gap: Tensor) -> Tensor:
        """What the encoder reads of an observation: its values (0 where missing), which are present, the time gap.

        scaled: [..., F] float32, NaN = missing. gap: [...] float32, scaled log seconds. Returns [..., 2F + 1].
        """
        present = ~torch.isnan(scaled)
        return torch.cat((torch.where(present, scaled, 0.0), present.to(scaled.dtype), gap[..., None]), -1)

    def initial(self, entities: int) -> Hidden:
        """(h, c) of entities never seen: zeros, each [L, B, H], on the network's device."""
        zeros = self.code.weight.new_zeros(self.shape.layers, entities, self.shape.hidden)
        return zeros, zeros.clone()

    def step(self, inputs: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
        """Advance each entity of a dense segment by T observations.

        inputs: [T, B, 2F + 1]. hidden: (h, c), each [L, B, H], contiguous; not modified.
        Returns h of the top layer after each observation, [T, B, H], and the next hidden.
        """
        return _in_company(self.encoder, inputs, hidden)

    def predict(self, top: Tensor) -> Tensor:
        """The observation expected next: [N, H] → [N, F], scaled."""
        expected: Tensor = self.next_observation(top)
        return expected

    def encode(self, top: Tensor) -> Tensor:
        """The code of what was seen so far: [N, H] → [N, Z]."""
        code: Tensor = self.code(top)
        return code

    def reconstruct(self, code: Tensor, steps: int) -> Tensor:
        """The K = `steps` newest observations rebuilt from their code alone, newest first: [M, Z] → [M, K, F], scaled."""
        if not len(code):
            return code.new_zeros(0, steps, self.shape.features)
        return torch.cat([self._decode(block, steps) for block in torch.split(code, DECODER_BLOCK)])

    def _decode(self, code: Tensor, steps: int) -> Tensor:
        windows = len(code)
        hidden = torch.tanh(self.decoder_hidden(code))[None]  # [1, m, H]: within an LSTM's own range of h
        cell = self.decoder_cell(code)[None]
        unrolled, _ = _in_company(self.decoder, code.new_zeros(steps, windows, 1), (hidden, cell))  # [K, m, H]
        rows: Tensor = self.observation(unrolled.reshape(steps * windows, self.shape.hidden))  # [K·m, F]
        return rows.reshape(steps, windows, self.shape.features).transpose(0, 1).contiguous()  # [m, K, F]


def _in_company(lstm: nn.LSTM, inputs: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
    """`lstm` over [T, B, …] from (h, c), each [L, B, H]; on the CPU in eval mode in a width of which there are few.

    One entity alone would not do in any case: oneDNN merges products over time where a layer is as wide as its input, and for one that changes bits.
    """
    width = inputs.shape[1]
    more = -width % max(WIDTH_UNIT, (1 << (width.bit_length() - 1)) // _WIDTHS_AN_OCTAVE)
    if lstm.training or inputs.device.type != "cpu" or not more:
        top, hidden = lstm(inputs, hidden)
        return top, hidden
    wider = [nn.functional.pad(one, (0, 0, 0, more)) for one in (inputs, *hidden)]
    top, (h, c) = lstm(wider[0], (wider[1], wider[2]))
    return top[:, :width].contiguous(), (h[:, :width].contiguous(), c[:, :width].contiguous())
