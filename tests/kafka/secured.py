"""A real broker that asks who is there: TLS with certificates of our own, SCRAM users, and access control lists that allow nothing by themselves."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tests.kafka.broker import Broker, ToolsMissingError, fetch_jars, free_ports
from tests.kafka.certificates import Authority

USER, PASSWORD = "detector", "correct horse, battery"
KEY_PASSWORD = "Tr0ub4dor & 3"
_SECRET_FILES = "ANOMALY_DAEMON_KAFKA__"
# Listener → (protocol, certificate). Whoever comes by the plain one is anonymous and may do everything: it is the administrator's.
_LISTENERS = {
    "SCRAM": ("SASL_SSL", "broker"),
    "MUTUAL": ("SSL", "broker"),
    "EXPIRED": ("SASL_SSL", "expired"),
    "ELSEWHERE": ("SASL_SSL", "elsewhere"),
}


class SecuredBroker(Broker):
    """The broker, its addresses by listener, and the files that a client needs."""

    def __init__(self, folder: Path) -> None:
        self.authority, self.stranger = Authority(folder, "authority"), Authority(folder, "stranger")
        stores = {
            "broker": self.authority.sign("broker").key_store,
            "expired": self.authority.sign("expired", days=-1).key_store,
            "elsewhere": self.authority.sign("elsewhere", "DNS:broker.example.com").key_store,
        }
        ports = dict(zip(_LISTENERS, free_ports(len(_LISTENERS)), strict=True))
        self.addresses = {name: f"localhost:{port}" for name, port in ports.items()}
        super().__init__(folder, more_properties=_properties(ports, stores, self.authority.certificate))

    def settings(self, listener: str = "SCRAM", mechanism: str = "SCRAM-SHA-512") -> list[str]:
        """Assignments for a client of a listener, all but the password."""
        protocol, _ = _LISTENERS[listener]
        sasl = [f"kafka.sasl_mechanism={mechanism}", f"kafka.sasl_username={USER}"] if protocol == "SASL_SSL" else []
        return [
            f"log=kafka://{self.addresses[listener]}",
            f"kafka.security_protocol={protocol}",
            f"kafka.ssl_cafile={self.authority.certificate}",
            *sasl,
        ]

    def admin(self) -> KafkaAdminClient:
        """A client that may do everything."""
        return KafkaAdminClient(bootstrap_servers=self.bootstrap)

    def add_user(self, user: str = USER, password: str = PASSWORD) -> None:
        """A user of both SCRAM mechanisms; the broker takes one of them at a time."""
        admin = self.admin()
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
            outcome = admin.alter_user_scram_credentials([UserScramCredentialUpsertion(user, mechanism, password)])
            assert outcome == {user: None}, outcome
        admin.close()

    def allow_only(self, rights: Iterable[tuple[str, str, str]], principal: str = f"User:{USER}") -> None:
        """Exactly these rights: kind of resource (topic, group, transactional-id, cluster), its name, or how it begins and `*`, operation."""
        admin = self.admin()
        everything = ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY)
        admin.delete_acls([ACLFilter(principal, None, ACLOperation.ANY, ACLPermissionType.ANY, everything)])
        granted = [
            ACL(principal, "*", ACLOperation[operation], ACLPermissionType.ALLOW, _pattern(ResourceType[kind.upper().replace("-", "_")], name))
            for kind, name, operation in rights
        ]
        if granted:
            outcome = admin.create_acls(granted)
            assert not outcome["failed"], outcome
        admin.close()


def _pattern(kind: ResourceType, name: str) -> ResourcePattern:
    how = ACLResourcePatternType.PREFIXED if name.endswith("*") else ACLResourcePatternType.LITERAL
    return ResourcePattern(kind, name.removesuffix("*"), how)


def keep(folder: Path) -> None:
    """The secrets as files that only their owner may read, as an orchestrator mounts them."""
    for name, secret in (("SASL_PASSWORD", PASSWORD), ("SSL_KEY_PASSWORD", KEY_PASSWORD)):
        path = folder / f"{_SECRET_FILES}{name}"
        path.write_text(secret)
        path.chmod(0o600)


def telling(folder: Path) -> list[Path]:
    """The files that hold a secret, but for those that are there to hold it."""
    secrets = [f"--regexp={secret}" for secret in (PASSWORD, KEY_PASSWORD)]
    sought = ["grep", "-rlF", "--devices=skip", f"--exclude={_SECRET_FILES}*", *secrets, str(folder)]  # it skips the holes of a file of a terabyte
    found = subprocess.run(sought, capture_output=True, text=True, check=False)
    assert found.returncode in (0, 1), found.stderr
    return [Path(line) for line in found.stdout.splitlines()]


def _properties(ports: dict[str, int], stores: dict[str, Path], trusted: Path) -> str:
    """What comes behind the plain broker's properties."""
    secured = ",".join(f"{name}://localhost:{port}" for name, port in ports.items())
    protocols = ",".join(f"{name}:{protocol}" for name, (protocol, _) in _LISTENERS.items())
    lines = [
        f"listeners=PLAINTEXT://127.0.0.1:{{broker_port}},CONTROLLER://127.0.0.1:{{controller_port}},{secured}",
        f"advertised.listeners=PLAINTEXT://127.0.0.1:{{broker_port}},{secured}",
        f"listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,{protocols}",
        "inter.broker.listener.name=PLAINTEXT",
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users=User:ANONYMOUS",
        "sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512",
        "ssl.keystore.type=PEM",
        "ssl.truststore.type=PEM",
        f"ssl.truststore.location={trusted}",
        "listener.name.mutual.ssl.client.auth=required",
    ]
    for name, (protocol, store) in _LISTENERS.items():
        prefix = f"listener.name.{name.lower()}"
        login = "sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;"
        lines.append(f"{prefix}.ssl.keystore.location={stores[store]}")
        lines += [f"{prefix}.{mechanism}.{login}" for mechanism in ("scram-sha-256", "scram-sha-512") if protocol == "SASL_SSL"]
    return "\n".join(lines) + "\n"


def start_secured() -> SecuredBroker:
    """A broker with one user. Raises ToolsMissingError."""
    fetch_jars()
    if shutil.which("openssl") is None:
        raise ToolsMissingError("the tests of TLS are left out: openssl is not installed")
    broker = SecuredBroker(Path(tempfile.mkdtemp(prefix="anomaly-daemon-secured-")))
    atexit.register(broker.stop)
    broker.start()
    broker.add_user()
    return broker
