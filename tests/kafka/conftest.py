from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.kafka_log import KafkaLog, broker_or_skip
from tests.kafka.broker import Broker, ForeignBroker, start_broker

_serial = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folder = Path(__file__).parent
    for item in items:
        if folder in item.path.parents and {"broker", "own_broker"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.kafka)


@pytest.fixture(scope="session")
def broker() -> Broker | ForeignBroker:
    """The broker that all tests share; nobody harms it."""
    return broker_or_skip()


@pytest.fixture
def own_broker() -> Iterator[Broker]:
    """A broker that may be killed and frozen: the shared one, where that is ours."""
    shared = broker_or_skip()
    broker = shared if isinstance(shared, Broker) else broker_or_skip(start_broker)
    yield broker
    broker.revive()


@pytest.fixture
def log(broker: Broker | ForeignBroker) -> Iterator[KafkaLog]:
    log = KafkaLog(broker.bootstrap)
    yield log
    log.close()


@pytest.fixture
def fresh() -> Callable[[str], str]:
    """A name that no other test uses: the broker is shared."""
    return lambda stem: f"{stem}-{os.getpid()}-kafka-{next(_serial)}"
