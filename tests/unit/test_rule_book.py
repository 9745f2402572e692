"""A reload that cannot be noted of every partition is in force for none, whatever of it reached the store."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from anomaly_daemon.adapters.checkpoint_store import FsspecCheckpointStore
from anomaly_daemon.domain.records import Partition
from anomaly_daemon.pipeline.rule_book import Entry, RuleBook
from anomaly_daemon.pipeline.rules import Rules

ONE, TWO = Partition("readings", 0), Partition("readings", 1)
ITSELF = cast(Callable[[str], Rules], lambda text: text)


class FailingStore(FsspecCheckpointStore):
    """The real one; these saves, counted from 1, fail, after all was written or before."""

    def __init__(self, folder: Path, failing: Sequence[int], *, is_written: bool) -> None:
        super().__init__(str(folder), "group", 2)
        self.failing, self.is_written, self.saves = failing, is_written, 0

    is_away = False

    def load_rules(self, partition: Partition) -> list[Entry]:
        if self.is_away:
            raise OSError("it is away")
        return super().load_rules(partition)

    def save_rules(self, partition: Partition, entries: Sequence[Entry]) -> None:
        self.saves += 1
        if self.saves not in self.failing or self.is_written:
            super().save_rules(partition, entries)
        if self.saves in self.failing:
            raise OSError("no space left on device")


def begun(store: FailingStore) -> RuleBook:
    book = RuleBook(store, "old", ITSELF)
    for partition in (ONE, TWO):
        book.recover(partition, 0, 10, 0)
    store.saves = 0
    return book


@pytest.mark.parametrize("is_written", [False, True])
@pytest.mark.parametrize("failing", [(1,), (2,), (2, 3), (2, 3, 4), range(1, 9)], ids=str)
def test_a_refused_cut_leaves_nothing_behind(tmp_path: Path, failing: Sequence[int], is_written: bool) -> None:
    store = FailingStore(tmp_path, (), is_written=is_written)
    book = begun(store)
    store.failing = failing

    with pytest.raises(OSError, match="no space"):
        book.cut({ONE: 100, TWO: 100}, {ONE: 100, TWO: 100}, "new")
    # The store may be full for a while yet.
    for partition in (ONE, TWO):
        assert cast(Any, book.recover(partition, 50, 200, 0)) == "old"
    assert book.next_cuts() == {}

    store.failing = ()
    book.settle()
    restarted = RuleBook(store, "new", ITSELF)
    assert cast(Any, restarted.recover(ONE, 50, 200, 0)) == "old"
    assert restarted.next_cuts() == {ONE: 200}


def test_one_that_leaves_takes_back_what_its_successor_would_read(tmp_path: Path) -> None:
    store = FailingStore(tmp_path, (), is_written=False)
    book = begun(store)
    store.failing = (2, 3)
    with pytest.raises(OSError, match="no space"):
        book.cut({ONE: 100, TWO: 100}, {ONE: 100, TWO: 100}, "new")

    book.forget(ONE)

    assert store.load_rules(ONE) == [(10, "old")]


def test_a_cut_that_is_noted_is_passed_through_by_a_recovery_from_before_it(tmp_path: Path) -> None:
    store = FailingStore(tmp_path, (), is_written=False)
    book = begun(store)

    book.cut({ONE: 100, TWO: 100}, {ONE: 100, TWO: 100}, "new")

    assert cast(Any, book.recover(ONE, 50, 200, 0)) == "old"
    assert book.next_cuts() == {ONE: 100}
    assert cast(Any, book.turn(ONE)) == "new"


def test_what_is_known_is_noted_again_where_the_store_lost_it(tmp_path: Path) -> None:
    store = FailingStore(tmp_path, (), is_written=False)
    book = begun(store)
    book.cut({ONE: 100, TWO: 100}, {ONE: 100, TWO: 100}, "new")
    shutil.rmtree(tmp_path)

    book.cut({ONE: 200, TWO: 200}, {ONE: 200, TWO: 200}, "newest")

    assert store.load_rules(ONE) == [(10, "old"), (100, "new"), (200, "newest")]


def test_rules_of_a_start_are_noted_once_a_store_that_was_away_answers(tmp_path: Path) -> None:
    begun(FailingStore(tmp_path, (), is_written=False))
    away = FailingStore(tmp_path, (), is_written=False)
    away.is_away = True
    book = RuleBook(away, "new", ITSELF)
    assert cast(Any, book.recover(ONE, 50, 200, 0)) == "new"
    with pytest.raises(OSError, match="away"):
        book.cut({ONE: 300}, {ONE: 300}, "newest")

    away.is_away = False
    assert not book.is_settled
    book.settle()

    assert book.is_settled
    assert away.load_rules(ONE) == [(10, "old"), (200, "new")]
