"""The whole daemon on a real broker: killed twenty times, and with the broker away at the start."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from kafka import KafkaAdminClient

from tests.end_to_end.harness import Site, kill, make_site
from tests.end_to_end.test_crash import RECORDS, killed_and_unharmed_agree
from tests.kafka.broker import Broker, ForeignBroker

FAST_DEATH = ("kafka.session_timeout=6s", "kafka.transaction_timeout=10s")


@pytest.mark.slow
def test_twenty_kills_change_nothing_on_kafka(tmp_path: Path, broker: Broker | ForeignBroker, fresh: Callable[[str], str]) -> None:
    log = f"kafka://{broker.bootstrap}"
    topic = fresh("readings")
    killed = make_site(tmp_path / "killed", log, RECORDS, topic=topic, group=fresh("killed"), assignments=FAST_DEATH)
    unharmed = make_site(tmp_path / "unharmed", log, (), topic=topic, group=fresh("unharmed"))

    killed_and_unharmed_agree(killed, unharmed)


def test_the_same_records_give_the_same_incidents_and_state_on_both_logs(
    tmp_path: Path, broker: Broker | ForeignBroker, fresh: Callable[[str], str]
) -> None:
    topic, group = fresh("readings"), fresh("detector")
    on_kafka = make_site(tmp_path / "kafka", f"kafka://{broker.bootstrap}", RECORDS[:2000], topic=topic, group=group)
    embedded = make_site(tmp_path / "embedded", f"sqlite:///{tmp_path}/topics.db", RECORDS[:2000], topic=topic, group=group)

    on_kafka.run_to_end()
    embedded.run_to_end()

    assert len(embedded.alerts()) > 5
    assert on_kafka.alerts() == embedded.alerts()
    assert on_kafka.state() == embedded.state()


def test_a_group_that_begins_at_the_end_goes_on_from_there_in_its_next_life(
    tmp_path: Path, broker: Broker | ForeignBroker, fresh: Callable[[str], str]
) -> None:
    topic, group = fresh("readings"), fresh("detector")
    on_kafka, embedded = (
        make_site(tmp_path / name, log, RECORDS[:500], topic=topic, group=group, assignments=("input.start=latest",))
        for name, log in (("kafka", f"kafka://{broker.bootstrap}"), ("embedded", f"sqlite:///{tmp_path}/topics.db"))
    )
    for site in (on_kafka, embedded):
        site.run_to_end()
        assert not site.alerts()
        site.fill(RECORDS[500:2500])
        site.run_to_end()

    assert len(embedded.alerts()) > 5
    assert on_kafka.alerts() == embedded.alerts()
    assert on_kafka.state() == embedded.state()


def test_a_broker_that_is_away_at_the_start_is_waited_for(tmp_path: Path, own_broker: Broker, fresh: Callable[[str], str]) -> None:
    site = make_site(tmp_path, f"kafka://{own_broker.bootstrap}", RECORDS[:200], topic=fresh("readings"), group=fresh("detector"))
    own_broker.kill()
    process = site.daemon("--until-end")
    while "log_unavailable" not in site.log():
        process.join(0.1)
        assert process.exitcode is None, site.log_tail()

    own_broker.start()
    process.join(90)

    assert process.exitcode == 0, site.log_tail()


def test_a_broker_that_dies_under_way_is_waited_for_and_nothing_is_lost(tmp_path: Path, own_broker: Broker, fresh: Callable[[str], str]) -> None:
    log = f"kafka://{own_broker.bootstrap}"
    topic, group = fresh("readings"), fresh("detector")
    harmed = make_site(tmp_path / "harmed", log, RECORDS[:1500], topic=topic, group=group, assignments=("kafka.commit_timeout=5s",))
    unharmed = make_site(tmp_path / "unharmed", f"sqlite:///{tmp_path}/topics.db", RECORDS[:1500], topic=topic, group=group)
    process = harmed.daemon()
    while "partition_recovered" not in harmed.log():
        process.join(0.02)
        assert process.exitcode is None, harmed.log_tail()
    own_broker.kill()
    while not {"log_unavailable", "commit_failed"} & set(harmed.events()):
        process.join(0.1)
        assert process.exitcode is None, harmed.log_tail()
    own_broker.start()
    kill_softly(process)
    harmed.run_to_end()
    unharmed.run_to_end()

    assert harmed.alerts() == unharmed.alerts()
    assert harmed.state() == unharmed.state()


def kill_softly(process: object) -> None:
    """SIGTERM, and -9 when that is not heard within half a minute."""
    os.kill(process.pid, signal.SIGTERM)  # type: ignore[attr-defined]
    process.join(30)  # type: ignore[attr-defined]
    kill(process)  # type: ignore[arg-type]


@pytest.mark.parametrize("output", ["alerts", "dead-letters"])
def test_an_output_topic_that_is_deleted_ends_the_daemon_by_its_name_and_nothing_is_lost(
    tmp_path: Path, broker: Broker | ForeignBroker, fresh: Callable[[str], str], output: str
) -> None:
    log, topic, group = f"kafka://{broker.bootstrap}", fresh("readings"), fresh("detector")
    site = make_site(tmp_path / "harmed", log, RECORDS[:700], topic=topic, group=group, assignments=("kafka.commit_timeout=3s",))
    unharmed = make_site(tmp_path / "unharmed", log, (), topic=topic, group=fresh("unharmed"))
    site.run_to_end()
    outputs = {"alerts": Site.alerts, "dead-letters": Site.dead_letters}
    already, recovered = len(outputs[output](site)), site.events().count("partition_recovered")
    process = site.daemon()
    while site.events().count("partition_recovered") < recovered + 2:
        process.join(0.1)
        assert process.exitcode is None, site.log_tail()
    with KafkaAdminClient(bootstrap_servers=broker.bootstrap) as admin:
        admin.delete_topics([f"{group}.{output}"])
    site.fill(RECORDS[700:1400])
    process.join(60)

    assert process.exitcode == 2, site.log_tail()
    assert f"no topic {group}.{output}" in site.log_tail()

    site.run_to_end()
    unharmed.run_to_end()

    assert len(outputs[output](site)) == len(outputs[output](unharmed)) - already > 0
    assert site.state() == unharmed.state()
