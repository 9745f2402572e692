from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from anomaly_daemon.model.autoencoder import DECODER_BLOCK, LINEAR_BLOCK, Autoencoder, InvariantLinear, Shape


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def network(features: int = 3, hidden: int = 32, code: int = 8, layers: int = 1) -> Autoencoder:
    return Autoencoder(Shape(features, hidden, code, layers)).eval()


def cut(rows: Tensor, size: int) -> list[Tensor]:
    return list(torch.split(rows, size))


def test_one_step_of_the_encoder_equals_the_written_out_gates_cell_and_hidden_state() -> None:
    model = network().double()
    x = torch.randn(5, 7, dtype=torch.float64)
    h, c = torch.randn(5, 32, dtype=torch.float64), torch.randn(5, 32, dtype=torch.float64)
    weights = dict(model.encoder.named_parameters())
    w = weights["weight_ih_l0"].chunk(4)
    u = weights["weight_hh_l0"].chunk(4)
    b = (weights["bias_ih_l0"] + weights["bias_hh_l0"]).chunk(4)

    input_gate = torch.sigmoid(x @ w[0].T + h @ u[0].T + b[0])
    forget_gate = torch.sigmoid(x @ w[1].T + h @ u[1].T + b[1])
    candidate = torch.tanh(x @ w[2].T + h @ u[2].T + b[2])
    output_gate = torch.sigmoid(x @ w[3].T + h @ u[3].T + b[3])
    cell = forget_gate * c + input_gate * candidate
    hidden = output_gate * torch.tanh(cell)

    top, (next_hidden, next_cell) = model.step(x[None], (h[None], c[None]))
    torch.testing.assert_close(next_cell[0], cell, rtol=0, atol=1e-12)
    torch.testing.assert_close(next_hidden[0], hidden, rtol=0, atol=1e-12)
    torch.testing.assert_close(top[0], hidden, rtol=0, atol=1e-12)


def test_a_second_layer_reads_the_hidden_state_of_the_first() -> None:
    model = network(layers=2)
    below, above = torch.nn.LSTM(7, 32), torch.nn.LSTM(32, 32)
    weights = dict(model.encoder.named_parameters())
    below.load_state_dict({name: weights[name] for name in below.state_dict()})
    above.load_state_dict({name: weights[name.replace("l0", "l1")] for name in above.state_dict()})
    x = torch.randn(6, 4, 7)

    top, hidden = model.step(x, model.initial(4))

    torch.testing.assert_close(top, above(below(x)[0])[0])
    assert hidden[0].shape == (2, 4, 32)


def test_weights_start_with_forget_bias_one_orthogonal_recurrence_and_glorot_bounds() -> None:
    model = network()
    for lstm in (model.encoder, model.decoder):
        weights = dict(lstm.named_parameters())
        bias = weights["bias_ih_l0"] + weights["bias_hh_l0"]
        assert torch.equal(bias, torch.cat((torch.zeros(32), torch.ones(32), torch.zeros(64))))
        for gate in weights["weight_hh_l0"].chunk(4):
            torch.testing.assert_close(gate @ gate.T, torch.eye(32), atol=1e-5, rtol=0)
        inputs = lstm.input_size
        assert float(weights["weight_ih_l0"].detach().abs().max()) <= (6 / (inputs + 32)) ** 0.5


def test_the_same_seed_draws_the_same_weights() -> None:
    torch.manual_seed(5)
    first = network()
    torch.manual_seed(5)
    second = network()
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters(), strict=True))


def test_inputs_are_values_with_zero_for_missing_then_presence_then_gap() -> None:
    scaled = torch.tensor([[1.5, torch.nan, -2.0]])
    assert network().inputs(scaled, torch.tensor([0.25])).tolist() == [[1.5, 0.0, -2.0, 1.0, 0.0, 1.0, 0.25]]


@pytest.mark.parametrize(("inputs", "outputs"), [(32, 1), (32, 8), (64, 16), (8, 32), (7, 33), (1, 1)])
@pytest.mark.parametrize("size", [1, 2, 7, LINEAR_BLOCK - 1, LINEAR_BLOCK, LINEAR_BLOCK + 1])
@torch.no_grad()
def test_linear_rows_have_the_same_bits_in_any_batch(inputs: int, outputs: int, size: int) -> None:
    linear = InvariantLinear(inputs, outputs).eval()
    rows = torch.randn(3 * LINEAR_BLOCK + 5, inputs)
    assert torch.equal(linear(rows), torch.cat([linear(part) for part in cut(rows, size)]))


@torch.no_grad()
def test_linear_equals_the_matrix_product_while_training_and_nearly_so_in_eval() -> None:
    linear = InvariantLinear(64, 8)
    rows = torch.randn(500, 64)
    product = functional.linear(rows, linear.weight, linear.bias)
    assert torch.equal(linear.train()(rows), product)
    torch.testing.assert_close(linear.eval()(rows), product, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [1, 3, 511, DECODER_BLOCK, DECODER_BLOCK + 1])
@torch.inference_mode()
def test_rebuilt_windows_have_the_same_bits_in_any_batch_and_over_block_borders(size: int) -> None:
    model = network()
    codes = torch.randn(2 * DECODER_BLOCK + 9, 8)
    assert torch.equal(model.reconstruct(codes, 4), torch.cat([model.reconstruct(part, 4) for part in cut(codes, size)]))


@pytest.mark.parametrize(
    ("hidden", "layers"), [(32, 1), (7, 1), (8, 2), (32, 3)], ids=["usual", "as wide as its input", "two layers", "three layers"]
)
@pytest.mark.parametrize("width", [1, 2, 4])
@torch.inference_mode()
def test_the_carried_state_has_the_same_bits_wherever_time_and_entities_are_cut(hidden: int, layers: int, width: int) -> None:
    model = network(hidden=hidden, layers=layers)
    inputs = torch.randn(12, 9, 7)
    whole, (h, c) = model.step(inputs, model.initial(9))
    for first in range(0, 9, width):
        part = slice(first, min(first + width, 9))
        state = model.initial(part.stop - part.start)
        for steps in (slice(0, 5), slice(5, 6), slice(6, 12)):
            top, state = model.step(inputs[steps, part].contiguous(), state)
            assert torch.equal(top, whole[steps, part])
        assert torch.equal(state[0], h[:, part])
        assert torch.equal(state[1], c[:, part])


@torch.inference_mode()
def test_an_entity_has_the_same_bits_in_any_company() -> None:
    model = network()
    inputs = torch.randn(3, 777, 7)
    whole, _ = model.step(inputs, model.initial(777))
    for first, last in ((0, 1), (1, 18), (18, 159), (159, 777)):
        top, _ = model.step(inputs[:, first:last].contiguous(), model.initial(last - first))
        assert torch.equal(top, whole[:, first:last])


@torch.inference_mode()
def test_calls_come_in_few_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    model, widths = network(), set()
    encoder = model.encoder.forward

    def noted(inputs: torch.Tensor, hidden: object) -> object:
        widths.add(inputs.shape[1])
        return encoder(inputs, hidden)

    monkeypatch.setattr(model.encoder, "forward", noted)
    for width in range(1, 2049):
        model.step(torch.zeros(1, width, 7), model.initial(width))
    assert len(widths) <= 28


@torch.inference_mode()
def test_fewer_steps_rebuild_the_same_newest_observations() -> None:
    model = network()
    codes = torch.randn(20, 8)
    assert torch.equal(model.reconstruct(codes, 8)[:, :3], model.reconstruct(codes, 3))


def test_no_window_gives_no_row() -> None:
    model = network()
    assert model.reconstruct(model.encode(torch.zeros(0, 32)), 8).shape == (0, 8, 3)
