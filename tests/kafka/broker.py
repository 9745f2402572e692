"""A real Apache Kafka for the tests: KRaft, one process on loopback, free ports, a temporary folder; stopped by whoever started it."""

from __future__ import annotations

import atexit
import base64
import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

JAVA_MAJOR_MIN = 17
# Of the topics in which the broker keeps groups and transactions.
COORDINATED_PARTITIONS = 4
READY_TIMEOUT_S = 60.0
MAVEN_TIMEOUT_S = 240.0
_REPOSITORY = Path(__file__).resolve().parents[2]
_POM = Path(__file__).with_name("pom.xml")
_JARS = _REPOSITORY / "build" / "kafka-lib"


class ToolsMissingError(Exception):
    """Java or Maven is not there; the text says what was left out."""


@dataclass(frozen=True, slots=True)
class Seat:
    """A broker's place in a cluster: its number, from 1, and the controller ports of all in turn. A record is on all of them, on most to count."""

    cluster_id: str
    number: int
    controller_ports: Sequence[int]

    @property
    def properties(self) -> str:
        """What depends on who else is there."""
        copies = len(self.controller_ports)
        addresses = [f"127.0.0.1:{port}" for port in self.controller_ports]
        quorum = f"bootstrap.servers={addresses[0]}" if copies == 1 else f"voters={','.join(f'{n}@{one}' for n, one in enumerate(addresses, 1))}"
        return f"""\
node.id={self.number}
controller.quorum.{quorum}
default.replication.factor={copies}
min.insync.replicas={copies // 2 + 1}
offsets.topic.replication.factor={copies}
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={copies // 2 + 1}
"""


class Broker:
    """A broker of our own that can be killed, frozen and started again on the same ports and data.

    advertised_port: of a proxy before it: who connects to `behind_proxy` is told to go on through that port.
    more_properties: lines that come last and so count; {broker_port} and {controller_port} in them are filled in.
    seat: among others; alone by default.
    """

    def __init__(self, folder: Path, advertised_port: int | None = None, more_properties: str = "", seat: Seat | None = None) -> None:
        self.folder = folder
        broker_port, controller_port, proxied_port = free_ports(3)
        seat = seat or Seat(new_cluster_id(), 1, (controller_port,))
        controller_port = seat.controller_ports[seat.number - 1]
        self.bootstrap, self.behind_proxy = f"127.0.0.1:{broker_port}", ("127.0.0.1", proxied_port)
        self._process: subprocess.Popen[bytes] | None = None
        listeners = {"PLAINTEXT": (broker_port, broker_port)}
        if advertised_port is not None:
            listeners["PROXIED"] = (proxied_port, advertised_port)
        more = more_properties.format(broker_port=broker_port, controller_port=controller_port)
        (folder / "server.properties").write_text(_properties(listeners, controller_port, folder / "logs") + seat.properties + more)
        arguments = ["format", f"--cluster-id={seat.cluster_id}", "-c", str(folder / "server.properties")]
        arguments += ["--standalone"] if len(seat.controller_ports) == 1 else []
        subprocess.run([*_java("256m"), "kafka.tools.StorageTool", *arguments], check=True, capture_output=True, timeout=READY_TIMEOUT_S)

    def start(self) -> None:
        """Return when the broker answers a metadata request."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Return at once: among others it may have to wait for them."""
        with (self.folder / "broker.log").open("ab") as log:
            command = [*_java("1g"), "kafka.Kafka", str(self.folder / "server.properties")]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)

    def wait_until_ready(self) -> None:
        """Until the broker answers a metadata request."""
        assert self._process is not None, "the broker is not running"
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while not answers(self.bootstrap):
            time.sleep(0.1)
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"the broker did not start:\n{(self.folder / 'broker.log').read_text()[-4000:]}")

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone; nothing happens when it is not running."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=READY_TIMEOUT_S)
        self._process = None

    def freeze(self) -> None:
        """The process stands still, its sockets stay open; returns when the last of its threads has stopped."""
        process = self._signal(signal.SIGSTOP)
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while any(_state(task) != "T" for task in Path(f"/proc/{process.pid}/task").iterdir()):
            assert time.monotonic() < deadline_s, "the broker does not stop"

    def thaw(self) -> None:
        """The process goes on."""
        self._signal(signal.SIGCONT)

    def revive(self) -> None:
        """Whatever was done to it, it runs again."""
        if self._process is None:
            self.start()
        else:
            self.thaw()

    def stop(self) -> None:
        """Kill it and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the broker is not running"
        os.killpg(self._process.pid, number)
        return self._process


class ForeignBroker:
    """The cluster that KAFKA_BOOTSTRAP names: used, never stopped."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap


@functools.cache
def shared_broker() -> Broker | ForeignBroker:
    """The one broker of this process, started at the first call and stopped at its end."""
    bootstrap = os.environ.get("KAFKA_BOOTSTRAP")
    return ForeignBroker(bootstrap) if bootstrap else start_broker()


@functools.cache
def start_broker() -> Broker:
    """Our own broker, one for this process, stopped at its end. Raises ToolsMissingError."""
    return new_broker()


def new_broker(advertised_port: int | None = None, more_properties: str = "") -> Broker:
    """One more broker of our own, stopped at the end of this process at the latest. Raises ToolsMissingError."""
    fetch_jars()
    broker = Broker(_new_folder(), advertised_port, more_properties)
    atexit.register(broker.stop)
    broker.start()
    return broker


def new_brokers(count: int) -> list[Broker]:
    """Several of our own in one cluster, each with a copy of everything; stopped at the end of this process. Raises ToolsMissingError."""
    fetch_jars()
    cluster_id, ports = new_cluster_id(), free_ports(count)
    brokers = [Broker(_new_folder(), seat=Seat(cluster_id, number, ports)) for number in range(1, count + 1)]
    for broker in brokers:
        atexit.register(broker.stop)
        broker.launch()
    for broker in brokers:
        broker.wait_until_ready()
    return brokers


def new_cluster_id() -> str:
    """One that nobody has."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def _new_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="anomaly-daemon-kafka-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def require_tools() -> None:
    """Raises ToolsMissingError where there is no Java, or no Maven and no jars of an earlier run."""
    left_out = "the tests against a real Kafka broker are left out"
    java = shutil.which("java")
    if java is None:
        raise ToolsMissingError(f"{left_out}: Java {JAVA_MAJOR_MIN} or later is not installed")
    banner = subprocess.run([java, "-version"], capture_output=True, text=True, check=True, timeout=READY_TIMEOUT_S).stderr
    version = re.search(r'version "(\d+)', banner)
    if version is None or int(version[1]) < JAVA_MAJOR_MIN:
        raise ToolsMissingError(f"{left_out}: they need Java {JAVA_MAJOR_MIN} or later; java -version says {banner.splitlines()[0]}")
    if not _has_jars() and shutil.which("mvn") is None:
        raise ToolsMissingError(f"{left_out}: Maven (mvn), which fetches the broker, is not installed")


def fetch_jars() -> None:
    """Whatever starting a broker takes is there. Raises ToolsMissingError."""
    require_tools()
    if not _has_jars():
        _download_jars()


def _has_jars() -> bool:
    return any(_JARS.glob("kafka_2.13-*.jar"))


def _download_jars() -> None:
    _JARS.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_JARS.parent) as folder:
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={folder}/jars"]
        done = subprocess.run(["mvn", "-B", "-q", "-f", str(_POM), *goal], capture_output=True, text=True, timeout=MAVEN_TIMEOUT_S)
        if done.returncode != 0:
            raise RuntimeError(f"Maven could not fetch the broker:\n{(done.stdout + done.stderr)[-4000:]}")
        shutil.rmtree(_JARS, ignore_errors=True)
        os.replace(f"{folder}/jars", _JARS)


def _state(task: Path) -> str:
    """One letter; the name in front of it may hold spaces and brackets."""
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


def _java(heap: str) -> list[str]:
    return ["java", f"-Xmx{heap}", "-cp", f"{_JARS}/*"]


def answers(bootstrap: str) -> bool:
    """Whether there is a broker that can be talked to."""
    host, _, port = bootstrap.rpartition(":")
    try:
        # The client leaks the socket of a connection that is refused, so it is not what finds out.
        socket.create_connection((host, int(port)), timeout=1).close()
    except (OSError, ValueError, OverflowError):
        return False
    try:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap, bootstrap_timeout_ms=2_000)
    except KafkaError:
        return False
    admin.close()
    return True


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nobody has at the moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _properties(listeners: Mapping[str, tuple[int, int]], controller_port: int, logs: Path) -> str:
    """listeners: name → port listened on, port advertised."""
    bound = [f"{name}://127.0.0.1:{port}" for name, (port, _) in listeners.items()]
    advertised = [f"{name}://127.0.0.1:{port}" for name, (_, port) in listeners.items()]
    return f"""\
process.roles=broker,controller
listeners={",".join(bound)},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners={",".join(advertised)}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,{",".join(f"{name}:PLAINTEXT" for name in listeners)}
inter.broker.listener.name=PLAINTEXT
log.dirs={logs}
offsets.topic.num.partitions={COORDINATED_PARTITIONS}
transaction.state.log.num.partitions={COORDINATED_PARTITIONS}
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
auto.create.topics.enable=false
"""
