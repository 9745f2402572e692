"""Card holders as they pay when nothing is wrong: each with habits of amount, hour, merchant, country and pace."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anomaly_daemon.domain.times import DAY_US
from anomaly_daemon.simulation.stream import Floats, Integers

CATEGORIES = ("groceries", "restaurant", "transport", "fuel", "pharmacy", "clothing", "online", "electronics", "travel", "entertainment")
ONLINE = CATEGORIES.index("online")
COUNTRIES = ("DE", "FR", "NL", "GB", "IT", "ES", "PL", "US", "BR", "IN", "NG", "ID")
HOME_COUNTRIES = 7
MERCHANTS = 4000
FAVOURITES = 12
HOUR_US = DAY_US // 24

_CATEGORY_SHARE = np.array([0.26, 0.16, 0.14, 0.08, 0.06, 0.07, 0.12, 0.04, 0.03, 0.04])
_CATEGORY_FACTOR = np.array([1.0, 0.8, 0.25, 1.6, 0.6, 1.8, 1.2, 4.0, 6.0, 0.9])
# How often the first, second, … favourite merchant is chosen: 1 / rank.
_FAVOURITE_SHARE = 1 / np.arange(1, FAVOURITES + 1)
_EXPLORES, _ABROAD = 0.03, 0.01
# Activity by hour of the holder's day: office worker, at home, late riser; each row sums to one.
_ACTIVITY = np.array(
    [
        [0, 0, 0, 0, 0, 1, 5, 9, 5, 3, 3, 6, 10, 6, 3, 3, 4, 9, 11, 9, 6, 4, 2, 1],
        [0, 0, 0, 0, 0, 0, 1, 3, 7, 10, 11, 10, 7, 6, 7, 8, 8, 6, 5, 4, 3, 2, 1, 0],
        [3, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4, 6, 8, 8, 7, 6, 6, 7, 8, 9, 9, 8, 7, 5],
    ],
    np.float64,
)
_ACTIVITY /= _ACTIVITY.sum(1, keepdims=True)


@dataclass(frozen=True, slots=True)
class Payments:
    """Payments as columns of one length, in any order.

    times_us: event time. card, merchant, country: numbers. amount: in the card's currency.
    """

    times_us: Integers
    card: Integers
    amount: Floats
    merchant: Integers
    country: Integers

    def take(self, rows: Integers | slice) -> Payments:
        """Those rows, in that order."""
        return Payments(self.times_us[rows], self.card[rows], self.amount[rows], self.merchant[rows], self.country[rows])


def join(parts: list[Payments]) -> Payments:
    """All of them in event-time order; equal times keep the order of the parts."""
    fields = ("times_us", "card", "amount", "merchant", "country")
    whole = Payments(*(np.concatenate([getattr(part, name) for part in parts]) for name in fields))
    return whole.take(np.argsort(whole.times_us, kind="stable"))


def no_payments() -> Payments:
    """None at all."""
    nothing = np.zeros(0, np.int64)
    return Payments(nothing, nothing, np.zeros(0), nothing, nothing)


@dataclass(frozen=True, slots=True)
class Cards:
    """The fixed habits of N cards.

    per_day: [N] payments a day. activity: [N] row of the activity table; shift [N] hours by which the holder's day is turned.
    median, spread: [N] of the amount, log-normal. favourites: [N, FAVOURITES] merchants, most frequent first.
    home, second: [N] countries. category: [MERCHANTS] of each merchant.
    """

    per_day: Floats
    activity: Integers
    shift: Integers
    median: Floats
    spread: Floats
    favourites: Integers
    home: Integers
    second: Integers
    category: Integers

    def expected(self, hour: int) -> Floats:
        """[N] payments in this hour of the day."""
        return np.asarray(self.per_day * _ACTIVITY[self.activity, (hour - self.shift) % 24])

    def is_quiet(self, card: Integers, hour: Integers) -> np.ndarray:
        """Whether the holder never pays at this hour of the day; both of one length."""
        return np.asarray(_ACTIVITY[self.activity[card], (hour - self.shift[card]) % 24] == 0)

    def pay(self, first_us: int, last_us: int, random: np.random.Generator) -> Payments:
        """A span of time within one hour of the day, sorted by card and not by time."""
        share = (last_us - first_us) / HOUR_US
        counts = random.poisson(self.expected(first_us % DAY_US // HOUR_US) * share)
        card = np.repeat(np.arange(len(counts)), counts)
        times_us = first_us + random.integers(0, last_us - first_us, len(card))
        return self.pay_as_usual(times_us, card, random)

    def pay_as_usual(self, times_us: Integers, card: Integers, random: np.random.Generator) -> Payments:
        """What these cards would pay at these times."""
        rank = random.choice(FAVOURITES, len(card), p=_FAVOURITE_SHARE / _FAVOURITE_SHARE.sum())
        merchant = self.favourites[card, rank]
        explores = random.random(len(card)) < _EXPLORES
        merchant[explores] = random.integers(0, MERCHANTS, int(explores.sum()))
        country = np.where(random.random(len(card)) < _ABROAD, self.second[card], self.home[card])
        return Payments(times_us, card, self.amounts(card, merchant, random), merchant, country)

    def amounts(self, card: Integers, merchant: Integers, random: np.random.Generator) -> Floats:
        """Usual amounts of these cards at these merchants."""
        typical = self.median[card] * _CATEGORY_FACTOR[self.category[merchant]]
        return np.asarray(typical * np.exp(self.spread[card] * random.standard_normal(len(card))))


def build(count: int, random: np.random.Generator) -> Cards:
    """N cards of different holders."""
    category = random.choice(len(CATEGORIES), MERCHANTS, p=_CATEGORY_SHARE)
    home = random.integers(0, HOME_COUNTRIES, count)
    return Cards(
        per_day=np.clip(5 * np.exp(0.5 * random.standard_normal(count)), 1, 40),
        activity=random.integers(0, len(_ACTIVITY), count),
        shift=random.integers(-1, 2, count),
        median=18 * np.exp(0.5 * random.standard_normal(count)),
        spread=random.uniform(0.25, 0.6, count),
        favourites=random.integers(0, MERCHANTS, (count, FAVOURITES)),
        home=home,
        second=(home + random.integers(1, HOME_COUNTRIES, count)) % HOME_COUNTRIES,
        category=category,
    )
