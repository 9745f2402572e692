"""Fault points from a seed: pure, so that the same seed always breaks the same things."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from signal import SIGHUP, SIGSTOP, SIGTERM

from tests.chaos.acts import Act, Point
from tests.chaos.proxy import Api, Moment


@dataclass(frozen=True, slots=True)
class Life:
    """One life of a daemon: what it does to itself, and where that does not end it, kill -9 so long after its start."""

    acts: tuple[Act, ...] = ()
    kill_after_s: float | None = None

    def __str__(self) -> str:
        return " ".join(map(str, self.acts)) or f"kill after {self.kill_after_s:.2f} s"


# The signal after which a daemon comes to these points.
TOLD = {Point.IN_DRAIN: SIGTERM, Point.IN_RELOAD: SIGHUP}
_RANDOM_SHARE = 0.3
# The first commit comes after a second or two.
_RANDOM_WITHIN_S = 6.0
_PASSINGS_MAX = 6


def lives(dice: random.Random, count: int) -> list[Life]:
    """Every named point in turn, in an order of its own each round, and between them kills at random times."""
    found: list[Life] = []
    points: list[Point] = []
    for _ in range(count):
        if dice.random() < _RANDOM_SHARE:
            found.append(Life(kill_after_s=dice.uniform(0.0, _RANDOM_WITHIN_S)))
            continue
        points = points or dice.sample(list(Point), len(Point))
        point = points.pop()
        deadly = Act(point, dice.randint(1, 2 if point is Point.IN_DRAIN else _PASSINGS_MAX))
        found.append(Life((*_led_to(point, dice), deadly)))
    return found


def random_kills(dice: random.Random, count: int) -> list[Life]:
    """At any time, in the start as well as in the work."""
    return [Life(kill_after_s=dice.uniform(0.0, 8.0)) for _ in range(count)]


def _led_to(point: Point, dice: random.Random) -> Sequence[Act]:
    """What must come first for that point to be passed."""
    return [Act(Point.AFTER_COMMIT, dice.randint(1, _PASSINGS_MAX), TOLD[point])] if point in TOLD else []


@dataclass(frozen=True, slots=True)
class CutPoint:
    """The connection of the `passing`-th request of its kind is cut."""

    api: Api
    moment: Moment
    passing: int


_REQUESTS_MAX = 4


def cuts(dice: random.Random, count: int) -> list[CutPoint]:
    """Every request at every moment in turn, in an order of its own each round. The first request of a new producer cannot be waited for."""
    found: list[CutPoint] = []
    while len(found) < count:
        pairs = [(api, moment) for api in Api for moment in Moment]
        dice.shuffle(pairs)
        found += [CutPoint(api, moment, 1 if api is Api.INIT_PRODUCER_ID else dice.randint(1, _REQUESTS_MAX)) for api, moment in pairs]
    return found[:count]


@dataclass(frozen=True, slots=True)
class Rival:
    """A second process of the same name begins; so long after its start the connection of the next request of a kind is cut, whose ever it is."""

    api: Api
    moment: Moment
    cut_after_s: float


# By then it has joined.
_RIVAL_WITHIN_S = 4.0


def rivals(dice: random.Random, count: int) -> list[Rival]:
    """Every request at every moment in turn, in an order of its own each round, while the later one starts, joins, or is at work."""
    return [Rival(point.api, point.moment, dice.uniform(0.0, _RIVAL_WITHIN_S)) for point in cuts(dice, count)]


@dataclass(frozen=True, slots=True)
class Severing:
    """How long a daemon is at work before it is cut off, and how long after that another of its name begins."""

    after_s: float
    succeeded_after_s: float


# Some sessions, of 3 s, are over by then, some are not.
_SEVERED_WITHIN_S, _SUCCEEDED_WITHIN_S = 1.0, 5.0


def severings(dice: random.Random, count: int) -> list[Severing]:
    """At any time."""
    return [Severing(dice.uniform(0.0, _SEVERED_WITHIN_S), dice.uniform(0.0, _SUCCEEDED_WITHIN_S)) for _ in range(count)]


_PAUSE_S = 2.0


def freezes(dice: random.Random, count: int) -> list[Act]:
    """A daemon stands still where something is at stake; half of them find out that they were succeeded before they go on, half after."""
    points = (Point.AFTER_POLL, Point.MID_BATCH, Point.AFTER_PRODUCE, Point.AFTER_OFFSETS, Point.BEFORE_COMMIT)
    found: list[Act] = []
    while len(found) < count:
        for point in dice.sample(points, len(points)):
            found.append(Act(point, dice.randint(2, _PASSINGS_MAX), SIGSTOP, pause_s=_PAUSE_S * (len(found) % 2)))
    return found[:count]


class ChangeKind(Enum):
    """How the membership of a group changes."""

    JOIN = "join"
    CRASH = "crash"
    LEAVE = "leave; where static, the session times out"
    REMOVAL = "leave and be removed"
    RESTART = "crash and come back within the session"
    EXPULSION = "be removed while it runs, and join anew"


@dataclass(frozen=True, slots=True)
class Change:
    """One change of membership. is_awaited: every partition moves on again before the next change."""

    kind: ChangeKind
    member: str
    is_awaited: bool


_GOING = (ChangeKind.CRASH, ChangeKind.LEAVE, ChangeKind.REMOVAL)
# Who is no static member is out of the group once it has left.
_GOING_BY_ITSELF = (ChangeKind.CRASH, ChangeKind.LEAVE, ChangeKind.LEAVE)
_STAYING, _STAYING_BY_ITSELF = (ChangeKind.RESTART, ChangeKind.EXPULSION), (ChangeKind.RESTART,)
_MEMBERS = ("one", "two", "three", "four")
_SIZES = (1, 3, 2, 1, 4, 2)


def changes(dice: random.Random, count: int) -> list[Change]:
    """Of static members; see `_changes`."""
    return _changes(dice, count, _GOING, _STAYING)


def dynamic_changes(dice: random.Random, count: int) -> list[Change]:
    """Of others."""
    return _changes(dice, count, _GOING_BY_ITSELF, _STAYING_BY_ITSELF)


def _changes(dice: random.Random, count: int, going: Sequence[ChangeKind], staying: Sequence[ChangeKind]) -> list[Change]:
    """From one member to three, two, one, four, two and again, by one at a time; who goes and how is the dice's."""
    found: list[Change] = []
    members: list[str] = []
    while len(found) < count:
        for size in _SIZES:
            while len(members) != size:
                kind = ChangeKind.JOIN if len(members) < size else dice.choice(going)
                if members and dice.random() < _STAYING_SHARE:
                    kind = dice.choice(staying)
                found.append(_change(kind, members, dice))
    return found[:count]


_STAYING_SHARE, _AWAITED_SHARE = 0.25, 0.6


def _change(kind: ChangeKind, members: list[str], dice: random.Random) -> Change:
    """The change, and `members` as they are after it."""
    if kind is ChangeKind.JOIN:
        member = dice.choice([name for name in _MEMBERS if name not in members])
        members.append(member)
    else:
        member = dice.choice(members)
        if kind not in _STAYING:
            members.remove(member)
    return Change(kind, member, dice.random() < _AWAITED_SHARE)


class OutageKind(Enum):
    """How a broker is away."""

    KILLED = "kill -9, then started again"
    FROZEN = "stands still, its connections open"


@dataclass(frozen=True, slots=True)
class Outage:
    """The broker is away for so long."""

    kind: OutageKind
    lasts_s: float


_NAMED_OUTAGES = (Outage(OutageKind.FROZEN, 60.0), Outage(OutageKind.KILLED, 600.0), Outage(OutageKind.KILLED, 0.0))
_SHORT_OUTAGE_MAX_S = 12.0


def outages(dice: random.Random, count: int) -> list[Outage]:
    """Where there is time for them the long ones; short ones of either kind, in turn."""
    named = list(_NAMED_OUTAGES) if count > 2 * len(_NAMED_OUTAGES) else []
    kinds = dice.sample(list(OutageKind), len(OutageKind))
    short = [Outage(kinds[number % len(kinds)], dice.uniform(1.0, _SHORT_OUTAGE_MAX_S)) for number in range(count - len(named))]
    return dice.sample([*named, *short], count)


class Led(Enum):
    """What the broker leads that falls."""

    INPUT = "a partition that is read"
    ALERTS = "a partition that is written"
    GROUP = "the group: its members and offsets"
    TRANSACTIONS = "the transactions of a member"


@dataclass(frozen=True, slots=True)
class Fall:
    """Of several brokers that one is away for so long which leads something."""

    led: Led
    kind: OutageKind
    lasts_s: float


_FALL_MIN_S, _FALL_MAX_S = 1.0, 20.0


def falls(dice: random.Random, count: int) -> list[Fall]:
    """Everything that is led in either way, in an order of its own each round."""
    found: list[Fall] = []
    while len(found) < count:
        pairs = [(led, kind) for led in Led for kind in OutageKind]
        found += [Fall(led, kind, dice.uniform(_FALL_MIN_S, _FALL_MAX_S)) for led, kind in dice.sample(pairs, len(pairs))]
    return found[:count]


_HOUR_S = 3600.0
_CLOCK_POINTS = (Point.IN_RECOVERY, Point.AFTER_POLL, Point.BEFORE_COMMIT, Point.AFTER_COMMIT)


def clock_jumps(dice: random.Random, count: int) -> list[Act]:
    """An hour ahead and an hour back, in turn, while a daemon works."""
    return [Act(dice.choice(_CLOCK_POINTS), dice.randint(1, 4), None, _HOUR_S if number % 2 else -_HOUR_S) for number in range(count)]


_SILENCED_POINTS = (Point.AFTER_POLL, Point.MID_BATCH, Point.AFTER_COMMIT)


def silences(dice: random.Random, count: int) -> list[Act]:
    """A partition falls silent while the daemon works."""
    return [Act(dice.choice(_SILENCED_POINTS), dice.randint(2, _PASSINGS_MAX), None, is_silence=True) for _ in range(count)]
