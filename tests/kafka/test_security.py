"""Every verb over TLS, by a SCRAM login and by a client certificate; what is wrong with either is told at once, and secrets never."""

from __future__ import annotations

import itertools
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from pydantic import SecretStr

from anomaly_daemon.adapters.kafka_rights import KafkaRights, Right
from anomaly_daemon.adapters.kafka_topics import KafkaTopics
from anomaly_daemon.cli import main
from anomaly_daemon.domain.errors import LogUnavailable
from anomaly_daemon.settings import Kafka
from tests.end_to_end.harness import Site, make_site, verb
from tests.kafka.secured import KEY_PASSWORD, PASSWORD, USER, SecuredBroker, keep, telling
from tests.kafka.test_daemon import kill_softly
from tests.small import stream

RECORDS = stream(3, 6, 600, with_bad=True)
REFUSED_WITHIN_S = 30
_serial = itertools.count(1)
VERBS = {"SCRAM-SHA-512": ("load", "train", "check", "run", "replay", "incidents", "dump"), "MUTUAL": ("load", "check", "run")}


@dataclass(frozen=True)
class Life:
    """All verbs, one after the other, of one user: their exit codes, and the folder with everything that they wrote."""

    codes: dict[str, int | None]
    folder: Path
    alerts: list[dict[str, object]]

    @property
    def said(self) -> str:
        return (self.folder / "said.log").read_text()


@pytest.fixture(scope="module", params=VERBS)
def life(request: pytest.FixtureRequest, secured: SecuredBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    folder, secrets = tmp_path_factory.mktemp("life"), tmp_path_factory.mktemp("secrets")
    name = f"{request.param}-{next(_serial)}"  # it may be made more than once
    topic = f"readings-{name}"
    talkative = ("logging.level=debug", "input.batch_records_max=256", "kafka.compression=none")
    site = make_site(folder, f"kafka://{secured.bootstrap}", RECORDS[:500], topic=topic, group=name, assignments=talkative)
    if request.param == "MUTUAL":
        client = secured.authority.sign("client", key_password=KEY_PASSWORD)
        client.key.chmod(0o600)
        user, own = "User:CN=client", [*secured.settings("MUTUAL"), f"kafka.ssl_certfile={client.certificate}", f"kafka.ssl_keyfile={client.key}"]
    else:
        user, own = f"User:{USER}", secured.settings("SCRAM", request.param)
    keep(secrets)
    secured.allow_only(everything(site), user)
    (folder / "pump-6.jsonl").write_bytes(b"".join(record.value + b"\n" for record in RECORDS[500:] if record.value and record.value != b"{broken"))
    codes = {
        words[0]: verb(
            words[0],
            *("-c", str(folder / "settings.yaml")),
            *(word for one in (*site.assignments, *own) for word in ("--set", one)),
            *words[1:],
            log=folder / "said.log",
            variables={"ANOMALY_DAEMON_SECRETS_DIR": str(secrets)},
        )
        for words in commands(folder, topic, site)
        if words[0] in VERBS[request.param]
    }
    yield Life(codes, folder, site.alerts())
    secured.allow_only([], user)


def commands(folder: Path, topic: str, site: Site) -> list[list[str]]:
    return [
        ["load", str(folder / "pump-6.jsonl"), "--topic", topic],
        ["train", "--output", str(folder / "trained")],
        ["check"],
        ["run", "--until-end"],
        ["replay", "--export", str(folder / "scores.parquet"), "--alerts", str(folder / "alerts.jsonl"), "--report", str(folder / "report.html")],
        ["incidents", "--format", "json"],
        ["dump", "--topic", site.settings.output.dead_letter_topic, "--output", str(folder / "dead-letters.jsonl")],
    ]


def everything(site: Site) -> list[tuple[str, str, str]]:
    """What all the verbs together need."""
    output, group = site.settings.output, site.settings.input.group
    topics = (*site.settings.input.topics, output.alerts_topic, output.dead_letter_topic)
    return [
        *(("topic", topic, operation) for topic in topics for operation in ("READ", "WRITE")),
        ("group", group, "READ"),
        ("transactional-id", f"{group}-one", "WRITE"),
    ]


def test_every_verb_works_over_tls_with_a_login_or_a_client_certificate(life: Life) -> None:
    assert set(life.codes.values()) == {0}, life.said[-3000:]
    assert len(life.alerts) > 3


def test_no_secret_is_in_anything_that_the_verbs_wrote_or_said(life: Life) -> None:
    kinds = {path.suffix for path in life.folder.rglob("*")}

    assert kinds >= {".log", ".safetensors", ".yaml"}
    assert ".html" in kinds or "replay" not in life.codes
    assert telling(life.folder) == []
    assert [secret for secret in (PASSWORD, KEY_PASSWORD) if secret in json.dumps(life.alerts)] == []


def test_the_other_scram_mechanism_is_taken_too(secured: SecuredBroker) -> None:
    secured.allow_only([("topic", "nobody", "READ")])
    kafka = Kafka(
        security_protocol="SASL_SSL",
        ssl_cafile=secured.authority.certificate,
        sasl_mechanism="SCRAM-SHA-256",
        sasl_username=USER,
        sasl_password=SecretStr(PASSWORD),
    )

    with closing(KafkaRights(secured.addresses["SCRAM"], kafka)) as rights:
        assert rights.missing([Right("topic", "nobody", "READ"), Right("topic", "nobody", "WRITE")]) == [Right("topic", "nobody", "WRITE")]


@pytest.fixture(scope="module")
def refused_site(secured: SecuredBroker, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("refused"), f"kafka://{secured.bootstrap}", (), topic="refused", group="refused")


def answer(site: Site, own: list[str], words: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and all that was said, within the bound."""
    assignments = (*site.assignments, *own)
    command = [words[0], "-c", str(site.folder / "settings.yaml"), *(word for one in assignments for word in ("--set", one)), *words[1:]]
    began_s = time.monotonic()
    code = main(command)
    assert time.monotonic() - began_s < REFUSED_WITHIN_S
    return code, "".join(capfd.readouterr())


Change = Callable[[SecuredBroker], list[str]]
LOGIN = f"kafka.sasl_password={PASSWORD}"
FAULTS: dict[str, tuple[Change, str]] = {
    "another authority": (
        lambda broker: [*broker.settings(), LOGIN, f"kafka.ssl_cafile={broker.stranger.certificate}"],
        r"certificate is not accepted: .*; set kafka\.ssl_cafile",
    ),
    "a certificate that is over": (lambda broker: [*broker.settings("EXPIRED"), LOGIN], "certificate has expired; renew it on the broker"),
    "a certificate of another host": (lambda broker: [*broker.settings("ELSEWHERE"), LOGIN], r"Hostname mismatch.*; use a name in `log`"),
    "a wrong password": (
        lambda broker: [*broker.settings(), "kafka.sasl_password=guessed"],
        r"check kafka\.sasl_mechanism, kafka\.sasl_username and",
    ),
    "no client certificate": (lambda broker: broker.settings("MUTUAL"), r"refuses this client: .*; see that kafka\.ssl_certfile"),
    "TLS where there is none": (
        lambda broker: [f"log=kafka://{broker.bootstrap}", "kafka.security_protocol=SSL", f"kafka.ssl_cafile={broker.authority.certificate}"],
        r"does kafka\.security_protocol fit its listener",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_the_connection_is_told_with_the_remedy_and_no_traceback(
    fault: str, secured: SecuredBroker, refused_site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    own, told = FAULTS[fault]

    code, said = answer(
        refused_site, own(secured), ["load", str(refused_site.folder / "settings.yaml"), "--topic", "refused", "--format", "jsonl"], capfd
    )

    assert code == (1 if fault == "TLS where there is none" else 2)
    assert re.search(told, said), said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "words", [["check"], ["run"], ["train"], ["replay"], ["incidents"], ["dump", "--topic", "refused"]], ids=lambda words: words[0]
)
def test_every_verb_refuses_to_start_with_a_wrong_password(
    words: list[str], secured: SecuredBroker, refused_site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    code, said = answer(refused_site, [*secured.settings(), "kafka.sasl_password=guessed"], words, capfd)

    assert code == 2
    assert "the password in the secrets directory" in said
    assert "Traceback" not in said
    assert "guessed" not in said


@pytest.mark.slow
def test_a_secured_broker_that_dies_under_way_is_waited_for_and_logged_in_to_again(secured: SecuredBroker, tmp_path: Path) -> None:
    together = ("input.batch_records_max=256", "kafka.commit_timeout=5s")
    admin = make_site(tmp_path, f"kafka://{secured.bootstrap}", RECORDS[:300], topic="outage", group="outage", assignments=together)
    own = Site(tmp_path, (*admin.assignments, *secured.settings(), LOGIN))
    secured.allow_only(everything(own))
    process = own.daemon()
    wait_for(own, process, "partition_recovered")

    secured.kill()
    wait_for(own, process, "log_unavailable", "commit_failed")
    secured.start()
    admin.append(record.value for record in RECORDS[300:] if record.value is not None)
    kill_softly(process)
    own.run_to_end()

    assert len(admin.read("outage")) == len(RECORDS)
    assert sum(offset for offset, _ in own.state().values()) >= len(RECORDS)
    secured.allow_only([])


def wait_for(site: Site, process: BaseProcess, *events: str) -> None:
    while not set(events) & set(site.events()):
        process.join(0.1)
        assert process.exitcode is None, site.log_tail()


def test_a_port_that_never_answers_the_handshake_is_given_up_in_time() -> None:
    """kafka-python waits for it without a bound."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        kafka = Kafka(security_protocol="SASL_SSL", sasl_mechanism="PLAIN", sasl_username="me", sasl_password=SecretStr("x"))
        topics = KafkaTopics(f"127.0.0.1:{silent.getsockname()[1]}", kafka, answer_timeout_s=0.5)

        with pytest.raises(LogUnavailable, match="TLS handshake failed"):
            topics.partitions(["readings"])
