from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from anomaly_daemon.channels.adaptive import ADAPTIVE, FEATURES_MAX, AdaptiveChannel
from anomaly_daemon.channels.base import Channel, Evidence, Seen
from anomaly_daemon.channels.novelty import NOVELTY, NoveltyChannel
from anomaly_daemon.channels.ring import Index
from anomaly_daemon.domain.columns import OBSERVATIONS
from anomaly_daemon.domain.errors import SettingsError
from anomaly_daemon.settings import Adaptive, Novelty
from anomaly_daemon.state.segments import lay_out
from anomaly_daemon.state.table import Table
from tests.slab_rows import fresh_rows


def observed(channel: Channel, values: Tensor, folder: Path) -> Evidence:
    """What it says of one entity's values, float32 [T, F]."""
    layout = lay_out(np.zeros(len(values), np.int64))
    table = Table((*channel.columns, OBSERVATIONS), resident_max=1, entities_max=1, device="cpu", spill=folder)
    rows, zeros = fresh_rows(channel.columns), torch.zeros_like(values)
    index = Index(layout, rows[OBSERVATIONS.name], "cpu")
    seen = Seen(layout, index, rows, table, values, values, zeros, zeros + 1, zeros[:, 0])
    (evidence,) = channel.observe(seen).values()
    return evidence


def rhythm(rows: int) -> Tensor:
    """0, 1, 0, 2 over and over, with a little noise."""
    return torch.tensor([0.0, 1.0, 0.0, 2.0]).repeat(rows // 4)[:, None] + 0.01 * torch.randn(rows, 1, generator=torch.Generator().manual_seed(0))


def test_a_value_known_of_old_is_news_where_another_was_due(tmp_path: Path) -> None:
    values = rhythm(800)
    values[603] = 1.0  # after 0, 1, 0

    by_value = observed(NoveltyChannel([0], Novelty(refractory=0)), values, tmp_path / NOVELTY).error
    by_moment = observed(AdaptiveChannel([0], 1, Adaptive(refractory=0)), values, tmp_path / ADAPTIVE).error

    assert by_moment[603] > by_value[603] + 1
    assert by_moment[603] > by_moment[300:600].max() + 0.5


def test_with_no_share_of_the_errors_it_is_novelty(tmp_path: Path) -> None:
    values = rhythm(200)

    by_value = observed(NoveltyChannel([0], Novelty()), values, tmp_path / NOVELTY).error
    found = observed(AdaptiveChannel([0], 1, Adaptive(error_share=0)), values, tmp_path / ADAPTIVE).error

    assert torch.equal(found, by_value)


def test_a_new_rhythm_is_learned_and_no_news_any_more(tmp_path: Path) -> None:
    values = torch.cat([rhythm(800), 2.0 - rhythm(1200)])

    error = observed(AdaptiveChannel([0], 1, Adaptive(refractory=0)), values, tmp_path / ADAPTIVE).error

    assert error[800:820].max() > error[600:800].max() + 0.5
    assert error[1800:].median() < error[800:820].max() - 1


def test_context_is_no_news_and_a_row_without_values_says_nothing(tmp_path: Path) -> None:
    values = rhythm(400).repeat(1, 2)
    values[300] = torch.tensor([0.0, 50.0])
    values[350, 0] = torch.nan

    evidence = observed(AdaptiveChannel([0], 2, Adaptive(refractory=0)), values, tmp_path / ADAPTIVE)

    assert evidence.terms(torch.tensor([300])).tolist() == [[evidence.error[300], 0.0]]
    assert evidence.error.isnan().nonzero().flatten().tolist() == [350]
    assert evidence.fresh.tolist() == [row != 350 for row in range(400)]


def test_more_features_than_it_can_remember_are_refused() -> None:
    with pytest.raises(SettingsError, match="adaptive remembers every feature and its errors, 8 at most, here 9"):
        AdaptiveChannel(range(FEATURES_MAX + 1), FEATURES_MAX + 1, Adaptive())
