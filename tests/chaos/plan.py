"""Fault points from a seed: pure, so that the same seed always breaks the same things."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from signal import SIGHUP, SIGTERM

from tests.chaos.acts import Act, Point
from tests.chaos.proxy import Api, Moment


@dataclass(frozen=True, slots=True)
class Life:
    """One life of a daemon: what it does to itself, and where that does not end it, kill -9 so long after its start."""

    acts: tuple[Act, ...] = ()
    kill_after_s: float | None = None

    def __str__(self) -> str:
        return " ".join(map(str, self.acts)) or f"kill after {self.kill_after_s:.2f} s"


_RANDOM_SHARE = 0.3
_PASSINGS_MAX = 6


def lives(dice: random.Random, count: int) -> list[Life]:
    """Every named point in turn, in an order of its own each round, and between them kills at random times."""
    found: list[Life] = []
    points: list[Point] = []
    for _ in range(count):
        if dice.random() < _RANDOM_SHARE:
            found.append(Life(kill_after_s=dice.uniform(0.0, 2.0)))
            continue
        points = points or dice.sample(list(Point), len(Point))
        point = points.pop()
        deadly = Act(point, dice.randint(1, 2 if point is Point.IN_DRAIN else _PASSINGS_MAX))
        found.append(Life((*_led_to(point, dice), deadly)))
    return found


def _led_to(point: Point, dice: random.Random) -> Sequence[Act]:
    """What must come first for that point to be passed."""
    told = {Point.IN_DRAIN: SIGTERM, Point.IN_RELOAD: SIGHUP}.get(point)
    return [] if told is None else [Act(Point.AFTER_COMMIT, dice.randint(1, _PASSINGS_MAX), told)]


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
