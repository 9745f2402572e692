from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.logs import LogUnderTest, SqliteLog

LOGS = [pytest.param("sqlite_log", id="sqlite"), pytest.param("kafka_log", id="kafka", marks=pytest.mark.kafka)]
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # kafka-python reads its own schemas in a deprecated way
    from tests.contract.kafka_log import kafka_log  # noqa: F401 - a fixture

_serial = itertools.count()


@pytest.fixture
def sqlite_log(tmp_path: Path) -> Iterator[LogUnderTest]:
    log = SqliteLog(tmp_path / "topics.db")
    yield log
    log.close()


@pytest.fixture(params=LOGS)
def log(request: pytest.FixtureRequest) -> LogUnderTest:
    under_test: LogUnderTest = request.getfixturevalue(request.param)
    return under_test


@pytest.fixture
def fresh() -> Callable[[str], str]:
    """A name that no other test uses: a log under test may be one broker shared by all of them."""
    return lambda stem: f"{stem}-{os.getpid()}-{next(_serial)}"
