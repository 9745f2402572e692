"""Event streams with anomalies whose every event, amount and gap is an ordinary one: events in a wrong order, or the habits of another hour.

A `till` opens, scans, totals, takes payment and closes; the amount of a payment is the sum of what was scanned, evenings buy dear. A `cell` runs
recipes whose steps all take about equally long: only the event's name tells them apart, and nights run the other recipe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.benchmarks.quality.contextual_streams import DAY_S, DAYS, MARGIN, START_S, TRAINING_SHARE, Floats, Planted, Stream

EVENT_STREAMS_PER_WORLD = 5
PLANTED_PER_STREAM = {"order": 2, "habit": 1}
_ATTEMPTS = 2000
_DISTANCE_SESSIONS = 3

Session = list[tuple[str, float]]
"""Events with their amounts, in order."""


@dataclass(frozen=True, slots=True)
class EventWorld:
    """How one kind of source of events behaves.

    session: hour, random → its events. swap: a session → the same events in an order that never occurs. strange: an hour and random → a
    session of another hour's habits. gap_s: between two events. busy: the hours between which sessions begin, `per_day` of them.
    """

    name: str
    session: Callable[[float, np.random.Generator], Session]
    strange: Callable[[float, np.random.Generator], Session]
    swap: Callable[[Session, np.random.Generator], Session]
    gap_s: float
    busy: tuple[float, float]
    per_day: int


def _till_session(hour: float, random: np.random.Generator) -> Session:
    return _till(hour >= 16, random)


def _till_strange(hour: float, random: np.random.Generator) -> Session:
    return _till(hour < 16, random)


def _till(is_evening: bool, random: np.random.Generator) -> Session:
    prices = np.exp(random.normal(3.6 if is_evening else 1.2, 0.25, random.integers(2, 6)))
    return [
        ("open", 1.0 + abs(random.normal(0, 0.1))),
        *(("scan", float(price)) for price in prices),
        ("total", float(prices.sum() * random.normal(1, 0.01))),
        ("pay", float(prices.sum() * random.normal(1, 0.01))),
        ("close", 0.3 + abs(random.normal(0, 0.05))),
    ]


def _till_swap(session: Session, random: np.random.Generator) -> Session:
    opened, *scans, total, pay, closed = session
    orders = ([opened, pay, *scans, closed, total], [closed, pay, total, *scans, opened], [opened, total, closed, *scans, pay])
    return orders[random.integers(3)]


_RECIPES = (("load", "heat", "stir", "stir", "drain", "rinse"), ("load", "stir", "press", "heat", "drain", "rinse"))


def _cell_session(hour: float, random: np.random.Generator) -> Session:
    return [(step, float(np.exp(random.normal(2, 0.2)))) for step in _RECIPES[int(hour >= 20 or hour < 6)]]


def _cell_strange(hour: float, random: np.random.Generator) -> Session:
    return _cell_session((hour + 12) % 24, random)


def _cell_swap(session: Session, random: np.random.Generator) -> Session:
    first, *steps, last = session
    orders = ([first, *reversed(steps), last], [last, *steps, first], [first, steps[3], *steps[:3], last])
    return orders[random.integers(3)]


TILL = EventWorld("till", _till_session, _till_strange, _till_swap, 40.0, (7.0, 22.0), 12)
CELL = EventWorld("cell", _cell_session, _cell_strange, _cell_swap, 300.0, (0.0, 23.0), 12)


def events(world: EventWorld, seed: int) -> list[Stream]:
    """The event streams of a world; equal seeds give equal streams."""
    return [_stream(world, number, np.random.default_rng([seed, 100 + number])) for number in range(EVENT_STREAMS_PER_WORLD)]


def _stream(world: EventWorld, number: int, random: np.random.Generator) -> Stream:
    opening, closing = world.busy
    starts = np.sort(random.uniform(opening, closing, (DAYS, world.per_day)), axis=1) + 24 * np.arange(DAYS)[:, None]
    hours = starts.ravel()
    sessions = [world.session(hour % 24, random) for hour in hours]
    ordinary = np.array([amount for session in sessions for _, amount in session])
    wrong = _plant(world, hours, sessions, (float(np.quantile(ordinary, MARGIN)), float(np.quantile(ordinary, 1 - MARGIN))), random)
    times: list[Floats] = []
    end_s, row, planted, training = 0.0, 0, [], 0
    for place, (hour, session) in enumerate(zip(hours, sessions, strict=True)):
        steps = np.cumsum(world.gap_s * random.uniform(0.6, 1.4, len(session)))
        begun_s = max(hour * 3600, end_s)
        times.append(begun_s + steps)
        end_s = float(begun_s + steps[-1])
        if place in wrong:
            planted.append(Planted(row, row + len(session), wrong[place]))
        row += len(session)
        training = row if place < len(sessions) * TRAINING_SHARE - 1 else training
    return Stream(
        entity=f"{world.name}-{number + 1}",
        channels=("amount",),
        times_s=np.round(np.concatenate(times)).astype(np.float64) + START_S,
        values=np.array([[amount] for session in sessions for _, amount in session]),
        training=training,
        planted=tuple(planted),
        events=tuple(event for session in sessions for event, _ in session),
    )


def _plant(world: EventWorld, hours: Floats, sessions: list[Session], ordinary: tuple[float, float], random: np.random.Generator) -> dict[int, str]:
    """Puts wrong sessions in the place of right ones; returns their places and kinds."""
    low, high = ordinary
    first = int(np.searchsorted(hours, DAYS * DAY_S / 3600 * TRAINING_SHARE)) + _DISTANCE_SESSIONS
    wrong: dict[int, str] = {}
    for kind in [kind for kind, count in PLANTED_PER_STREAM.items() for _ in range(count)]:
        for _ in range(_ATTEMPTS):
            place = int(random.integers(first, len(sessions) - _DISTANCE_SESSIONS))
            if any(abs(place - other) <= _DISTANCE_SESSIONS for other in wrong):
                continue
            found = world.swap(sessions[place], random) if kind == "order" else world.strange(hours[place] % 24, random)
            if all(low < amount < high for _, amount in found):
                sessions[place], wrong[place] = found, kind
                break
        else:
            raise RuntimeError(f"{world.name}: no place for an anomaly of kind {kind} in {_ATTEMPTS} attempts")
    return wrong
