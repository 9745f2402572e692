"""An LSTM holds a number over 100 and 1000 steps of noise that a vanilla RNN of the same size loses.

`python -m tests.benchmarks.lstm_memory` prints it. The first input is a number from −1 to 1, marked; noise of deviation 1
follows; the number is asked for after the last step. Error 1 is that of always answering 0. Both networks have the same
units, optimiser, seed and batches; the RNN gets twice the updates that the LSTM needed. The LSTM's gates start open for
times up to the length (chrono initialisation: Tallec & Ollivier 2018, arXiv:1804.11188), the RNN starts orthogonal, which
keeps its gradient longest (Saxe, McClelland & Ganguli 2014, arXiv:1312.6120).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LENGTHS = (100, 1000)
ERROR_HELD, ERROR_LOST = 0.1, 0.8
_UNITS, _BATCH, _UPDATES_MAX, _CHECK_EVERY = 32, 32, 1000, 50
_LEARNING_RATE, _GRADIENT_NORM_MAX, _NOISE = 1e-2, 1.0, 1.0
_NUMBER_VARIANCE = 1 / 3


def measure(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> dict[str, float]:
    """lstm_LENGTH and rnn_LENGTH: error of each on unseen sequences after training, 0 = held, 1 = lost."""
    torch.set_num_threads(1)
    errors = {}
    for length in lengths:
        errors[f"lstm_{length}"], updates = trained_error("lstm", length, _UPDATES_MAX, seed)
        errors[f"rnn_{length}"], _ = trained_error("rnn", length, 2 * updates, seed)
    return errors


def trained_error(name: str, length: int, updates_max: int, seed: int) -> tuple[float, int]:
    """Error after training, which ends early once the number is held, and the updates it took."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _lstm(length) if name == "lstm" else _rnn()
        answer = nn.Linear(_UNITS, 1)
        parameters = [*network.parameters(), *answer.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=_LEARNING_RATE)
        error = 1.0
        for update in range(1, updates_max + 1):
            loss = _loss(network, answer, length, _BATCH)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, _GRADIENT_NORM_MAX)
            optimizer.step()
            if update % _CHECK_EVERY == 0:
                with torch.no_grad():
                    error = float(_loss(network, answer, length, 512)) / _NUMBER_VARIANCE
                if error < ERROR_HELD / 2:
                    return error, update
    return error, updates_max


def _loss(network: nn.RNNBase, answer: nn.Linear, length: int, batch: int) -> Tensor:
    numbers = 2 * torch.rand(batch) - 1
    inputs = torch.stack((_NOISE * torch.randn(length, batch), torch.zeros(length, batch)), -1)  # [T, B, value and marker]
    inputs[0, :, 0], inputs[0, :, 1] = numbers, 1.0
    outputs, _ = network(inputs)
    return ((answer(outputs[-1])[:, 0] - numbers) ** 2).mean()


def _lstm(length: int) -> nn.LSTM:
    network = nn.LSTM(2, _UNITS)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            for gate in parameter.chunk(4):
                nn.init.xavier_uniform_(gate) if "weight_ih" in name else nn.init.orthogonal_(gate) if "weight_hh" in name else gate.zero_()
        times = torch.log(torch.empty(_UNITS).uniform_(1, length - 1))
        network.bias_ih_l0[:_UNITS] = -times
        network.bias_ih_l0[_UNITS : 2 * _UNITS] = times
    return network


def _rnn() -> nn.RNN:
    network = nn.RNN(2, _UNITS)
    nn.init.xavier_uniform_(network.weight_ih_l0)
    nn.init.orthogonal_(network.weight_hh_l0)
    nn.init.zeros_(network.bias_ih_l0)
    nn.init.zeros_(network.bias_hh_l0)
    return network


if __name__ == "__main__":
    for name, error in measure().items():
        goal = f"≤ {ERROR_HELD}" if name.startswith("lstm") else f"≥ {ERROR_LOST}"
        print(f"{name} {error:.3f} (goal {goal})")
