"""What `check` says of access control lists holds: the least rights are enough for `run`, and each of them is needed and named."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient

from anomaly_daemon.cli import main
from anomaly_daemon.commands.rights import least_rights, rights
from anomaly_daemon.domain.errors import SettingsError
from tests.end_to_end.harness import Site, make_site
from tests.kafka.broker import Broker, ForeignBroker
from tests.kafka.secured import PASSWORD, SecuredBroker
from tests.small import stream

RECORDS = stream(7, 6, 600, with_bad=True)
TOGETHER = "input.batch_records_max=256"
GROUP = "least"


@pytest.fixture(scope="session")  # a module's may be made more than once, and its topics are there then
def sites(secured: SecuredBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Site]]:
    """The administrator's view of one and the same detector, and the detector's own."""
    yield both_views(secured, tmp_path_factory.mktemp("rights"), "watched", GROUP)
    secured.allow_only([])


def both_views(secured: SecuredBroker, folder: Path, topic: str, group: str) -> tuple[Site, Site]:
    admin = make_site(folder, f"kafka://{secured.bootstrap}", RECORDS, topic=topic, group=group, assignments=[TOGETHER])
    return admin, Site(folder, (*admin.assignments, *secured.settings(), f"kafka.sasl_password={PASSWORD}", "topics.create_topics=false"))


def told(site: Site, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str]]:
    capsys.readouterr()
    code = main(["check", "-c", str(site.folder / "settings.yaml"), *(word for one in site.assignments for word in ("--set", one)), *words])
    return code, capsys.readouterr().out.splitlines()


def granted_by(command: str) -> tuple[str, str, str]:
    """Resource, name and operation of a line for the administrator's shell."""
    words = shlex.split(command)
    assert words[0] == "kafka-acls"
    *_, flag, operation, resource, name = words
    assert (flag, words[words.index("--allow-principal") + 1]) == ("--operation", "User:detector")
    return resource.removeprefix("--"), name, operation


def test_what_check_prints_is_enough_for_run(secured: SecuredBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A topic of its own: other tests, in whatever order they come, add to theirs.
    admin, own = both_views(secured, tmp_path / "kafka", "alone", "alone")
    embedded = make_site(tmp_path / "embedded", f"sqlite:///{tmp_path}/topics.db", RECORDS, topic="alone", group="alone", assignments=[TOGETHER])
    secured.allow_only([])
    refused, problems = told(own, capsys)
    code, commands = told(own, capsys, "--acls")

    secured.allow_only([granted_by(command) for command in commands])
    allowed, lines = told(own, capsys)
    own.run_to_end()
    embedded.run_to_end()

    assert (refused, code, allowed) == (2, 0, 0), lines
    assert [line.strip() for line in problems if line.strip().startswith("kafka-acls")] == commands
    assert len(admin.alerts()) > 3
    assert len(admin.dead_letters()) > 3
    assert admin.alerts() == embedded.alerts()


LEAST = (
    ("topic", "watched", "READ"),
    ("topic", f"{GROUP}.alerts", "WRITE"),
    ("topic", f"{GROUP}.dead-letters", "WRITE"),
    ("group", GROUP, "READ"),
    ("transactional-id", f"{GROUP}-one", "WRITE"),
)


def test_these_are_the_rights_that_are_called_the_least(sites: tuple[Site, Site]) -> None:
    assert [(right.resource, right.name, right.operation) for right in least_rights(sites[1].settings)] == list(LEAST)


@pytest.mark.parametrize("right", LEAST, ids=" ".join)
def test_one_right_fewer_is_named_before_run_fails_for_it(right: tuple[str, str, str], sites: tuple[Site, Site], secured: SecuredBroker) -> None:
    admin, own = sites
    secured.allow_only(one for one in LEAST if one != right)
    resource, name, operation = right

    with pytest.raises(SettingsError) as refused:
        rights(own.settings)
    admin.append(record.value for record in RECORDS[-50:] if record.value is not None)
    process = own.daemon("--until-end")
    process.join(120)

    lacking, *commands = str(refused.value).splitlines()
    assert f"User:detector lacks {operation} on {resource} {name}; " in lacking
    assert [granted_by(command) for command in commands] == [right]
    assert process.exitcode == 2, own.log_tail()
    assert "grant this user" in own.log_tail()


def test_transactional_ids_that_begin_with_the_group_are_enough_for_any_instance(sites: tuple[Site, Site], secured: SecuredBroker) -> None:
    admin, own = sites
    another = Site(own.folder, (*own.assignments, "input.member=another"))
    secured.allow_only(LEAST)
    with pytest.raises(SettingsError, match=f"lacks WRITE on transactional-id {GROUP}-another; "):
        rights(another.settings)
    secured.allow_only([*LEAST[:-1], ("transactional-id", f"{GROUP}-*", "WRITE")])
    before = len(admin.alerts())
    admin.fill(RECORDS)

    assert "WRITE on transactional-id least-another" in rights(another.settings)[0]
    another.run_to_end()

    assert len(admin.alerts()) > before


def test_a_topic_to_be_made_needs_the_right_to_make_it(sites: tuple[Site, Site], secured: SecuredBroker) -> None:
    own = sites[1]
    making = Site(own.folder, (*own.assignments, "topics.create_topics=true", "output.alerts_topic=unmade"))
    secured.allow_only([*LEAST, ("topic", "unmade", "WRITE")])

    with pytest.raises(SettingsError, match="lacks CREATE on topic unmade; "):
        rights(making.settings)

    secured.allow_only([*LEAST, ("topic", "unmade", "WRITE"), ("topic", "unmade", "CREATE")])
    assert "CREATE on topic unmade" in rights(making.settings)[0]


def test_an_input_topic_that_is_compacted_is_warned_of(
    broker: Broker | ForeignBroker, sites: tuple[Site, Site], fresh: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    topic, admin = fresh("compacted"), sites[0]
    with KafkaAdminClient(bootstrap_servers=broker.bootstrap) as client:
        client.create_topics({topic: {"num_partitions": 1, "replication_factor": 1, "configs": {"cleanup.policy": "compact"}}})
    compacted = Site(admin.folder, (*admin.assignments, f"log=kafka://{broker.bootstrap}", f"input.topics=[{topic}]", "topics.create_topics=true"))

    _, lines = told(compacted, capsys)

    assert any(f"{topic}: cleanup.policy is compact" in line for line in lines), lines


def test_on_a_cluster_without_an_authorizer_nothing_is_lacking(broker: Broker | ForeignBroker, sites: tuple[Site, Site]) -> None:
    admin = sites[0]
    open_to_all = Site(admin.folder, (*admin.assignments, f"log=kafka://{broker.bootstrap}"))

    assert "WRITE on transactional-id least-one" in rights(open_to_all.settings)[0]


@pytest.mark.parametrize(
    ("assignment", "refused"),
    [
        ("kafka.transaction_timeout=20m", "kafka.transaction_timeout: at most 15m, transaction.max.timeout.ms of the broker"),
        ("kafka.session_timeout=2h", "kafka.session_timeout: at most 30m, group.max.session.timeout.ms of the broker"),
    ],
)
def test_times_that_the_broker_would_refuse_are_named_before_run_fails_for_them(
    assignment: str, refused: str, broker: Broker | ForeignBroker, sites: tuple[Site, Site], capsys: pytest.CaptureFixture[str]
) -> None:
    admin = sites[0]
    open_to_all = Site(admin.folder, (*admin.assignments, f"log=kafka://{broker.bootstrap}", assignment))

    code, lines = told(open_to_all, capsys)

    assert code == 2
    assert any(refused in line for line in lines), lines
