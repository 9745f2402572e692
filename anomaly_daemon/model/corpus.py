"""What the network is trained on: every entity's observations split by time, scaled as served, cut into padded chunks.

All rows of all entities stand in one flat tensor; a piece is a range of it, and a chunk is gathered from the ranges that
are still running. Padding is NaN, as is every value that is missing, so neither ever enters a loss.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.model.scaling import FleetScale, entity_scales, fit_fleet, scale_with
from anomaly_daemon.settings import Model as ModelSettings
from anomaly_daemon.settings import Settings
from anomaly_daemon.settings import Training as TrainingSettings

# A shorter sequence is trained on whole: a held-out part of one observation tells nothing.
SPLIT_ROWS_MIN = 12
# A held-out part begins with the state that this many chunks of earlier rows leave; an LSTM's memory of its zero start is gone by then.
LEAD_IN_CHUNKS = 4
HELD_OUT_PIECE_ROWS = 1000
SCALED_VALUES_MAX = 2**24  # whose scales are learned at a time


@dataclass(frozen=True, slots=True)
class EntitySequence:
    """One entity's observations in order.

    values: float32 [T, F], NaN = missing. gaps_s: float64 [T], seconds since the one before, NaN for the first.
    """

    entity: str
    values: NDArray[np.float32]
    gaps_s: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of one sequence by part; the parts follow each other in time, so none sees a later one."""

    training: int
    validation: int
    test: int


@dataclass(frozen=True, slots=True)
class Corpus:
    """All rows, entity after entity, as the network sees them.

    values: float32 [R, F], NaN = missing; gaps: float32 [R]. first_rows: of each sequence. On the device trained on.
    """

    values: Tensor
    gaps: Tensor
    first_rows: tuple[int, ...]
    splits: tuple[Split, ...]


@dataclass(frozen=True, slots=True)
class Pieces:
    """Row ranges `start` ≤ r < `stop`, longest first, each begun from the zero state; rows before `counted` only build it up. int64 [P]."""

    start: Tensor
    stop: Tensor
    counted: Tensor

    def __len__(self) -> int:
        """P."""
        return len(self.start)

    @property
    def rows_max(self) -> int:
        """Rows of the longest."""
        return int((self.stop - self.start).max())

    def groups(self, width: int) -> list[Pieces]:
        """At most `width` pieces of like length each."""
        bounds = range(0, len(self), width)
        return [Pieces(self.start[i : i + width], self.stop[i : i + width], self.counted[i : i + width]) for i in bounds]


@dataclass(frozen=True, slots=True)
class Chunk:
    """S steps of the n pieces that still run, a prefix of their group.

    values: [S, n, F], gaps: [S, n]. following: [S, n, F], the observation after each. decoded: the steps after which a
    window is rebuilt, D of them. windows: [D, n, K, F], the K newest observations there, newest first.
    NaN: missing, padding or not counted.
    """

    values: Tensor
    gaps: Tensor
    following: Tensor
    decoded: Tensor
    windows: Tensor


def split(rows: int, training: TrainingSettings) -> Split:
    """The parts of a sequence of so many rows; all of it is training where it is too short to be split."""
    if rows < SPLIT_ROWS_MIN:
        return Split(rows, 0, 0)
    validation, test = max(1, int(rows * training.validation_share)), int(rows * training.test_share)
    return Split(rows - validation - test, validation, test)


def is_enough(sequences: Sequence[EntitySequence], training: TrainingSettings) -> bool:
    """Whether there is something to train on, and something later to judge it by."""
    return any(split(len(sequence.values), training).validation for sequence in sequences)


def build(sequences: Sequence[EntitySequence], settings: Settings) -> tuple[Corpus, FleetScale]:
    """The rows as served, and the fleet's scale, both fitted on the training parts alone. Raises InputError where too little is left to train on."""
    sequences = [sequence for sequence in sequences if len(sequence.values)]
    splits = tuple(split(len(sequence.values), settings.training) for sequence in sequences)
    if not is_enough(sequences, settings.training):
        longest = max((len(sequence.values) for sequence in sequences), default=0)
        raise InputError(
            f"nothing to train on: the range holds {len(sequences)} entities, the longest with {longest} observations; "
            f"at least one must have {SPLIT_ROWS_MIN}: widen --from, --to or --entities"
        )
    trained = [(sequence, part.training) for sequence, part in zip(sequences, splits, strict=True)]
    values = np.concatenate([sequence.values[:rows] for sequence, rows in trained])
    gaps_s = np.concatenate([sequence.gaps_s[:rows] for sequence, rows in trained])
    scale = fit_fleet(values, gaps_s, draws_in_wild=settings.model.scale == "entity")
    fleet = [torch.from_numpy(scale.transform(sequence.values)) for sequence in sequences]
    scaled = [scale_with(rows, *own, settings.model.tails) for rows, own in zip(fleet, _own_scales(fleet, splits, settings.model), strict=True)]
    gaps = torch.from_numpy(np.concatenate([scale.gap(sequence.gaps_s) for sequence in sequences]))
    first_rows = np.cumsum([0, *(len(sequence.values) for sequence in sequences)])[:-1]
    return Corpus(torch.cat(scaled), gaps, tuple(first_rows.tolist()), splits), scale


def _own_scales(fleet: Sequence[Tensor], splits: Sequence[Split], model: ModelSettings) -> Iterator[tuple[Tensor, Tensor]]:
    """Mean and deviation of each sequence, as an entity has them that was seen for as long; groups of sequences at a time bound the memory."""
    if model.scale == "fleet":
        yield from itertools.repeat((torch.zeros(()), torch.ones(())), len(fleet))
        return
    learned = [rows[: min(part.training, model.scale_observations)] for rows, part in zip(fleet, splits, strict=True)]
    size = max(1, SCALED_VALUES_MAX // max(rows.numel() for rows in learned))
    for first in range(0, len(learned), size):
        yield from zip(*entity_scales(learned[first : first + size]), strict=True)


def joined(corpora: Sequence[Corpus]) -> Corpus:
    """Several as one, each row on the scale it had."""
    begins = np.cumsum([0, *(len(one.values) for one in corpora)]).tolist()
    return Corpus(
        torch.cat([one.values for one in corpora]),
        torch.cat([one.gaps for one in corpora]),
        tuple(begin + first for begin, one in zip(begins, corpora, strict=False) for first in one.first_rows),
        tuple(part for one in corpora for part in one.splits),
    )


def training_pieces(corpus: Corpus, rows_max: int, shift: int = 0) -> Pieces:
    """The training parts cut into pieces of at most `rows_max` rows; another `shift` cuts them elsewhere."""
    ranges = []
    for first, part in zip(corpus.first_rows, corpus.splits, strict=True):
        end = first + part.training
        cuts = [first, *range(first + (shift % rows_max or rows_max), end, rows_max), end]
        ranges += [(start, stop, start) for start, stop in itertools.pairwise(cuts)]
    return _pieces(ranges, corpus)


def whole_pieces(corpus: Corpus) -> Pieces:
    """Every sequence from its first row to its last."""
    rows = [part.training + part.validation + part.test for part in corpus.splits]
    return _pieces([(first, first + count, first) for first, count in zip(corpus.first_rows, rows, strict=True)], corpus)


def held_out_pieces(corpus: Corpus, part: str, steps: int) -> Pieces:
    """The `validation` or `test` parts, each piece led in by rows before it; empty where no sequence has that part."""
    ranges = []
    for first, rows in zip(corpus.first_rows, corpus.splits, strict=True):
        begin = first + rows.training + (rows.validation if part == "test" else 0)
        end = begin + (rows.test if part == "test" else rows.validation)
        starts = range(begin, end, HELD_OUT_PIECE_ROWS)
        ranges += [(max(first, start - LEAD_IN_CHUNKS * steps), min(start + HELD_OUT_PIECE_ROWS, end), start) for start in starts]
    return _pieces(ranges, corpus)


def chunks(corpus: Corpus, pieces: Pieces, steps: int, decode_every: int, decode_steps: int) -> Iterator[Chunk]:
    """The pieces side by side, `steps` rows at a time, in order; a chunk is as wide as pieces still run."""
    device, back = corpus.values.device, torch.arange(decode_steps, device=corpus.values.device)
    for begin in range(0, pieces.rows_max, steps):
        width = int((pieces.stop - pieces.start > begin).sum())
        start, stop, counted = pieces.start[:width], pieces.stop[:width], pieces.counted[:width]
        offset = torch.arange(begin, min(begin + steps, pieces.rows_max), device=device)
        row = start + offset[:, None]  # [S, n]
        after = row + 1
        decoded = ((offset + 1) % decode_every == 0).nonzero().flatten()
        newest = row[decoded][..., None]  # [D, n, 1]
        window = newest - back  # [D, n, K]
        yield Chunk(
            values=_gather(corpus.values, row, row < stop),
            gaps=torch.where(row < stop, corpus.gaps[row.clamp(max=len(corpus.gaps) - 1)], 0.0),
            following=_gather(corpus.values, after, (after < stop) & (after >= counted)),
            decoded=decoded,
            windows=_gather(corpus.values, window, (newest < stop[:, None]) & (window >= counted[:, None])),
        )


def _gather(values: Tensor, row: Tensor, is_live: Tensor) -> Tensor:
    """[..., F] rows of [R, F]; NaN where not live."""
    return torch.where(is_live[..., None], values[row.clamp(0, len(values) - 1)], torch.nan)


def _pieces(ranges: list[tuple[int, int, int]], corpus: Corpus) -> Pieces:
    ranges.sort(key=lambda piece: piece[0] - piece[1])
    columns = torch.tensor(ranges, dtype=torch.int64, device=corpus.values.device).reshape(-1, 3).T.contiguous()
    return Pieces(columns[0], columns[1], columns[2])
