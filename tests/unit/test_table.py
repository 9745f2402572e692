import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anomaly_daemon.domain.columns import Column
from anomaly_daemon.domain.errors import NoRoom
from anomaly_daemon.domain.records import Partition
from anomaly_daemon.state.table import Table

P, Q = Partition("readings", 0), Partition("readings", 1)
MakeTable = Callable[..., Table]
START = np.array([1.0, 2.0, 3.0])


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Callable[..., Table]]:
    """Makes tables and closes them."""
    made = []

    def make(*, resident_max: int = 4, entities_max: int = 100) -> Table:
        columns = [Column("count", "float64"), Column("shape", "float32", (3,), fill=START), Column("bits", "int64", is_host=True)]
        made.append(Table(columns, resident_max=resident_max, entities_max=entities_max, device="cpu", spill=tmp_path))
        return made[-1]

    yield make
    for one in made:
        one.close()


def touch(found: Table, partition: Partition, entity: str) -> None:
    """Count one observation of an entity."""
    found.begin()
    slots = found.admit(partition, [entity])
    rows, host = found.gather(slots, ["count", "shape"]), found.gather_host(slots)
    rows["count"] += 1
    host["bits"] += 2
    found.scatter(slots, rows, ["count", "shape"])
    found.scatter_host(slots, host)


def extract(found: Table, partition: Partition) -> tuple[list[str], dict[str, np.ndarray]]:
    """All of a partition at once."""
    snapshot = found.open_snapshot(partition)
    snapshot.copy(len(snapshot.entities))
    found.close_snapshot(partition)
    return snapshot.entities, snapshot.columns


def counts(found: Table, partition: Partition) -> dict[str, float]:
    entities, columns = extract(found, partition)
    return dict(zip(entities, columns["count"].tolist(), strict=True))


def test_a_new_entity_starts_with_what_its_columns_declare(table: MakeTable) -> None:
    found = table()
    found.begin()

    rows = found.gather(found.admit(P, ["a"]), ["shape"])

    assert rows["shape"][0].tolist() == START.tolist()


def test_spilled_entities_come_back_as_they_were(table: MakeTable) -> None:
    found = table(resident_max=4)
    for entity in "abcdefgh" * 3:
        touch(found, P, entity)

    assert found.spilled == 4
    assert counts(found, P) == dict.fromkeys("abcdefgh", 3.0)


def test_the_least_recently_seen_entity_is_forgotten_when_the_partition_is_full(table: MakeTable) -> None:
    found = table(resident_max=4, entities_max=3)
    for entity in "abcad":
        touch(found, P, entity)

    assert list(counts(found, P)) == ["c", "a", "d"]
    assert found.take_forgotten() == [(0, "b")]


def test_a_micro_batch_with_more_entities_than_are_remembered_is_admitted_in_parts(table: MakeTable) -> None:
    found = table(resident_max=8, entities_max=3)
    found.begin()

    assert len(found.admit(P, list("abcdef"))) == 3
    found.begin()
    assert len(found.admit(P, list("def"))) == 3


def test_a_micro_batch_with_more_entities_than_fit_in_memory_is_admitted_in_parts(table: MakeTable) -> None:
    found = table(resident_max=4)
    found.begin()

    assert len(found.admit(P, list("abcdef"))) == 4


def test_what_is_extracted_can_be_installed_elsewhere_bit_for_bit(table: MakeTable) -> None:
    first, second = table(resident_max=4), table(resident_max=2)
    for entity in "abcdefab":
        touch(first, P, entity)

    second.install(P, *extract(first, P))

    assert extract(first, P)[0] == extract(second, P)[0]
    for name, values in extract(first, P)[1].items():
        assert values.tobytes() == extract(second, P)[1][name].tobytes()


def test_dropping_a_partition_leaves_the_others_alone(table: MakeTable) -> None:
    found = table()
    for entity in "abcdef":
        touch(found, P, entity)
        touch(found, Q, entity)

    found.drop(P)

    assert counts(found, P) == {}
    assert counts(found, Q) == dict.fromkeys("abcdef", 1.0)


def test_the_spill_file_leaves_nothing_behind(table: MakeTable, tmp_path: Path) -> None:
    found = table(resident_max=1)
    for entity in "abc":
        touch(found, P, entity)
    found.close()

    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_and_once_there_is_room_again_entities_spill(table: MakeTable, tmp_path: Path) -> None:
    found = table(resident_max=2)
    touch(found, P, "pump-0")
    touch(found, P, "pump-1")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(NoRoom, match=rf"{tmp_path}: File too large; make room there"):
            touch(found, P, "pump-2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    found.drop(P)
    for number in range(3):
        touch(found, P, f"pump-{number}")
    assert found.spilled == 1


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="share a name"):
        Table([Column("a", "int64"), Column("a", "int32")], resident_max=1, entities_max=1, device="cpu", spill=tmp_path)


@given(st.lists(st.tuples(st.sampled_from("PQ"), st.sampled_from("abcdefghij")), max_size=60), st.integers(0, 40), st.integers(1, 3))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_snapshot_copied_bit_by_bit_is_the_moment_it_was_opened(
    table: MakeTable, touches: list[tuple[str, str]], opened_at: int, rows: int
) -> None:
    found = table(resident_max=4, entities_max=6)
    partitions = {"P": P, "Q": Q}
    expected = snapshot = None
    for number, (partition, entity) in enumerate(touches):
        if number == opened_at:
            expected, snapshot = extract(found, P), found.open_snapshot(P)
        touch(found, partitions[partition], entity)
        if snapshot is not None and number % 3 == 0:
            snapshot.copy(rows)

    if snapshot is None or expected is None:
        return
    while not snapshot.is_whole:
        snapshot.copy(rows)
    assert snapshot.entities == expected[0]
    for name, values in expected[1].items():
        assert snapshot.columns[name].tobytes() == values.tobytes()
