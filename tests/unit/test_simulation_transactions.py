from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from dataclasses import dataclass, replace

import numpy as np
import pytest

from anomaly_daemon.domain.times import DAY_US
from anomaly_daemon.simulation.frauds import KINDS
from anomaly_daemon.simulation.stream import SECOND_US, Label, Scenario, parse_iso_us
from anomaly_daemon.simulation.transactions import transaction_chunks

START_US = parse_iso_us("2026-01-01T00:00:00Z")
SCENARIO = Scenario(60, START_US, 30 * DAY_US, seed=2, anomaly_rate=0.15, chunk_records=2000)


@dataclass(frozen=True, slots=True)
class Payment:
    time_us: int
    card: str
    amount: float
    merchant: str
    category: str
    country: str


def payments(scenario: Scenario) -> list[Payment]:
    found = []
    for chunk in transaction_chunks(scenario):
        for key, value, time_us in zip(chunk.keys, chunk.values, chunk.times_us, strict=True):
            fields = json.loads(value)
            assert list(fields) == ["timestamp", "card", "amount", "merchant", "category", "country"]
            assert key.decode() == fields["card"]
            assert parse_iso_us(fields.pop("timestamp")) == time_us
            found.append(Payment(time_us, **fields))
    return found


def labels(scenario: Scenario) -> list[Label]:
    return [label for chunk in transaction_chunks(scenario) for label in chunk.labels]


@pytest.fixture(scope="module")
def paid() -> list[Payment]:
    return payments(SCENARIO)


@pytest.fixture(scope="module")
def usual() -> dict[str, list[Payment]]:
    by_card = defaultdict(list)
    for payment in payments(replace(SCENARIO, anomaly_rate=0)):
        by_card[payment.card].append(payment)
    return by_card


@pytest.fixture(scope="module")
def planted() -> list[Label]:
    return labels(SCENARIO)


def inside(label: Label, paid: list[Payment]) -> list[Payment]:
    return [payment for payment in paid if payment.card == label.entity and label.start_us <= payment.time_us <= label.end_us]


def test_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    def values(scenario: Scenario) -> list[bytes]:
        return [value for chunk in transaction_chunks(scenario) for value in chunk.values]

    assert values(SCENARIO) == values(SCENARIO)
    assert values(SCENARIO) != values(replace(SCENARIO, seed=3))


def test_records_stand_in_event_time_order_over_all_cards(paid: list[Payment]) -> None:
    assert [payment.time_us for payment in paid] == sorted(payment.time_us for payment in paid)
    assert SCENARIO.start_us <= paid[0].time_us
    assert paid[-1].time_us < SCENARIO.end_us


def test_frauds_only_add_payments_inside_their_labels(paid: list[Payment], usual: dict[str, list[Payment]], planted: list[Label]) -> None:
    added = Counter(paid) - Counter(payment for row in usual.values() for payment in row)
    assert not Counter(payment for row in usual.values() for payment in row) - Counter(paid)
    for payment in added:
        assert any(payment in inside(label, [payment]) for label in planted)


def test_every_kind_of_fraud_occurs_after_the_clean_part_at_about_its_rate(planted: list[Label]) -> None:
    counts = Counter(label.kind for label in planted)

    assert set(counts) == set(KINDS)
    assert min(label.start_us for label in planted) >= SCENARIO.clean_until_us
    assert 0.6 < len(planted) / (60 * 15 * 0.15) < 1.4
    assert counts["wrong_hour"] > 8


def test_cards_have_habits_of_amount_merchant_country_and_pace(usual: dict[str, list[Payment]]) -> None:
    medians = [float(np.median([payment.amount for payment in row])) for row in usual.values()]
    paces = [len(row) for row in usual.values()]
    assert np.quantile(medians, 0.9) > 2 * np.quantile(medians, 0.1)
    assert max(paces) > 2 * min(paces)
    for row in usual.values():
        assert Counter(payment.country for payment in row).most_common(1)[0][1] > 0.9 * len(row)
        favourites = Counter(payment.merchant for payment in row).most_common(12)
        assert sum(count for _, count in favourites) > 0.85 * len(row)


def test_each_fraud_looks_like_its_name(paid: list[Payment], usual: dict[str, list[Payment]], planted: list[Label]) -> None:
    for label in (label for label in planted if label.end_us < SCENARIO.end_us):
        row = inside(label, paid)
        history = usual[label.entity]
        if label.kind == "burst":
            assert len(row) >= 8
            assert label.end_us - label.start_us <= 20 * 60 * SECOND_US
        elif label.kind == "large_amount":
            assert max(payment.amount for payment in row) > 4 * np.median([payment.amount for payment in history])
        elif label.kind == "wrong_hour":
            hours = Counter(payment.time_us % DAY_US // (3600 * SECOND_US) for payment in history)
            assert hours[label.start_us % DAY_US // (3600 * SECOND_US)] == 0
        elif label.kind == "new_merchant_run":
            new = {payment.merchant for payment in row} - {payment.merchant for payment in history}
            assert len(new) >= 4
            assert {payment.country for payment in row} - {payment.country for payment in history}
        else:
            assert label.kind == "card_testing"
            assert sum(payment.amount <= 2 and payment.category == "online" for payment in row) >= 10


def test_a_card_suffers_one_fraud_at_a_time() -> None:
    by_card = defaultdict(list)
    for label in labels(replace(SCENARIO, duration_us=6 * DAY_US, anomaly_rate=20)):
        by_card[label.entity].append(label)
    for row in by_card.values():
        assert all(before.end_us < after.start_us for before, after in itertools.pairwise(row))
