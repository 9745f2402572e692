"""Members come and go under load: they join, crash, leave, come back within their session, are removed; some before the last change has settled."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from tests.chaos.cluster import Cluster
from tests.chaos.feed import Feed
from tests.chaos.fleet import Fleet
from tests.chaos.plan import Change, ChangeKind, changes, dynamic_changes
from tests.chaos.scenarios.scenario import Scenario

_OVERLAP_S = 0.5
_RECORDS_PER_S, _AHEAD_MAX = 1_000, 5_000


def inject(_: Cluster, fleet: Fleet, feed: Feed, planned: Sequence[Change], *, is_static: bool) -> None:
    with feed.at(_RECORDS_PER_S, _AHEAD_MAX):
        for change in planned:
            began_s = _carry_out(change, fleet, is_static=is_static)
            if change.is_awaited:
                fleet.note_all_move_on(began_s)
            else:
                time.sleep(_OVERLAP_S)
        for member in fleet.members:
            fleet.crash(member)


def _carry_out(change: Change, fleet: Fleet, *, is_static: bool) -> float:
    """When it began to matter, on the monotonic clock."""
    match change.kind:
        case ChangeKind.CRASH:
            return fleet.crash(change.member)
        case ChangeKind.LEAVE | ChangeKind.REMOVAL:
            fleet.leave(change.member, is_removed=change.kind is ChangeKind.REMOVAL)
            return time.monotonic()
        case ChangeKind.EXPULSION:
            fleet.expel(change.member)
            return time.monotonic()
        case ChangeKind.JOIN | ChangeKind.RESTART:
            began_s = fleet.crash(change.member) if change.kind is ChangeKind.RESTART else time.monotonic()
            fleet.start(change.member, is_static=is_static)
            return began_s


# A partition may go to members that are gone before they take it, one after the other: a session has to time out for each.
_RECOVERY_MAX_S = 30.0
REBALANCES = Scenario("rebalances", 200, 5, changes, partial(inject, is_static=True), recovery_max_s=_RECOVERY_MAX_S)
DYNAMIC = Scenario("dynamic", 200, 5, dynamic_changes, partial(inject, is_static=False), recovery_max_s=_RECOVERY_MAX_S)
