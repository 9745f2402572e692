"""The harness on a cluster that is not its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kafka import KafkaAdminClient

from tests.chaos.__main__ import main
from tests.chaos.cluster import Cluster
from tests.contract.kafka_log import broker_or_skip


@pytest.fixture
def bootstrap() -> str:
    """Of a broker that is only talked to."""
    return broker_or_skip().bootstrap


def made_on(bootstrap: str) -> tuple[list[str], list[str]]:
    """Topics and groups of the harness that are there."""
    with KafkaAdminClient(bootstrap_servers=bootstrap) as admin:
        names = admin.list_topics(), [group["group_id"] for group in admin.list_groups()]
    topics, groups = ([name for name in some if name.startswith("chaos-")] for some in names)
    return topics, groups


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_on_a_cluster_of_the_users_the_verdict_is_told_and_nothing_is_left(bootstrap: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["clocks", "overtaken-away", "overtaken-frozen", "deleted", "--slice", "--bootstrap", bootstrap])

    told = capsys.readouterr().out
    assert code == 0, told
    assert told.count("equal") == 8, told  # as they come, and in the table
    assert "left on" not in told
    assert made_on(bootstrap) == ([], [])


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_it_leaves_nothing_there(bootstrap: str, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "tests.chaos", "clocks", "--slice", "--bootstrap", bootstrap]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline_s = time.monotonic() + 60
    while not all(made_on(bootstrap)):
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.2)

    process.send_signal(number)
    _, told = process.communicate(timeout=50)

    assert process.returncode == 128 + number
    assert told == f"\n{number.name}: removing what was made, then ending\n"
    assert made_on(bootstrap) == ([], [])


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.timeout(120)
def test_what_cannot_be_removed_is_named(bootstrap: str, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, bootstrap)
    topic = cluster.topic("kept")
    with cluster.admin() as admin:
        admin.delete_topics([topic])
    cluster.close()

    assert list(cluster.left) == [topic]


@pytest.mark.parametrize("scenario", ["cuts", "outages", "slowness"])
def test_what_harms_brokers_or_connections_is_refused_there(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([scenario, "--bootstrap", "127.0.0.1:9"]) == 2
    assert f"no scenario {scenario} on a cluster of yours" in capsys.readouterr().err


def test_a_cluster_that_does_not_answer_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clocks", "--bootstrap", "127.0.0.1:9"]) == 2
    assert "no broker answers at 127.0.0.1:9" in capsys.readouterr().err
