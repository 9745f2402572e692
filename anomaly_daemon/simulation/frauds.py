"""Frauds on cards: where they happen, and the payments each consists of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anomaly_daemon.domain.times import DAY_US
from anomaly_daemon.simulation.cards import COUNTRIES, HOME_COUNTRIES, HOUR_US, MERCHANTS, ONLINE, Cards, Payments, join
from anomaly_daemon.simulation.stream import SECOND_US, Integers

KINDS = ("burst", "large_amount", "wrong_hour", "new_merchant_run", "card_testing")
BURST, LARGE_AMOUNT, WRONG_HOUR, NEW_MERCHANT_RUN, CARD_TESTING = range(len(KINDS))
CHANNELS = (("timestamp",), ("amount",), ("timestamp",), ("merchant", "category", "country"), ("timestamp", "amount", "merchant"))

# Per kind: fewest and most payments, and the longest pause between two, in seconds.
_PAYMENTS = np.array([[8, 20], [1, 2], [3, 6], [5, 10], [10, 25]])
_PAUSE_S = np.array([60, 600, 600, 900, 20])


@dataclass(frozen=True, slots=True)
class Fraud:
    """One fraud and its payments, in event-time order."""

    kind: int
    card: int
    payments: Payments


def commit_frauds(cards: Cards, first_us: int, last_us: int, per_day: float, busy_until_us: Integers, random: np.random.Generator) -> list[Fraud]:
    """The frauds that begin in a span of time; they may end after it.

    busy_until_us: [N] the end of each card's last fraud, updated: a card suffers one at a time.
    """
    # wrong_hour is drawn wherever the clock stands and kept only in a holder's quiet hours, about six of a day: hence four times as often.
    weights = np.array([1.0, 1.0, 4.0, 1.0, 1.0])
    expected = per_day * len(busy_until_us) * (last_us - first_us) / DAY_US * weights.sum() / len(KINDS)
    count = int(random.poisson(expected))
    begins = np.sort(random.integers(first_us, last_us, count))
    card = random.integers(0, len(busy_until_us), count)
    kind = random.choice(len(KINDS), count, p=weights / weights.sum())
    possible = (kind != WRONG_HOUR) | cards.is_quiet(card, begins % DAY_US // HOUR_US)
    frauds = []
    for begin_us, number, what in zip(begins[possible].tolist(), card[possible].tolist(), kind[possible].tolist(), strict=True):
        if begin_us <= busy_until_us[number]:
            continue
        payments = _payments(cards, what, number, begin_us, random)
        busy_until_us[number] = payments.times_us[-1]
        frauds.append(Fraud(what, number, payments))
    return frauds


def _payments(cards: Cards, kind: int, number: int, begin_us: int, random: np.random.Generator) -> Payments:
    count = int(random.integers(_PAYMENTS[kind, 0], _PAYMENTS[kind, 1], endpoint=True))
    pauses = random.integers(SECOND_US, int(_PAUSE_S[kind]) * SECOND_US, count, endpoint=True)
    times_us = begin_us + np.cumsum(pauses) - pauses[0]
    card = np.full(count, number)
    usual = cards.pay_as_usual(times_us, card, random)
    if kind == LARGE_AMOUNT:
        factor = random.uniform(15, 40, count)
        return Payments(times_us, card, cards.median[card] * factor, usual.merchant, usual.country)
    if kind == NEW_MERCHANT_RUN:
        merchant = random.integers(0, MERCHANTS, count)
        country = np.full(count, random.integers(HOME_COUNTRIES, len(COUNTRIES)))
        return Payments(times_us, card, 1.5 * cards.amounts(card, merchant, random), merchant, country)
    if kind == CARD_TESTING:
        merchant = np.full(count, random.choice(np.flatnonzero(cards.category == ONLINE)))
        return Payments(times_us, card, random.uniform(0.5, 2.0, count), merchant, usual.country)
    return usual


def pay_frauds(usual: Payments, waiting: Payments, frauds: list[Fraud], until_us: int) -> tuple[Payments, Payments]:
    """All payments before a time in order, and those of frauds that are still to come."""
    whole = join([usual, waiting, *(fraud.payments for fraud in frauds)])
    split = int(np.searchsorted(whole.times_us, until_us))
    return whole.take(slice(0, split)), whole.take(slice(split, None))
