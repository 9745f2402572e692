from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomaly_daemon.adapters.sqlite_groups import balanced
from anomaly_daemon.adapters.sqlite_sink import SqliteSink
from anomaly_daemon.adapters.sqlite_source import SqliteSource
from anomaly_daemon.adapters.sqlite_topics import SqliteTopics
from anomaly_daemon.domain.errors import CommitFailed, Fenced
from anomaly_daemon.domain.records import ChangeKind, Message, Partition
from tests.contract.logs import ManualClock, Reader, until

SESSION_TIMEOUT_S = 30.0
Join = Callable[[str], Reader]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def path(tmp_path: Path, clock: ManualClock) -> Path:
    topics = SqliteTopics(tmp_path / "topics.db", clock)
    topics.create("readings", 4)
    topics.create("alerts", 1)
    topics.append([Message("readings", None, str(number).encode()) for number in range(40)])
    topics.close()
    return tmp_path / "topics.db"


@pytest.fixture
def join(path: Path, clock: ManualClock) -> Join:
    return lambda member: Reader(SqliteSource(path, ["readings"], "detectors", member, 4096, SESSION_TIMEOUT_S, clock))


def kinds(reader: Reader) -> list[ChangeKind]:
    return [change.kind for change in reader.changes]


def settle(*readers: Reader) -> None:
    """Every partition is owned by one of them, evenly."""
    until(lambda: sum(len(reader.owned) for reader in readers) == 4 and all(len(reader.owned) == 4 // len(readers) for reader in readers), *readers)


def test_a_partition_is_not_read_by_its_new_owner_before_the_old_one_released_it(join: Join) -> None:
    one, two = join("one"), join("two")
    settle(one)

    for _ in range(5):
        two.step()
    assert two.owned == set()

    one.step()
    two.step()
    assert kinds(one) == [ChangeKind.ASSIGNED, ChangeKind.REVOKED]
    assert len(two.owned) == 2
    assert two.owned.isdisjoint(one.owned)


def test_a_newcomer_takes_no_more_than_its_share_and_the_rest_stays_where_it_is(join: Join) -> None:
    one, two = join("one"), join("two")
    settle(one)
    settle(one, two)
    before = set(one.owned)

    two.source.close()
    settle(one)

    assert before < one.owned
    assert sum(len(change.partitions) for change in one.changes if change.kind is ChangeKind.REVOKED) == 2


def test_a_member_that_is_silent_for_the_session_timeout_loses_its_partitions_to_the_others(join: Join, clock: ManualClock) -> None:
    one, two = join("one"), join("two")
    settle(one)
    settle(one, two)

    for _ in range(4):
        clock.advance(SESSION_TIMEOUT_S / 3 + 1)
        two.step()

    assert len(two.owned) == 4


def test_a_member_that_polls_in_time_keeps_its_partitions(join: Join, clock: ManualClock) -> None:
    one, two = join("one"), join("two")
    settle(one)
    settle(one, two)
    before = (set(one.owned), set(two.owned))

    for _ in range(20):
        clock.advance(SESSION_TIMEOUT_S / 2)
        one.step(0)
        two.step(0)

    assert (one.owned, two.owned) == before


def test_a_member_that_was_expired_is_told_lost_and_joins_again(join: Join, clock: ManualClock) -> None:
    one, two = join("one"), join("two")
    settle(one)
    settle(one, two)
    had = tuple(sorted(one.owned))
    for _ in range(4):
        clock.advance(SESSION_TIMEOUT_S / 3 + 1)
        two.step()

    one.changes.clear()
    batch = one.step()

    assert batch.changes[0].kind is ChangeKind.LOST
    assert batch.changes[0].partitions == had
    assert list(batch.records) == []
    settle(one, two)


def test_what_was_read_before_expiry_cannot_be_committed_even_when_the_partition_came_back(join: Join, clock: ManualClock, path: Path) -> None:
    one, two = join("one"), join("two")
    settle(one)
    until(lambda: len(one.records) == 40, one)
    stale = one.output([Message("alerts", b"pump", b"stale")])
    two.step()
    clock.advance(SESSION_TIMEOUT_S + 1)
    two.step()
    assert len(two.owned) == 4
    two.source.close()
    one.step()
    assert kinds(one) == [ChangeKind.ASSIGNED, ChangeKind.LOST, ChangeKind.ASSIGNED]

    sink = SqliteSink(path, "detectors", clock)
    with pytest.raises(CommitFailed):
        sink.commit(stale)
    one.records = []
    for partition in one.owned:
        one.source.seek(partition, 0)
    until(lambda: len(one.records) == 40, one)
    sink.commit(one.output())
    assert set(one.source.committed(sorted(one.owned)).values()) == {10}


def test_an_expired_member_commits_nothing_not_even_messages_alone(join: Join, clock: ManualClock, path: Path) -> None:
    one, two = join("one"), join("two")
    settle(one)
    two.step()
    clock.advance(SESSION_TIMEOUT_S + 1)
    two.step()

    with pytest.raises(CommitFailed, match="expired"):
        SqliteSink(path, "detectors", clock).commit(one.output([Message("alerts", b"pump", b"1")]))


def test_a_partition_that_came_back_brings_no_record_until_it_is_sought(join: Join, clock: ManualClock) -> None:
    one, two = join("one"), join("two")
    settle(one)
    two.step()
    clock.advance(SESSION_TIMEOUT_S + 1)
    two.step()
    two.source.close()

    assert [change.kind for change in one.source.poll(0).changes] == [ChangeKind.LOST, ChangeKind.ASSIGNED]
    assert one.source.positions() == {}
    assert list(one.source.poll(0).records) == []


def test_a_commit_of_partitions_that_stayed_is_accepted_while_others_moved(join: Join, clock: ManualClock, path: Path) -> None:
    one, two = join("one"), join("two")
    settle(one)
    until(lambda: len(one.records) == 40, one)
    lease = one.lease
    settle(one, two)

    one.records = [record for record in one.records if record.partition in one.owned]
    one.lease = lease
    SqliteSink(path, "detectors", clock).commit(one.output())

    assert set(one.source.committed(sorted(one.owned)).values()) == {10}


def test_the_predecessor_of_a_restarted_member_is_fenced_at_its_next_poll_and_commit(join: Join, clock: ManualClock, path: Path) -> None:
    before = join("one")
    settle(before)
    after = join("one")
    settle(after)

    with pytest.raises(Fenced, match=r"input\.member"):
        before.step()
    with pytest.raises(Fenced):
        SqliteSink(path, "detectors", clock).commit(before.output())
    before.source.close()
    after.step()
    assert len(after.owned) == 4


def test_a_restart_moves_no_partition_of_the_other_members(join: Join) -> None:
    one, two = join("one"), join("two")
    settle(one)
    settle(one, two)
    two_owns = set(two.owned)
    again = join("one")

    settle(again, two)

    assert two.owned == two_owns
    assert kinds(two) == [ChangeKind.ASSIGNED]


def test_heartbeats_are_no_more_frequent_than_a_third_of_the_session_timeout(join: Join, path: Path, clock: ManualClock) -> None:
    one = join("one")
    settle(one)
    until(lambda: len(one.records) == 40, one)
    watcher = SqliteSource(path, ["readings"], None, "watcher", 1, SESSION_TIMEOUT_S, clock)
    seen = watcher._file.changes_seen()

    for _ in range(50):
        one.step(0)
    assert watcher._file.changes_seen() == seen

    clock.advance(SESSION_TIMEOUT_S / 3)
    one.step(0)
    assert watcher._file.changes_seen() != seen


def test_members_with_other_topics_share_only_what_both_read(path: Path, clock: ManualClock) -> None:
    def member(name: str, *topics: str) -> Reader:
        return Reader(SqliteSource(path, topics, "detectors", name, 4096, SESSION_TIMEOUT_S, clock))

    both, one = member("both", "readings", "alerts"), member("one", "readings")
    until(lambda: len(both.owned) == 5, both)
    until(lambda: len(both.owned) + len(one.owned) == 5 and len(one.owned) >= 2, both, one)

    assert Partition("alerts", 0) in both.owned


topics_of_partitions = st.dictionaries(st.integers(1, 40), st.sampled_from("abc"), max_size=20)
subscriptions = st.dictionaries(st.sampled_from("mnopq"), st.frozensets(st.sampled_from("abc"), min_size=1), max_size=5)


@given(subscriptions, topics_of_partitions, st.data())
def test_partitions_are_assigned_to_subscribers_evenly_and_staying_so_costs_no_move(
    members: dict[str, frozenset[str]], topics: dict[int, str], drawn: st.DataObject
) -> None:
    current = drawn.draw(st.dictionaries(st.integers(1, 40), st.sampled_from("mnopqx")))

    targets = balanced(members, topics, current)

    load = {member: list(targets.values()).count(member) for member in members}
    assert set(targets) == {number for number, topic in topics.items() if any(topic in subscribed for subscribed in members.values())}
    for number, member in targets.items():
        assert topics[number] in members[member]
        assert all(load[member] <= load[other] + 1 for other in members if topics[number] in members[other])
    assert balanced(members, topics, targets) == targets


@given(topics_of_partitions, st.integers(1, 5))
def test_a_newcomer_takes_only_its_share(topics: dict[int, str], count: int) -> None:
    everything = frozenset("abc")
    before = balanced({f"m{number}": everything for number in range(count)}, topics, {})

    after = balanced({f"m{number}": everything for number in range(count + 1)}, topics, before)

    moved = [number for number in topics if after[number] != before[number]]
    assert {after[number] for number in moved} <= {f"m{count}"}
    assert len(moved) == len(topics) // (count + 1)
