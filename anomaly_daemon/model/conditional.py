"""Conditional: what a record should hold, given the state before it, its clock, and those of its own features that stand ahead.

A masked autoregressive head on the network's carried state: mean and spread of each feature. One that disagrees with the others of its record, with
the hour, or with what went before stands out, though its value be an ordinary one; averages over a few records bring out what is wrong for long.

Sources
    masks   Germain, Gregor, Murray & Larochelle 2015, arXiv:1502.03509 (MADE), conditioned on a recurrent state as in
            Boulanger-Lewandowski, Bengio & Vincent 2012, arXiv:1206.6392
    spread  Nix & Weigend 1994, "Estimating the mean and variance of the target probability distribution", with Huber's loss for a square
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from anomaly_daemon.model.autoencoder import Autoencoder
from anomaly_daemon.model.corpus import Corpus
from anomaly_daemon.model.objective import states_before
from anomaly_daemon.model.sides import Side, sides
from anomaly_daemon.model.training import UPDATES_PER_EPOCH_MIN, cosine_decayed, refuse_divergence
from anomaly_daemon.settings import Settings
from anomaly_daemon.statistics.mewma import Mewma

# Rows of one multiplication, always as many: a product of one shape sums each row in one order, wherever the row stands.
BLOCK_ROWS = 64
# A spread of a few hundredths of the feature's own would call rounding strange.
_LOG_SPREAD_MIN, _LOG_SPREAD_MAX = -3.0, 3.0
_HUBER_DELTA = 3.0
_RESIDUAL_MAX = 30.0
_BATCH_ROWS, _HELD_OUT_ROWS = 256, 2**14
_LEAD_IN_SPANS, _LEAD_IN_SHARE = 2, 0.2
# Regimes that change make errors far from normal: it is their farthest that an anomaly must exceed.
_QUANTILE = 0.999


class ConditionalHead(nn.Module):
    """The head. N rows, H numbers of state, F features; features that are context are known to all others and are themselves not foretold."""

    is_context: Tensor

    def __init__(self, hidden: int, units: int, is_context: Tensor) -> None:
        """is_context: bool [F]."""
        super().__init__()
        features, evidence = len(is_context), int((~is_context).sum())
        place = torch.where(is_context, -1, (~is_context).cumsum(0) - 1)  # among the evidence
        ahead = torch.arange(units) % max(evidence, 1)  # a unit knows the evidence before this place
        self.register_buffer("is_context", is_context)
        self.first = nn.Linear(hidden + 2 * features, units)
        self.second = nn.Linear(units, 2 * features)
        self.direct = nn.Linear(hidden + 2 * features, features, bias=False)
        nn.init.zeros_(self.direct.weight)
        tells = (ahead <= place[:, None]).float()  # [F, units]
        _confine(self.first.weight, _known(hidden, place < ahead[:, None]))
        _confine(self.second.weight, torch.cat((tells, tells)))
        _confine(self.direct.weight, _known(hidden, place < place[:, None]))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log spread of each feature, [N, F] each, scaled. inputs: see `inputs`."""
        mean, log_spread = self.second(functional.silu(self.first(inputs))).chunk(2, 1)
        return mean + self.direct(inputs), log_spread.clamp(_LOG_SPREAD_MIN, _LOG_SPREAD_MAX)

    def residual(self, before: Tensor, scaled: Tensor) -> Tensor:
        """What was not foretold, in deviations within ±30: float32 [N, F], NaN where missing or context. A row's bits depend on that row only.

        before: float32 [N, H], the state before each row. scaled: [N, F], NaN = missing.
        """
        rows = len(scaled)
        known = functional.pad(inputs(before, scaled), (0, 0, 0, -rows % BLOCK_ROWS))
        found = [self(block) for block in torch.split(known, BLOCK_ROWS)]
        mean, log_spread = (torch.cat(parts)[:rows] for parts in zip(*found, strict=True))
        deviations = ((scaled - mean) * torch.exp(-log_spread)).clamp(-_RESIDUAL_MAX, _RESIDUAL_MAX)
        return deviations.masked_fill(self.is_context, torch.nan)


@dataclass(frozen=True, slots=True)
class ConditionalFit:
    """The head, in eval mode, and how far its residuals and their averages usually stray. ordinary: float32 [1 + S, F]; infinite for context."""

    spans: tuple[int, ...]
    head: ConditionalHead
    ordinary: Tensor

    def limited(self, residual: Tensor) -> Tensor:
        """[N, F] as averages take it: one record that is far off is strange by itself, and must not make those after it strange too."""
        return residual.clamp(-self.ordinary[0], self.ordinary[0])

    def squares(self, residual: Tensor, averages: Tensor) -> Tensor:
        """Residuals [N, F] and their averages [N, S, F] over their ordinary, squared: float64 [N, 1 + S, F], 0 where missing."""
        both = torch.cat([residual.nan_to_num(nan=0.0)[:, None], averages], 1)
        return (both / self.ordinary).double().square()

    def error(self, squares: Tensor, is_told: Tensor) -> Tensor:
        """The largest over spans and features, float64 [N]: a sum would drown the one feature that knows. NaN where nothing was told, bool [N]."""
        return squares.flatten(1).amax(1).where(is_told, torch.nan)


def bank(spans: Sequence[int], features: int) -> Mewma:
    """The averages of limited residuals."""
    return Mewma("conditional", spans, features, None)


def inputs(before: Tensor, scaled: Tensor) -> Tensor:
    """What the head reads of each row: [N, H], [N, F] NaN = missing → [N, H + 2F]. The time gap stays out: as a feature it is evidence."""
    present = ~scaled.isnan()
    return torch.cat((before, torch.where(present, scaled, 0.0), present.to(scaled.dtype)), 1)


def _known(hidden: int, is_ahead: Tensor) -> Tensor:
    """Which inputs may be read, float32 [out, H + 2F]: all of the state, of the features those ahead, bool [out, F]."""
    return torch.cat((torch.ones(len(is_ahead), hidden), is_ahead.float(), is_ahead.float()), 1)


def _confine(weight: Tensor, mask: Tensor) -> None:
    """Weights are zero where the mask is, and stay so: they get no gradient."""
    with torch.no_grad():
        weight.mul_(mask)
    weight.register_hook(lambda gradient: gradient * mask.to(gradient.device))  # type: ignore[no-untyped-call]


def fit_conditional(model: Autoencoder, corpus: Corpus, is_context: Tensor, settings: Settings) -> tuple[ConditionalFit, Tensor]:
    """Fitted on the training parts under the network's frozen states; and the errors it finds on the validation parts, float64 [R], on the CPU.

    Raises InputError when training diverges.
    """
    spans, features = settings.evidence.conditional.spans, corpus.values.shape[1]
    before = states_before(model, corpus, settings)
    devices = [corpus.values.device] if corpus.values.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(settings.training.seed)
        head = ConditionalHead(model.shape.hidden, settings.evidence.conditional.units, is_context.cpu()).to(corpus.values.device)
        _train(head, before, corpus, settings)
    head.eval().requires_grad_(False)
    residual = head.residual(before, corpus.values).cpu()
    residual[list(corpus.first_rows)] = torch.nan  # there is no state before it
    alone = _ordinary([residual[side.rows[_is_known(side, spans)]] for side in sides(corpus)], 1)
    averages, known, later, told = bank(spans, features), [], [], []
    for side in sides(corpus):
        own = residual[side.rows]
        found = averages.differences(side.widths, side.start(averages.columns), own.clamp(-alone, alone))
        known.append(found[_is_known(side, spans)])
        later.append(found[side.is_validation])
        told.append(own[side.is_validation])
    ordinary = [alone, *(_ordinary([part[:, place] for part in known], span) for place, span in enumerate(spans))]
    fit = ConditionalFit(spans, head.cpu(), torch.stack(ordinary).masked_fill(is_context.cpu(), torch.inf))
    validated = torch.cat(told)
    return fit, fit.error(fit.squares(validated, torch.cat(later)), ~validated.isnan().all(1))


def _is_known(side: Side, spans: Sequence[int]) -> Tensor:
    """The rows that tell what is ordinary: bool [N]."""
    return side.is_training(_LEAD_IN_SPANS * max(spans), _LEAD_IN_SHARE) | side.is_validation


def _ordinary(parts: Sequence[Tensor], span: int) -> Tensor:
    """How far residuals [n, F], or their averages over a span, stray at most in all but one of a thousand rows: float32 [F].

    Never less than one deviation of an average of unrelated errors: what never erred in training may err so much.
    """
    strayed = torch.cat(list(parts)).abs()
    found = [np.quantile(column[~column.isnan()].numpy(), _QUANTILE) if (~column.isnan()).any() else 0.0 for column in strayed.T]
    return torch.tensor(found, dtype=torch.float32).clamp(min=1 / math.sqrt(span))


def _train(head: ConditionalHead, before: Tensor, corpus: Corpus, settings: Settings) -> None:
    """Epochs over rows in random order until the validation loss stops falling; leaves the best weights. before: [R, H]."""
    training = settings.training
    parts = list(zip(corpus.first_rows, corpus.splits, strict=True))
    rows = _joined([range(first + 1, first + part.training) for first, part in parts], before.device)
    held_out = _joined([range(first + part.training, first + part.training + part.validation) for first, part in parts], before.device)
    optimizer = torch.optim.Adam(head.parameters(), lr=training.learning_rate)
    size = max(1, min(_BATCH_ROWS, len(rows) // UPDATES_PER_EPOCH_MIN))
    best, best_epoch, best_weights = math.inf, 0, copy.deepcopy(head.state_dict())
    for epoch in range(1, training.epochs + 1):
        batches = torch.split(rows[torch.randperm(len(rows)).to(rows.device)], size)
        for number, batch in enumerate(batches):
            share_done = (epoch - 1 + number / len(batches)) / training.epochs
            optimizer.param_groups[0]["lr"] = cosine_decayed(training.learning_rate, share_done)
            optimizer.zero_grad()
            _loss(head, before, corpus, batch).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(head.parameters(), training.gradient_norm_max)
            optimizer.step()
        with torch.no_grad():
            losses = [float(_loss(head, before, corpus, block)) * len(block) for block in torch.split(held_out, _HELD_OUT_ROWS)]
        loss = sum(losses) / len(held_out)
        refuse_divergence(loss, epoch, settings)
        if loss < best:
            best, best_epoch, best_weights = loss, epoch, copy.deepcopy(head.state_dict())
        if epoch - best_epoch >= training.patience:
            break
    head.load_state_dict(best_weights)


def _joined(ranges: Sequence[range], device: torch.device) -> Tensor:
    return torch.cat([torch.arange(one.start, max(one.start, one.stop), device=device) for one in ranges])


def _loss(head: ConditionalHead, before: Tensor, corpus: Corpus, rows: Tensor) -> Tensor:
    """Mean over the values present of log spread + Huber's loss of the deviation."""
    scaled = corpus.values[rows]
    mean, log_spread = head(inputs(before[rows], scaled))
    present = ~scaled.isnan() & ~head.is_context
    # A NaN masked only after the loss would still make the gradient NaN.
    deviation = (torch.where(present, scaled, mean.detach()) - mean) * torch.exp(-log_spread)
    loss = log_spread + functional.huber_loss(deviation, torch.zeros_like(deviation), reduction="none", delta=_HUBER_DELTA)
    return torch.where(present, loss, 0.0).sum() / present.sum().clamp(min=1)
