"""A part of `make chaos`: kills, cuts, rebalances, zombies, namesakes, outages, slowness, clock jumps, silences and growth, in turn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.chaos.cluster import Cluster, OwnCluster, ReplicatedCluster
from tests.chaos.conduct import conduct
from tests.chaos.scenarios import REPLICATED, SHARING
from tests.contract.kafka_log import broker_or_skip
from tests.kafka.broker import require_tools

# The harness's own client leaves a socket to the collector where a frozen broker lets a request of it time out (kafka-python 3.0.12).
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A broker of its own; left out where it cannot be started, but not on a CI machine."""
    broker_or_skip(require_tools)
    with closing(OwnCluster(tmp_path)) as cluster:
        yield cluster


@pytest.fixture
def brokers(tmp_path: Path) -> Iterator[Cluster]:
    """Likewise, three of them."""
    broker_or_skip(require_tools)
    with closing(ReplicatedCluster(tmp_path)) as cluster:
        yield cluster


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.timeout(900)
def test_whatever_is_broken_alerts_dead_letters_offsets_and_state_are_those_of_a_run_that_nobody_harmed(cluster: Cluster) -> None:
    rows = conduct(cluster, SHARING, seed=1, is_slice=True)

    assert rows[0].verdict.differences == [], "again: python -m tests.chaos --slice --seed 1"
    assert rows[0].verdict.alerts > 100


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.timeout(600)
def test_a_leader_that_falls_costs_time_alone(brokers: Cluster) -> None:
    rows = conduct(brokers, REPLICATED, seed=1, is_slice=True)

    assert rows[0].verdict.differences == [], "again: python -m tests.chaos leaders --slice --seed 1"
    assert rows[0].verdict.alerts > 100
