"""A device that runs out of memory: fewer records at once, entities that spill sooner, and not one bit of another result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from anomaly_daemon.channels.engine import Engine
from anomaly_daemon.domain.columns import Column
from anomaly_daemon.domain.errors import NoRoom
from anomaly_daemon.domain.records import Batch
from anomaly_daemon.pipeline.portion import Portion
from anomaly_daemon.state.table import Table
from tests.small import EVERY_CHANNEL, P, judge, processor, stream

RECORDS = stream(3, 6, 300)
Shortage = Callable[[int], None]


@pytest.fixture
def shortage(monkeypatch: pytest.MonkeyPatch) -> Shortage:
    """From now on the engine has no memory for more than so many records at once."""
    observe = Engine.observe

    def limit(rows_max: int) -> None:
        def short(self: Engine, layout: object, rows: object, table: object, values: np.ndarray, gaps_s: object) -> object:
            if len(values) > rows_max:
                raise torch.OutOfMemoryError(f"Tried to allocate room for {len(values)} records")
            return observe(self, layout, rows, table, values, gaps_s)  # type: ignore[arg-type]

        monkeypatch.setattr(Engine, "observe", short)

    return limit


@pytest.mark.parametrize("rows_max", [1, 7, 200])
@pytest.mark.parametrize(
    "wishes", [(EVERY_CHANNEL,), ("regime={after: 1h, policy: accept}", "threshold.suspect_learning=0")], ids=["channels", "regime"]
)
def test_a_batch_that_the_device_has_no_memory_for_is_halved_until_it_fits_and_changes_no_bit(
    shortage: Shortage, rows_max: int, wishes: tuple[str, ...]
) -> None:
    whole = judge(RECORDS, (), *wishes)
    shortage(rows_max)

    assert judge(RECORDS, (), *wishes) == whole
    assert len(whole.alerts) > 3


def test_how_often_and_how_far_is_told_once(shortage: Shortage) -> None:
    shortage(200)
    built, _ = processor()
    built.begin(P)

    built.process(Batch(RECORDS), {})

    assert (built.portion.rows_max, built.take_shortages(), built.take_shortages()) == (150, 1, 0)


def test_a_device_without_memory_for_one_record_is_told_with_the_remedy(shortage: Shortage) -> None:
    shortage(0)
    built, _ = processor()
    built.begin(P)

    with pytest.raises(NoRoom, match=r"single record.*engine\.resident_max"):
        built.process(Batch(RECORDS[:4]), {})


def test_memory_that_ends_once_incidents_moved_on_is_left_to_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    built, _ = processor()
    built.begin(P)

    def short(self: Engine, work: object) -> None:
        raise torch.OutOfMemoryError("Tried to allocate")

    monkeypatch.setattr(Engine, "remember", short)
    with pytest.raises(NoRoom, match="no memory left"):
        built.process(Batch(RECORDS[:4]), {})


def test_after_many_batches_that_fitted_more_are_tried() -> None:
    portion = Portion()
    portion.halve(100, torch.OutOfMemoryError())
    for _ in range(255):
        portion.grow()
    assert portion.rows_max == 50

    portion.grow()

    assert portion.rows_max == 100


def test_a_table_that_cannot_grow_spills_sooner_and_keeps_every_entity_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    column = Column("mean", "float64", (300,))
    table = Table((column,), resident_max=10_000, entities_max=10_000, device="cpu", spill=tmp_path)
    empty = torch.empty

    def short(shape: tuple[int, ...], **options: object) -> torch.Tensor:
        if shape[0] > 1024:
            raise torch.OutOfMemoryError("Tried to allocate")
        return empty(shape, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(torch, "empty", short)
    names = [f"pump-{number}" for number in range(3000)]
    for first in range(0, 3000, 500):
        table.begin()
        slots = table.admit(P, names[first : first + 500])
        table.scatter(slots, {"mean": torch.arange(first, first + 500.0, dtype=torch.float64)[:, None].expand(500, 300)}, ["mean"])

    assert (table.resident_max, table.entities, table.take_refused(), table.take_refused()) == (1024, 3000, 1, 0)
    table.begin()
    slots = table.admit(P, names[:500])
    assert torch.equal(table.gather(slots, ["mean"])["mean"][:, 0], torch.arange(500.0, dtype=torch.float64))
    table.close()
