"""Train the network on a range of history, as it will be served: state carried from chunk to chunk, the same scale, the same errors.

Truncated backpropagation through time (Williams & Peng 1990): the state goes on into the next chunk of `training.steps`
rows, the gradient does not.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.model.autoencoder import Autoencoder, Shape
from anomaly_daemon.model.corpus import Corpus, chunks, held_out_pieces, training_pieces
from anomaly_daemon.model.objective import Loss, chunk_loss, held_out_loss
from anomaly_daemon.settings import Settings

# A small range is cut into fewer pieces side by side, so that an epoch still has this many steps of the optimiser.
UPDATES_PER_EPOCH_MIN = 32
LEARNING_RATE_LAST = 1 / 20


@dataclass(frozen=True, slots=True)
class Progress:
    """How far training is, after a chunk. validation_loss: None but after the epoch's last one."""

    epoch: int
    epochs: int
    chunk: int
    chunks: int
    training_loss: float
    validation_loss: float | None = None
    is_best: bool = False


Report = Callable[[Progress], None]


@dataclass(slots=True)
class Course:
    """The losses so far and the weights of the best epoch."""

    training: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)


def shape_of(settings: Settings, features: int) -> Shape:
    """The network's widths: as set, else by the number of features."""
    hidden, code = (32, 8) if features <= 10 else (64, 16)
    return Shape(features, settings.model.hidden or hidden, settings.model.code or code, settings.model.layers)


def train_network(corpus: Corpus, settings: Settings, report: Report) -> tuple[Autoencoder, Course]:
    """The weights of the best epoch, on the device trained on, and how they came about.

    On the CPU the same corpus, settings and seed give the same bytes. Where no channel asks the network it stays as drawn, without an epoch.
    Leaves torch with one thread. Raises InputError when training diverges.
    """
    torch.set_num_threads(1)  # more are slower on networks this small, and their sums are not ordered
    device = _device(settings)
    corpus = replace(corpus, values=corpus.values.to(device), gaps=corpus.gaps.to(device))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(settings.training.seed)
        model = Autoencoder(shape_of(settings, corpus.values.shape[1]), settings.training.dropout).to(device)
        if not settings.evidence.is_network_asked:
            return model, Course()
        course = _train(model, corpus, settings, report)
    model.load_state_dict(course.best_weights)
    return model, course


def _train(model: Autoencoder, corpus: Corpus, settings: Settings, report: Report) -> Course:
    """Epochs until the validation loss stops falling."""
    training = settings.training
    make = torch.optim.Adam if training.optimizer == "adam" else torch.optim.RMSprop
    optimizer = make(model.parameters(), lr=training.learning_rate)
    validation = held_out_pieces(corpus, "validation", training.steps)
    course = Course()
    for epoch in range(1, training.epochs + 1):
        last = _epoch(model, optimizer, corpus, settings, epoch, report)
        held_out = held_out_loss(model, corpus, validation, settings)
        refuse_divergence(held_out, epoch, settings)
        is_best = held_out < min(course.validation, default=math.inf)
        course.training.append(last.training_loss)
        course.validation.append(held_out)
        if is_best:
            course.best_epoch, course.best_weights = epoch, copy.deepcopy(model.state_dict())
        report(replace(last, validation_loss=held_out, is_best=is_best))
        if epoch - course.best_epoch >= training.patience:
            break
    return course


def _epoch(model: Autoencoder, optimizer: torch.optim.Optimizer, corpus: Corpus, settings: Settings, epoch: int, report: Report) -> Progress:
    """One pass over the training parts, cut at other places each time; returns its last progress."""
    training, engine = settings.training, settings.engine
    rows = sum(split.training for split in corpus.splits)
    width = max(1, min(training.batch, rows // (training.steps * UPDATES_PER_EPOCH_MIN)))
    rows_max = max(training.steps, math.ceil(rows / width))
    groups = training_pieces(corpus, rows_max, shift=int(torch.randint(rows_max, ()))).groups(width)
    count = sum(math.ceil(group.rows_max / training.steps) for group in groups)
    total, done = Loss.zero(corpus.values.device), 0
    progress = Progress(epoch, training.epochs, 0, count, math.nan)
    model.train()
    for position in torch.randperm(len(groups)).tolist():
        hidden = model.initial(len(groups[position]))
        for chunk in chunks(corpus, groups[position], training.steps, engine.decode_every, engine.decode_steps):
            optimizer.param_groups[0]["lr"] = cosine_decayed(training.learning_rate, (epoch - 1 + done / count) / training.epochs)
            loss, (top, cell) = chunk_loss(model, chunk, hidden, training.huber_delta, training.noise)
            hidden = (top.detach(), cell.detach())
            optimizer.zero_grad()
            loss.mean().backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), training.gradient_norm_max)
            optimizer.step()
            total, done = total.plus(loss), done + 1
            progress = replace(progress, chunk=done, training_loss=float(total.mean()))
            refuse_divergence(progress.training_loss, epoch, settings)
            report(progress)
    return progress


def cosine_decayed(initial: float, share_done: float) -> float:
    """The learning rate after that share of training (Loshchilov & Hutter 2017): from `initial` to a twentieth of it."""
    return initial * (LEARNING_RATE_LAST + (1 - LEARNING_RATE_LAST) * (1 + math.cos(math.pi * share_done)) / 2)


def refuse_divergence(loss: float, epoch: int, settings: Settings) -> None:
    """Raise InputError when a loss is not finite: no later epoch could mend it."""
    if not math.isfinite(loss):
        training = settings.training
        raise InputError(
            f"training diverged in epoch {epoch}: its loss is {loss}; lower training.learning_rate ({training.learning_rate:g}) "
            f"or training.gradient_norm_max ({training.gradient_norm_max:g})"
        )


def _device(settings: Settings) -> torch.device:
    wanted = settings.engine.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("engine.device is cuda, but torch finds no CUDA device here; set it to auto or cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")
