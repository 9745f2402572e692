"""Who owns which partition of the embedded log: group membership, fencing and rebalancing, all in SQLite transactions.

The protocol. SQLite's single writer is the coordinator, so every step below is one serial transaction made by a member from within its `poll`.
- A group has a `generation`, raised by every change of membership or ownership. A member has a `token` (the generation at which it first joined)
  and a counter of heartbeats, raised at most every third of the session timeout. Silence is judged by each observer on its own monotonic clock: a
  counter that did not move for the session timeout. No two clocks are ever compared.
- Whoever joins, leaves or expires a silent member computes the new `target` of each partition (`balanced`: as few moves as possible).
- Each partition has besides its target an `owner`. An owner that is no longer the target releases (owner = NULL) in the very transaction that
  makes its poll report REVOKED; the target takes over only what nobody owns, and notes the generation in `since`. So the new owner cannot read
  before the old one released, left or expired.
- A lease is (group, member, token, generation) as of before the read. A commit is accepted when the member is still enrolled under that token and
  has owned each partition it commits since at or before the lease's generation: a partition lost and regained in between is fenced too.
- A member that joins under a name already enrolled takes over that membership at once: the restarted process need not wait out a timeout. The
  predecessor, should it live, is told `Fenced` at its next poll or commit. A member that was expired learns it at its next poll: LOST, then it
  joins again.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from anomaly_daemon.adapters.sqlite_schema import LogFile, damaged
from anomaly_daemon.domain.errors import CommitFailed, Fenced
from anomaly_daemon.domain.ports import Clock
from anomaly_daemon.domain.records import ChangeKind, Partition, PartitionChange


@dataclass(frozen=True, slots=True)
class Lease:
    """Proof of membership as of before a read."""

    group: str
    member: str
    token: int
    generation: int


@dataclass(frozen=True, slots=True)
class _Heard:
    """What an observer last heard of another member, and when on its own monotonic clock."""

    token: int
    heartbeats: int
    at_s: float


class Membership:
    """One member of a group, advanced by `refresh` from within poll."""

    def __init__(self, log: LogFile, group: str, member: str, partitions: Mapping[int, Partition], session_timeout_s: float, clock: Clock) -> None:
        self._log = log
        self._group = group
        self._member = member
        self._partitions = partitions
        self._topics = sorted({partition.topic for partition in partitions.values()})
        self._session_timeout_s = session_timeout_s
        self._clock = clock
        self._token: int | None = None
        self._generation = 0
        self._held: set[int] = set()
        self._heard: dict[str, _Heard] = {}
        self._heartbeat_due_s = clock.monotonic_s()

    def lease(self) -> Lease | None:
        """The proof for what is read from now on; None before the first `refresh`."""
        return None if self._token is None else Lease(self._group, self._member, self._token, self._generation)

    def is_due(self) -> bool:
        """Whether it is time for a heartbeat."""
        return self._clock.monotonic_s() >= self._heartbeat_due_s

    def refresh(self) -> tuple[PartitionChange, ...]:
        """Heartbeat when due, expire the silent, release and take over; what changed for this member, in order.

        Raises Fenced when another process took this member's name, LogUnavailable when the file stays locked.
        """
        now_s = self._clock.monotonic_s()
        if not self.is_due() and not self._group_moved():
            return ()
        with self._log.writing() as connection:
            changes, held, token, generation = self._advance(connection, now_s)
        self._held, self._token, self._generation = held, token, generation
        self._heartbeat_due_s = now_s + self._session_timeout_s / 3
        return changes

    def leave(self) -> None:
        """Give the partitions to the others at once. Raises LogUnavailable; the membership then expires by itself."""
        if self._token is None:
            return
        with self._log.writing() as connection:
            if _token_of(connection, self._group, self._member) == self._token:
                _remove(connection, self._group, [self._member])
                _rebalance(connection, self._group)
                self._raise_generation(connection)
        self._token = None

    def _group_moved(self) -> bool:
        with self._log.reading() as connection:
            row = connection.execute("SELECT generation FROM groups WHERE name = ?", (self._group,)).fetchone()
        return row is None or row[0] != self._generation

    def _advance(self, connection: sqlite3.Connection, now_s: float) -> tuple[tuple[PartitionChange, ...], set[int], int, int]:
        """Everything of one `refresh` inside its transaction; touches no field but what was heard of the others."""
        group, member = self._group, self._member
        held, token, lost = set(self._held), self._token, set[int]()
        enrolled = _token_of(connection, group, member)
        if token is not None and enrolled is not None and enrolled != token:
            raise _fenced(group, member)
        is_joining = enrolled is None or token is None
        silent = self._silent(connection, now_s)
        if is_joining:
            lost, held = held, set()
            token = self._join(connection, token)
        if silent:
            _remove(connection, group, silent)
        if is_joining or silent:
            _rebalance(connection, group)
        connection.execute("UPDATE members SET heartbeats = heartbeats + 1 WHERE group_name = ? AND name = ?", (group, member))
        released = _release(connection, group, member)
        generation = self._current_generation(connection)
        taken = _take_over(connection, group, member, generation + 1)
        if is_joining or silent or released or taken:
            generation = self._raise_generation(connection)
        held = (held - released) | taken
        assert token is not None
        kinds = ((ChangeKind.LOST, lost), (ChangeKind.REVOKED, released), (ChangeKind.ASSIGNED, taken))
        changes = tuple(PartitionChange(kind, self._named(ids)) for kind, ids in kinds if ids)
        return changes, held, token, generation

    def _join(self, connection: sqlite3.Connection, token: int | None) -> int:
        """Enrol, over a predecessor of the same name if there is one; a member that was expired keeps its token."""
        connection.execute("INSERT INTO groups (name, generation) VALUES (?, 0) ON CONFLICT DO NOTHING", (self._group,))
        _remove(connection, self._group, [self._member])
        if token is None:
            token = self._raise_generation(connection)
        connection.execute("INSERT INTO members VALUES (?, ?, ?, 0, ?)", (self._group, self._member, token, json.dumps(self._topics)))
        return token

    def _current_generation(self, connection: sqlite3.Connection) -> int:
        """Raises LogCorrupt where the group is gone: nobody removes one."""
        row = connection.execute("SELECT generation FROM groups WHERE name = ?", (self._group,)).fetchone()
        if row is None:
            raise damaged(self._log.path, f"group {self._group} is missing")
        return int(row[0])

    def _raise_generation(self, connection: sqlite3.Connection) -> int:
        connection.execute("UPDATE groups SET generation = generation + 1 WHERE name = ?", (self._group,))
        return self._current_generation(connection)

    def _silent(self, connection: sqlite3.Connection, now_s: float) -> list[str]:
        """Names of the other members whose heartbeat has not moved for the session timeout."""
        heard, silent = {}, []
        others = connection.execute(
            "SELECT name, token, heartbeats FROM members WHERE group_name = ? AND name <> ?", (self._group, self._member)
        ).fetchall()
        for name, token, heartbeats in others:
            last = self._heard.get(name)
            if last is None or (last.token, last.heartbeats) != (token, heartbeats):
                last = _Heard(token, heartbeats, now_s)
            heard[name] = last
            if now_s - last.at_s > self._session_timeout_s:
                silent.append(name)
        self._heard = heard
        return silent

    def _named(self, partition_ids: Iterable[int]) -> tuple[Partition, ...]:
        return tuple(sorted(self._partitions[partition_id] for partition_id in partition_ids))


def verify(connection: sqlite3.Connection, lease: Lease, partition_ids: Iterable[int]) -> None:
    """Whether the lease still holds for these partitions. Raises CommitFailed where it does not, Fenced where the name was taken over."""
    token = _token_of(connection, lease.group, lease.member)
    if token is not None and token > lease.token:
        raise _fenced(lease.group, lease.member)
    if token != lease.token:
        raise CommitFailed(f"group {lease.group}: member {lease.member} was silent for too long and expired; nothing was committed")
    owned = dict(
        connection.execute("SELECT partition_id, since FROM ownership WHERE group_name = ? AND owner = ?", (lease.group, lease.member)).fetchall()
    )
    for partition_id in partition_ids:
        if owned.get(partition_id, lease.generation + 1) > lease.generation:
            raise CommitFailed(f"group {lease.group}: member {lease.member} lost a partition before it committed; nothing was committed")


def balanced(subscriptions: Mapping[str, frozenset[str]], topics: Mapping[int, str], current: Mapping[int, str | None]) -> dict[int, str]:
    """Partition id → member: every partition that somebody subscribes to, loads even, few moves from `current`.

    subscriptions: member → topics; topics: partition id → topic. Deterministic, whatever the order of the arguments.
    """
    members = sorted(subscriptions)
    candidates = {topic: [member for member in members if topic in subscriptions[member]] for topic in set(topics.values())}
    load = dict.fromkeys(members, 0)
    targets: dict[int, str] = {}
    for partition_id in sorted(topics):
        member = current.get(partition_id)
        if member is not None and member in candidates[topics[partition_id]]:
            targets[partition_id] = member
            load[member] += 1
    for partition_id in sorted(topics):
        if partition_id not in targets and candidates[topics[partition_id]]:
            targets[partition_id] = min(candidates[topics[partition_id]], key=load.__getitem__)
            load[targets[partition_id]] += 1
    is_moving = True
    while is_moving:  # every move lowers the sum of squared loads, so this ends
        is_moving = False
        for partition_id in sorted(targets):
            least = min(candidates[topics[partition_id]], key=load.__getitem__)
            if load[targets[partition_id]] > load[least] + 1:
                load[targets[partition_id]] -= 1
                load[least] += 1
                targets[partition_id] = least
                is_moving = True
    return targets


def _rebalance(connection: sqlite3.Connection, group: str) -> None:
    """New targets for the members enrolled now; owners stay until they release."""
    members = connection.execute("SELECT name, topics FROM members WHERE group_name = ?", (group,)).fetchall()
    subscriptions = {name: frozenset(json.loads(topics)) for name, topics in members}
    subscribed = frozenset[str]().union(*subscriptions.values())
    rows = connection.execute("SELECT p.id, t.name FROM partitions p JOIN topics t ON t.id = p.topic_id").fetchall()
    topics = {partition_id: topic for partition_id, topic in rows if topic in subscribed}
    current = dict(connection.execute("SELECT partition_id, coalesce(owner, target) FROM ownership WHERE group_name = ?", (group,)).fetchall())
    targets = balanced(subscriptions, topics, current)
    connection.execute("UPDATE ownership SET target = NULL WHERE group_name = ?", (group,))
    connection.executemany(
        "INSERT INTO ownership (group_name, partition_id, target, since) VALUES (?, ?, ?, 0) ON CONFLICT DO UPDATE SET target = excluded.target",
        [(group, partition_id, member) for partition_id, member in targets.items()],
    )


def _release(connection: sqlite3.Connection, group: str, member: str) -> set[int]:
    rows = connection.execute(
        "UPDATE ownership SET owner = NULL WHERE group_name = ? AND owner = ? AND target IS NOT ? RETURNING partition_id", (group, member, member)
    ).fetchall()
    return {row[0] for row in rows}


def _take_over(connection: sqlite3.Connection, group: str, member: str, generation: int) -> set[int]:
    rows = connection.execute(
        "UPDATE ownership SET owner = ?, since = ? WHERE group_name = ? AND target = ? AND owner IS NULL RETURNING partition_id",
        (member, generation, group, member),
    ).fetchall()
    return {row[0] for row in rows}


def _remove(connection: sqlite3.Connection, group: str, names: Sequence[str]) -> None:
    for name in names:
        connection.execute("DELETE FROM members WHERE group_name = ? AND name = ?", (group, name))
        connection.execute("UPDATE ownership SET owner = NULL WHERE group_name = ? AND owner = ?", (group, name))


def _token_of(connection: sqlite3.Connection, group: str, member: str) -> int | None:
    row = connection.execute("SELECT token FROM members WHERE group_name = ? AND name = ?", (group, member)).fetchone()
    return None if row is None else int(row[0])


def _fenced(group: str, member: str) -> Fenced:
    return Fenced(f"group {group}: another process joined as member {member}; give each instance its own `input.member`, and stop this one")
