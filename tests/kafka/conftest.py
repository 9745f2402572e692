from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.chaos.proxy import Proxy
from tests.contract.kafka_log import KafkaLog, broker_or_skip
from tests.kafka.broker import Broker, ForeignBroker, ToolsMissingError, new_broker, new_brokers, require_tools, start_broker
from tests.kafka.loops import PARTITIONS
from tests.kafka.secured import SecuredBroker, start_secured, telling

_serial = itertools.count()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs the broker; where it cannot run, leave all of that out, of the contract suites too."""
    folder = Path(__file__).parent
    for item in items:
        if folder in item.path.parents and {"broker", "own_broker", "brokers", "secured"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.kafka)
    needing = [item for item in items if item.get_closest_marker("kafka") is not None]
    if needing and _why_left_out() is not None:
        config.hook.pytest_deselected(items=needing)
        items[:] = [item for item in items if item not in needing]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """In one line why all of that was left out; asked anew, for the processes that share the suite collect each by itself."""
    if (reason := _why_left_out()) is not None:
        terminalreporter.write_line(reason, yellow=True)


def _why_left_out() -> str | None:
    """Never under CI, nor where a broker is at hand."""
    if os.environ.get("CI") == "true" or os.environ.get("KAFKA_BOOTSTRAP"):
        return None
    try:
        require_tools()
    except ToolsMissingError as error:
        return str(error)
    return None


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
def proxied() -> Iterator[tuple[Broker, Proxy, KafkaLog]]:
    """A broker of its own behind a proxy, and it as a log that goes that way."""
    with closing(Proxy()) as proxy:
        broker = new_broker(advertised_port=proxy.port)
        proxy.begin(broker.behind_proxy)
        with closing(KafkaLog(f"127.0.0.1:{proxy.port}")) as log:
            yield broker, proxy, log
        broker.stop()


@pytest.fixture
def brokers() -> Iterator[list[Broker]]:
    """Three of our own in one cluster, any of which may be killed."""
    brokers = broker_or_skip(lambda: new_brokers(3))
    yield brokers
    for broker in brokers:
        broker.stop()


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    """A broker that asks who is there; always our own. In the end nothing that any test of this process wrote, nor the broker, holds its secrets."""
    broker = broker_or_skip(start_secured)
    yield broker
    broker.kill()
    found = telling(tmp_path_factory.getbasetemp()) + telling(broker.folder)
    broker.stop()
    assert found == []


@pytest.fixture
def log(broker: Broker | ForeignBroker) -> Iterator[KafkaLog]:
    log = KafkaLog(broker.bootstrap)
    yield log
    log.close()


@pytest.fixture
def dynamic(log: KafkaLog) -> Iterator[KafkaLog]:
    """The same cluster, for members that are not static."""
    dynamic = KafkaLog(log.bootstrap, static_membership=False)
    yield dynamic
    dynamic.close()


@pytest.fixture
def readings(log: KafkaLog, fresh: Callable[[str], str]) -> str:
    """A topic of PARTITIONS."""
    topic = fresh("readings")
    log.create(topic, PARTITIONS)
    return topic


@pytest.fixture
def fresh() -> Callable[[str], str]:
    """A name that no other test uses: the broker is shared."""
    return lambda stem: f"{stem}-{os.getpid()}-kafka-{next(_serial)}"
