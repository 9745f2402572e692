from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from anomaly_daemon import settings as settings_of
from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.model import training
from anomaly_daemon.model.artifact import Artifact
from anomaly_daemon.model.autoencoder import Autoencoder, Shape
from anomaly_daemon.model.corpus import Corpus, EntitySequence, Pieces, Split, build, chunks, held_out_pieces, split, training_pieces
from anomaly_daemon.model.fitting import fit
from anomaly_daemon.model.objective import Loss, chunk_loss, held_out_loss
from anomaly_daemon.model.plot import plot_losses
from anomaly_daemon.model.training import Progress

NAMES = ("a", "b", "c")


def settings(*assignments: str) -> settings_of.Settings:
    small = ("model.hidden=12", "model.code=4", "training.epochs=6", "training.steps=20", "training.batch=8", "engine.device=cpu")
    return settings_of.load((), (*small, *assignments), {})


def sinusoids(rows: int = 300, entities: int = 4) -> list[EntitySequence]:
    """A wave per feature, the entities out of phase, on levels of their own."""
    steps = np.arange(rows)[:, None]
    waves = [np.sin((steps + 17 * number) / np.array([2.0, 3.0, 5.0])) + number for number in range(entities)]
    gaps = np.full(rows, 60.0)
    gaps[:1] = np.nan
    return [EntitySequence(f"pump-{number}", wave.astype(np.float32), gaps) for number, wave in enumerate(waves)]


@cache
def trained() -> Artifact:
    return fit(sinusoids(), settings(), NAMES)


def with_row(sequence: EntitySequence, row: int, value: float) -> EntitySequence:
    values = sequence.values.copy()
    values[row] = value
    return replace(sequence, values=values)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def loss_of(model: Autoencoder, corpus: Corpus, pieces: Pieces, steps: int = 20) -> Loss:
    hidden, total = model.initial(len(pieces)), []
    for chunk in chunks(corpus, pieces, steps, 4, 4):
        loss, hidden = chunk_loss(model, chunk, hidden, 3.0)
        total.append(loss)
    return Loss(
        *(torch.stack(sums).sum() for sums in zip(*((one.prediction, one.predicted, one.reconstruction, one.rebuilt) for one in total), strict=True))
    )


def gradient_of(model: Autoencoder, loss: Loss) -> Tensor:
    return torch.cat([one.flatten() for one in torch.autograd.grad(loss.prediction + loss.reconstruction, list(model.parameters()))])


def pieces_of(*ranges: tuple[int, int]) -> Pieces:
    start, stop = torch.tensor([one[0] for one in ranges]), torch.tensor([one[1] for one in ranges])
    return Pieces(start, stop, start)


def test_training_learns_waves_far_better_than_their_mean() -> None:
    artifact = trained()
    corpus, _ = build(sinusoids(), settings())
    seen = [corpus.values[first + part.training :][: part.validation] for first, part in zip(corpus.first_rows, corpus.splits, strict=True)]
    of_the_mean = 2 * float((torch.cat(seen) ** 2 / 2).mean())
    assert min(artifact.history.validation_losses) < of_the_mean / 2
    assert artifact.history.test_loss is not None
    assert artifact.history.test_loss < of_the_mean / 2


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    quick = ("training.epochs=1", "training.noise=0.1", "model.layers=2", "training.dropout=0.2")
    one, same, other = (fit(sinusoids(60), settings(*quick, f"training.seed={seed}"), NAMES) for seed in (1, 1, 2))
    assert one.fingerprint == same.fingerprint
    assert one.history == same.history
    assert one.fingerprint != other.fingerprint


def test_training_leaves_the_random_generator_of_the_process_alone() -> None:
    before = torch.random.get_rng_state()
    fit(sinusoids(40, 1), settings("training.epochs=1"), NAMES)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_either_optimizer_lowers_the_loss(optimizer: str) -> None:
    losses = fit(sinusoids(), settings(f"training.optimizer={optimizer}", "training.epochs=4"), NAMES).history.validation_losses
    assert losses[-1] < losses[0]


def test_the_weights_kept_are_those_of_the_epoch_with_the_lowest_validation_loss() -> None:
    chosen = settings("training.learning_rate=0.2", "training.epochs=100", "training.patience=2")
    artifact = fit(sinusoids(120), chosen, NAMES)
    losses = artifact.history.validation_losses
    assert artifact.history.best_epoch == 1 + losses.index(min(losses))
    assert len(losses) == artifact.history.best_epoch + 2
    corpus, _ = build(sinusoids(120), chosen)
    assert held_out_loss(artifact.model, corpus, held_out_pieces(corpus, "validation", 20), chosen) == pytest.approx(min(losses), rel=1e-6)


def test_the_parts_of_a_sequence_follow_each_other_and_do_not_overlap() -> None:
    corpus, _ = build(sinusoids(240), settings())
    validation, test = (held_out_pieces(corpus, part, 20) for part in ("validation", "test"))
    for number, first in enumerate(corpus.first_rows):
        assert corpus.splits[number] == Split(176, 40, 24)
        assert (first + 176, first + 216) in zip(validation.counted.tolist(), validation.stop.tolist(), strict=True)
        assert (first + 216, first + 240) in zip(test.counted.tolist(), test.stop.tolist(), strict=True)


@pytest.mark.parametrize("shift", [0, 1, 7, 49, 50, 93])
def test_training_pieces_cover_every_training_row_once_and_no_other(shift: int) -> None:
    corpus, _ = build(sinusoids(240), settings())
    pieces = training_pieces(corpus, 50, shift)
    rows = sorted(row for start, stop in zip(pieces.start.tolist(), pieces.stop.tolist(), strict=True) for row in range(start, stop))
    assert rows == [first + row for first in corpus.first_rows for row in range(176)]
    assert pieces.rows_max <= 50


def test_a_sequence_too_short_to_be_split_is_only_trained_on() -> None:
    assert split(11, settings().training) == Split(11, 0, 0)
    assert split(12, settings().training) == Split(9, 2, 1)
    corpus, _ = build([*sinusoids(60, 1), *sinusoids(5, 1), *sinusoids(0, 1), *sinusoids(1, 1)], settings())
    assert corpus.splits == (Split(44, 10, 6), Split(5, 0, 0), Split(1, 0, 0))
    assert len(held_out_pieces(corpus, "validation", 20)) == 1


def test_a_spike_in_the_test_part_changes_nothing_but_the_test_loss() -> None:
    quick = settings("training.epochs=2")
    calm = fit(sinusoids(120), quick, NAMES)
    spiked = fit([with_row(sequence, 119, 1e6) for sequence in sinusoids(120)], quick, NAMES)
    assert spiked.fingerprint == calm.fingerprint
    assert spiked.history.test_loss != calm.history.test_loss


def test_a_spike_in_the_validation_part_does_not_move_the_scale() -> None:
    _, calm = build(sinusoids(120), settings())
    _, spiked = build([with_row(sequence, 100, 1e6) for sequence in sinusoids(120)], settings())
    assert np.array_equal(calm.center, spiked.center)
    assert np.array_equal(calm.deviation, spiked.deviation)


def test_entities_on_other_levels_look_alike_on_their_own_scale_and_not_on_the_fleets() -> None:
    def means(kind: str) -> list[float]:
        corpus, _ = build(sinusoids(240), settings(f"model.scale={kind}"))
        return [float(corpus.values[first : first + 176].mean()) for first in corpus.first_rows]

    assert max(means("entity")) - min(means("entity")) < 0.4
    assert max(means("fleet")) - min(means("fleet")) > 1.0


def test_padding_changes_neither_loss_nor_gradient() -> None:
    corpus, _ = build(sinusoids(100, 2), settings())
    torch.manual_seed(0)
    model = Autoencoder(Shape(3, 12, 4))
    long, short = (0, 47), (100, 109)
    together, apart = loss_of(model, corpus, pieces_of(long, short)), [loss_of(model, corpus, pieces_of(one)) for one in (long, short)]
    for name in ("prediction", "predicted", "reconstruction", "rebuilt"):
        torch.testing.assert_close(getattr(together, name), getattr(apart[0], name) + getattr(apart[1], name), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient_of(model, together), sum(gradient_of(model, one) for one in apart), rtol=1e-4, atol=1e-4)


def test_state_is_carried_from_chunk_to_chunk() -> None:
    corpus, _ = build(sinusoids(100, 2), settings())
    model = trained().model
    whole, cut = (loss_of(model, corpus, pieces_of((0, 60), (100, 160)), steps) for steps in (60, 12))
    torch.testing.assert_close(cut.prediction, whole.prediction, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cut.reconstruction, whole.reconstruction, rtol=1e-5, atol=1e-5)


def test_a_chunk_holds_the_next_observations_and_the_newest_windows_newest_first() -> None:
    corpus = Corpus(torch.arange(20.0)[:, None], torch.zeros(20), (0,), (Split(20, 0, 0),))
    first, second = chunks(corpus, pieces_of((2, 11)), steps=6, decode_every=3, decode_steps=4)
    assert first.values[:, 0, 0].tolist() == [2, 3, 4, 5, 6, 7]
    assert first.following[:, 0, 0].tolist() == [3, 4, 5, 6, 7, 8]
    assert first.decoded.tolist() == [2, 5]
    assert first.windows[:, 0, :, 0].nan_to_num(nan=-1).tolist() == [[4, 3, 2, -1], [7, 6, 5, 4]]
    assert second.values[:, 0, 0].nan_to_num(nan=-1).tolist() == [8, 9, 10, -1, -1, -1][: len(second.values)]
    assert second.following[:, 0, 0].nan_to_num(nan=-1).tolist() == [9, 10, -1]
    assert second.windows[:, 0, :, 0].tolist() == [[10, 9, 8, 7]]


def test_rows_that_only_lead_in_are_not_counted() -> None:
    corpus = Corpus(torch.arange(20.0)[:, None], torch.zeros(20), (0,), (Split(20, 0, 0),))
    (chunk,) = chunks(corpus, Pieces(torch.tensor([0]), torch.tensor([8]), torch.tensor([6])), steps=8, decode_every=4, decode_steps=3)
    assert chunk.following[:, 0, 0].nan_to_num(nan=-1).tolist() == [-1, -1, -1, -1, -1, 6, 7, -1]
    assert chunk.windows[:, 0, :, 0].nan_to_num(nan=-1).tolist() == [[-1, -1, -1], [7, 6, -1]]


def test_missing_values_are_no_part_of_the_loss_and_leave_gradients_finite() -> None:
    corpus, _ = build(sinusoids(100, 1), settings())
    holes = corpus.values.clone()
    holes[::3, 1] = torch.nan
    holes[30] = torch.nan
    model = trained().model.requires_grad_(True)
    whole, holed = (loss_of(model, replace(corpus, values=values), pieces_of((0, 60))) for values in (corpus.values, holes))
    assert int(whole.predicted - holed.predicted) == int(holes[1:60].isnan().sum())
    assert bool(torch.isfinite(gradient_of(model, holed)).all())
    model.requires_grad_(False)


def test_a_feature_that_never_arrives_does_not_stop_training() -> None:
    sequences = [replace(one, values=np.where(np.arange(3) == 1, np.float32(np.nan), one.values)) for one in sinusoids(60)]
    artifact = fit(sequences, settings("training.epochs=1"), NAMES)
    assert bool(torch.isfinite(flat(artifact.model)).all())
    assert bool(torch.isfinite(artifact.prediction_level).all())
    assert bool(torch.isfinite(artifact.reconstruction_level).all())


def test_levels_and_calibration_speak_of_ordinary_errors() -> None:
    artifact = trained()
    assert artifact.prediction_level.shape == (3,)
    assert artifact.reconstruction_level.shape == (8, 3)
    for channel in ("prediction", "reconstruction"):
        mean, variance, quantile = artifact.calibration[channel]
        assert -2 < mean < 0.1  # errors in units of their own level average to 1, so their logarithms to a little below 0
        assert 0 < variance < 5
        assert 1 < quantile < 100


@pytest.mark.parametrize("sequences", [[], sinusoids(11, 3), sinusoids(0, 2)], ids=["none", "short", "empty"])
def test_nothing_to_train_on_is_told_with_the_remedy(sequences: list[EntitySequence]) -> None:
    with pytest.raises(InputError, match=r"nothing to train on: .* widen --from, --to or --entities"):
        fit(sequences, settings(), NAMES)


def test_a_loss_that_is_not_finite_stops_training_with_the_remedy() -> None:
    with pytest.raises(InputError, match=r"diverged in epoch 3: .* lower training.learning_rate \(0.003\)"):
        training.refuse_divergence(math.nan, 3, settings())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="no CUDA device"):
        fit(sinusoids(40), settings("engine.device=cuda"), NAMES)


def test_progress_counts_chunks_and_ends_every_epoch_with_its_validation_loss() -> None:
    told: list[Progress] = []
    artifact = fit(sinusoids(120), settings("training.epochs=2"), NAMES, lambda _, progress: told.append(progress))
    assert [(one.epoch, one.chunk) for one in told if one.validation_loss is None] == [(e, c + 1) for e in (1, 2) for c in range(told[0].chunks)]
    ends = [one for one in told if one.validation_loss is not None]
    assert tuple(one.validation_loss for one in ends) == artifact.history.validation_losses
    assert tuple(one.training_loss for one in ends) == artifact.history.training_losses
    assert all(one.chunk == one.chunks for one in ends)


def test_the_loss_plot_is_a_picture(tmp_path: Path) -> None:
    plot_losses(trained().history, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (tmp_path / "loss.png").stat().st_size > 10_000


def test_the_hour_is_context_and_no_evidence() -> None:
    with_hour = settings_of.load((), ["record.features=[{name: a}, {name: hour, kind: cyclic, period: hour_of_day}]", "training.epochs=1"], {})
    generator = np.random.default_rng(0)
    sequences = [EntitySequence("pump", generator.normal(size=(200, 3)).astype(np.float32), np.full(200, 60.0))]

    artifact = fit(sequences, with_hour, ("a", "hour_sin", "hour_cos"))

    assert artifact.prediction_level.isinf().tolist() == [False, True, True]
    assert artifact.reconstruction_level.isinf().all(0).tolist() == [False, True, True]
