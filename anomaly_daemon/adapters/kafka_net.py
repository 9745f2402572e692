"""The connections of a client, where kafka-python 3.0.12 waits too long, hears too little or forgets.

It waits for a TLS handshake without a bound, drops an answer after which the broker closes, such as that to a wrong
password, and tries a refused login or certificate again until `bootstrap_timeout_ms` is over, then tells none of it; of
several servers it takes one at random and may spend the whole of that on it, as it may on one address of several. A socket
that nobody answered it leaves to the garbage collector. A transactional request that meets a refused connection is
forgotten by the producer's sender: its commit then waits for nothing. `Net` mends all of it for every client.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from kafka import errors
from kafka.future import Future
from kafka.net.compat import KafkaNetClient
from kafka.net.connection import KafkaConnection
from kafka.net.inet import KafkaNetSocket
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport

# Of the time that is left to find the cluster, what one of several servers may take: the next one may answer.
_SERVER_SHARE = 1 / 3
# Between two looks at a broker that cannot be reached: not in a circle, and soon after it is back.
_LOOK_AGAIN_MS = (50, 1_000)
_LASTING_ALERT = re.compile(r"ALERT.*(CERTIFICATE|UNKNOWN_CA|HANDSHAKE_FAILURE|PROTOCOL_VERSION|ACCESS_DENIED)")
_X509_EXPIRED, _X509_HOSTS = (9, 10), (62, 64)  # X509_V_ERR_…: not yet valid, expired; host name, address mismatch


class TlsRefusedError(errors.KafkaError):  # type: ignore[misc]
    """One side does not accept the other's certificate, or does not speak TLS at all."""


class Net(KafkaNetClient):  # type: ignore[misc]
    """The network side of a client, as `kafka_client` of its arguments."""

    def __init__(self, **configuration: Any) -> None:
        net = NetworkSelector(**configuration)
        super().__init__(net, Connections(net, **configuration))

    @property
    def connections(self) -> Connections:
        """All there are, and what was met in making them."""
        connections: Connections = self._manager
        return connections

    def maybe_connect(self, node_id: str, **options: object) -> None:
        """Begin to connect, if there is a way; a refusal is heard by whoever waits for an answer, and remembered as `last_refusal`."""
        with suppress(errors.KafkaError):
            super().maybe_connect(node_id, **options)
        if options:  # from a producer's sender, which asks again at once, and would do nothing else
            self.poll(_LOOK_AGAIN_MS[0])

    def await_ready(self, node_id: str, timeout_ms: float = 30_000) -> bool:
        """Whether a request can be sent there, after a wait. The client's own raises where it cannot; the sender then forgets its request."""
        try:
            return bool(super().await_ready(node_id, timeout_ms))
        except errors.KafkaConnectionError:
            shortest_ms, longest_ms = _LOOK_AGAIN_MS
            self.poll(min(max(shortest_ms, 1000 * self.connection_delay(node_id)), longest_ms), Future())
            return False


class _WholeAnswers:
    """Of a transport: what was received before the other side closed is an answer, often the one that says why it closed."""

    def _sock_recv(self) -> tuple[bytes, Exception | None]:
        received, error = super()._sock_recv()  # type: ignore[misc]
        return received, None if received else error


class _TcpTransport(_WholeAnswers, KafkaTCPTransport):  # type: ignore[misc]
    pass


class _TlsTransport(_WholeAnswers, KafkaSSLTransport):  # type: ignore[misc]
    pass


class _Sockets(KafkaNetSocket):  # type: ignore[misc]
    """Leaves no socket open to which nobody answered."""

    SCHEMES = ()

    async def connect(self, net: NetworkSelector, address: Any, options: Sequence[tuple[int, int, int]], timeout_at: float) -> socket.socket:
        family, kind, protocol, _, peer = address
        sock: socket.socket = self.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            for option in options:
                sock.setsockopt(*option)
            await self.sock_connect(net, sock, peer, timeout_at=timeout_at)
        except BaseException:
            sock.close()
            raise
        return sock


class Connections(KafkaConnectionManager):  # type: ignore[misc]
    """Connects within its deadline, and lets whoever asks for a connection know at once that it is refused.

    last_refusal: why the last one that failed was not made; lost: how many ended so far.
    """

    last_refusal, lost = "", 0

    @property
    def refusal(self) -> errors.KafkaError | None:
        """What a broker that refuses us for good said first; None where none does."""
        return next(iter(dict(self._auth_failures).values()), None)

    def get_connection(self, node_id: str, *arguments: Any, **options: Any) -> KafkaConnection:
        """See KafkaConnectionManager; a new one is counted when it ends."""
        known = self._conns.get(node_id)
        found = super().get_connection(node_id, *arguments, **options)
        if found is not known:
            found.close_future.add_both(self._count_lost)
        return found

    def _count_lost(self, _why: object) -> None:
        self.lost += 1

    async def _build_transport(self, node: Any, timeout_at: float) -> KafkaTCPTransport:
        sock = await self._open_socket(node.host, node.port, timeout_at)
        if not self.ssl_enabled:
            return _TcpTransport(self._net, sock, host=node.host)
        transport = _TlsTransport(self._net, sock, host=node.host, ssl_context=self.config["ssl_context"])
        try:
            await self.wait_for(self.call_soon(transport.handshake), max(1.0, (timeout_at - time.monotonic()) * 1000))
        except Exception as error:
            transport.abort(error)
            raise errors.KafkaConnectionError(f"TLS handshake failed: {error}") from error
        return transport

    async def _open_socket(self, host: str, port: int, timeout_at: float) -> socket.socket:
        """To the first of the name's addresses that takes it; each may take its share of the time. Raises KafkaConnectionError."""
        sockets = _Sockets()
        addresses = sockets.dns_lookup(host, port, raise_error=True)
        last: Exception = errors.KafkaConnectionError("the name has no address")
        for number, address in enumerate(addresses):
            now_s = time.monotonic()
            try:
                return await sockets.connect(
                    self._net, address, self.config["socket_options"], now_s + (timeout_at - now_s) / (len(addresses) - number)
                )
            except (OSError, errors.KafkaConnectionError, errors.KafkaTimeoutError) as error:
                last = error
        raise errors.KafkaConnectionError(f"{host}:{port}: {', '.join(map(str, last.args))}") from last

    async def _connect(self, node: Any, conn: KafkaConnection, *, timeout_at: float, **options: Any) -> None:
        servers = self.cluster.bootstrap_brokers()
        if len(servers) > 1 and node in servers:
            now_s = time.monotonic()
            timeout_at = now_s + (timeout_at - now_s) * _SERVER_SHARE
        await super()._connect(node, conn, timeout_at=timeout_at, **options)
        if not conn.init_future.failed():
            return
        error = conn.init_future.exception
        self.last_refusal = str(error)
        refusal = error if isinstance(error, (errors.SaslAuthenticationFailedError, errors.UnsupportedSaslMechanismError)) else _tls_refusal(error)
        if refusal is not None:
            self._auth_failures[node.node_id] = refusal


def _tls_refusal(error: BaseException | None) -> TlsRefusedError | None:
    """The error with its remedy, where a certificate is at its bottom; None where trying again may help."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return TlsRefusedError(f"the broker's certificate is not accepted: {cause.verify_message}; {_certificate_remedy(cause.verify_code)}")
        if isinstance(cause, ssl.SSLError) and cause.reason is not None and _LASTING_ALERT.search(cause.reason):
            told = cause.reason.lower().replace("_", " ")
            return TlsRefusedError(
                f"the broker refuses this client: {told}; see that kafka.ssl_certfile is there, valid today, and signed by an authority that the "
                "broker trusts"
            )
        if isinstance(cause, ssl.SSLError) and cause.reason == "WRONG_VERSION_NUMBER":
            return TlsRefusedError("this port does not speak TLS; name the broker's TLS listener in `log`, or set kafka.security_protocol to fit")
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        yield from (one for one in error.args if isinstance(one, ssl.SSLError))
        error = error.__cause__


def _certificate_remedy(code: int) -> str:
    if code in _X509_EXPIRED:
        return "renew it on the broker, and see that both clocks are right"
    if code in _X509_HOSTS:
        return "use a name in `log` and in the broker's advertised.listeners that the certificate is made out to"
    return "set kafka.ssl_cafile to the PEM file of the authority that signed it"
