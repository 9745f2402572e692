"""`simulate transactions`: cards with habits of amount, hour, merchant, country and pace, and labelled frauds, as JSON records."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np

from anomaly_daemon.simulation import frauds
from anomaly_daemon.simulation.cards import CATEGORIES, COUNTRIES, HOUR_US, MERCHANTS, Cards, Payments, build, join, no_payments
from anomaly_daemon.simulation.stream import Chunk, Label, Scenario, iso_times, names

_MILLISECOND_US = 1000


class Transaction(msgspec.Struct, gc=False):
    """The JSON object of one payment."""

    timestamp: str
    card: str
    amount: float
    merchant: str
    category: str
    country: str


def transaction_chunks(scenario: Scenario) -> Iterator[Chunk]:
    """The whole simulation in event-time order; memory does not grow with its duration."""
    cards = build(scenario.entities, scenario.random(0))
    paying, committing = scenario.random(1), scenario.random(2)
    words = _Words(cards, scenario.entities)
    busy_until_us = np.full(scenario.entities, -1, np.int64)
    waiting = no_payments()
    for first_us, last_us in _spans(scenario, float(cards.per_day.sum())):
        usual = join([cards.pay(start_us, end_us, paying) for start_us, end_us in _hours(first_us, last_us)])
        found = []
        if first_us >= scenario.clean_until_us:
            found = frauds.commit_frauds(cards, first_us, last_us, scenario.anomaly_rate, busy_until_us, committing)
        payments, waiting = frauds.pay_frauds(usual, waiting, found, last_us)
        labels = [_label(fraud, words) for fraud in found]
        yield _encode(payments, words, labels, last_us)


def _spans(scenario: Scenario, per_day: float) -> Iterator[tuple[int, int]]:
    """Stretches of whole hours that hold about a chunk of records each; none reaches over the end of the clean part."""
    hours = int(np.clip(24 * scenario.chunk_records / per_day, 1, 24))
    for start_us, end_us in ((scenario.start_us, scenario.clean_until_us), (scenario.clean_until_us, scenario.end_us)):
        for first_us in range(start_us, end_us, hours * HOUR_US):
            yield first_us, min(first_us + hours * HOUR_US, end_us)


def _hours(first_us: int, last_us: int) -> Iterator[tuple[int, int]]:
    """The span cut where an hour of the day ends."""
    while first_us < last_us:
        next_us = min(last_us, first_us - first_us % HOUR_US + HOUR_US)
        yield first_us, next_us
        first_us = next_us


class _Words:
    """Numbers → the words of the records."""

    def __init__(self, cards: Cards, count: int) -> None:
        self.cards = names("card", count)
        self.keys = [name.encode() for name in self.cards]
        self.merchants = names("merchant", MERCHANTS)
        self.categories = [CATEGORIES[number] for number in cards.category.tolist()]


def _label(fraud: frauds.Fraud, words: _Words) -> Label:
    times_us = _to_millisecond(fraud.payments).times_us
    return Label(words.cards[fraud.card], int(times_us[0]), int(times_us[-1]), frauds.KINDS[fraud.kind], frauds.CHANNELS[fraud.kind])


def _to_millisecond(payments: Payments) -> Payments:
    times_us = payments.times_us - payments.times_us % _MILLISECOND_US
    return Payments(times_us, payments.card, payments.amount, payments.merchant, payments.country)


def _encode(payments: Payments, words: _Words, labels: list[Label], until_us: int) -> Chunk:
    """One JSON record per payment."""
    payments = _to_millisecond(payments)
    encode = msgspec.json.Encoder().encode
    cards, merchants = payments.card.tolist(), payments.merchant.tolist()
    amounts = (np.rint(np.maximum(payments.amount, 0.01) * 100) / 100).tolist()
    columns = zip(iso_times(payments.times_us), cards, amounts, merchants, payments.country.tolist(), strict=True)
    values = [
        encode(Transaction(timestamp, words.cards[card], amount, words.merchants[merchant], words.categories[merchant], COUNTRIES[country]))
        for timestamp, card, amount, merchant, country in columns
    ]
    return Chunk([words.keys[card] for card in cards], values, payments.times_us.tolist(), labels, until_us)
