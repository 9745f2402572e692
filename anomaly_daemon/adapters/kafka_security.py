"""Who we are to a Kafka broker and whom we trust: settings → TLS context and login, and what a broker refuses of them.

kafka-python 3.0.12 waits for a TLS handshake without a bound, drops an answer after which the broker closes, such as that
to a wrong password, and tries a refused login or certificate again until `bootstrap_timeout_ms` is over, then tells none
of it; of several servers it takes one at random and may spend the whole of that on it. `open_net` mends all of it for every
client.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kafka import errors
from kafka.net.compat import KafkaNetClient
from kafka.net.connection import KafkaConnection
from kafka.net.inet import create_connection
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport

from anomaly_daemon.domain.errors import SettingsError
from anomaly_daemon.settings import Kafka

_SASL, _TLS = ("SASL_PLAINTEXT", "SASL_SSL"), ("SSL", "SASL_SSL")
# Of the time that is left to find the cluster, what one of several servers may take: the next one may answer.
_SERVER_SHARE = 1 / 3
_PASSWORD_REMEDY = "a file named ANOMALY_DAEMON_KAFKA__{} in the secrets directory holds it"
_LASTING_ALERT = re.compile(r"ALERT.*(CERTIFICATE|UNKNOWN_CA|HANDSHAKE_FAILURE|PROTOCOL_VERSION|ACCESS_DENIED)")
_X509_EXPIRED, _X509_HOSTS = (9, 10), (62, 64)  # X509_V_ERR_…: not yet valid, expired; host name, address mismatch


class TlsRefusedError(errors.KafkaError):  # type: ignore[misc]
    """One side does not accept the other's certificate, or does not speak TLS at all."""


def security_arguments(kafka: Kafka) -> dict[str, Any]:
    """The part of a client's arguments that says who we are and whom we trust. Raises SettingsError, before anything is connected."""
    _check_complete(kafka)
    return {
        "security_protocol": kafka.security_protocol,
        "ssl_context": _tls_context(kafka) if kafka.security_protocol in _TLS else None,
        "sasl_mechanism": kafka.sasl_mechanism,
        "sasl_plain_username": kafka.sasl_username,
        "sasl_plain_password": None if kafka.sasl_password is None else kafka.sasl_password.get_secret_value(),
    }


def open_net(**configuration: Any) -> KafkaNetClient:
    """The network side of a client, as `kafka_client` of its arguments."""
    net = NetworkSelector(**configuration)
    return KafkaNetClient(net, _Manager(net, **configuration))


def last_refusal(client: KafkaNetClient) -> str:
    """Why the last connection was not made; empty where none failed."""
    error = client._manager.last_error
    return "" if error is None else str(error)


class _WholeAnswers:
    """Of a transport: what was received before the other side closed is an answer, often the one that says why it closed."""

    def _sock_recv(self) -> tuple[bytes, Exception | None]:
        received, error = super()._sock_recv()  # type: ignore[misc]
        return received, None if received else error


class _TcpTransport(_WholeAnswers, KafkaTCPTransport):  # type: ignore[misc]
    pass


class _TlsTransport(_WholeAnswers, KafkaSSLTransport):  # type: ignore[misc]
    pass


class _Manager(KafkaConnectionManager):  # type: ignore[misc]
    """Connects within its deadline, and lets whoever asks for a connection know at once that it is refused."""

    last_error: Exception | None = None

    async def _build_transport(self, node: Any, timeout_at: float) -> KafkaTCPTransport:
        options = {"proxy_url": self.config["proxy_url"], "timeout_at": timeout_at}
        sock = await create_connection(self._net, node.host, node.port, self.config["socket_options"], **options)
        if not self.ssl_enabled:
            return _TcpTransport(self._net, sock, host=node.host)
        transport = _TlsTransport(self._net, sock, host=node.host, ssl_context=self.config["ssl_context"])
        try:
            await self.wait_for(self.call_soon(transport.handshake), max(1.0, (timeout_at - time.monotonic()) * 1000))
        except Exception as error:
            transport.abort(error)
            raise errors.KafkaConnectionError(f"TLS handshake failed: {error}") from error
        return transport

    async def _connect(self, node: Any, conn: KafkaConnection, *, timeout_at: float, **options: Any) -> None:
        servers = self.cluster.bootstrap_brokers()
        if len(servers) > 1 and node in servers:
            now_s = time.monotonic()
            timeout_at = now_s + (timeout_at - now_s) * _SERVER_SHARE
        await super()._connect(node, conn, timeout_at=timeout_at, **options)
        if not conn.init_future.failed():
            return
        error = self.last_error = conn.init_future.exception
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


def _check_complete(kafka: Kafka) -> None:
    """Neither half a login nor settings that the protocol would silently leave unused."""
    if kafka.sasl_mechanism == "OAUTHBEARER":
        raise SettingsError("kafka.sasl_mechanism: OAUTHBEARER needs a token provider, which settings cannot name; use SCRAM-SHA-512 or PLAIN")
    protocol = kafka.security_protocol
    login = {"sasl_mechanism": "such as SCRAM-SHA-512", "sasl_username": "the user's name", "sasl_password": _PASSWORD_REMEDY.format("SASL_PASSWORD")}
    unset = [f"kafka.{name} ({remedy})" for name, remedy in login.items() if getattr(kafka, name) is None]
    if protocol in _SASL and unset:
        raise SettingsError(f"kafka.security_protocol: {protocol} needs {', '.join(unset)}")
    unused = [name for name in ("sasl_mechanism", "sasl_username") if protocol not in _SASL and getattr(kafka, name) is not None]
    unused += [name for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile") if protocol not in _TLS and getattr(kafka, name) is not None]
    if unused:
        fitting = "SASL_SSL" if unused[0].startswith("sasl") else protocol.replace("PLAINTEXT", "SSL")
        raise SettingsError(
            f"kafka.security_protocol: {protocol} makes no use of kafka.{unused[0]}; set it to {fitting}, or leave kafka.{unused[0]} out"
        )


def _tls_context(kafka: Kafka) -> ssl.SSLContext:
    """Certificate and host name of the broker are always verified. Raises SettingsError for files that cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    authority = _file(kafka, "ssl_cafile")
    if authority is None:
        context.load_default_certs()
    else:
        try:
            context.load_verify_locations(authority)
        except ssl.SSLError:
            raise SettingsError(f"kafka.ssl_cafile: {authority}: holds no certificate in PEM form") from None
    certificate, key = _file(kafka, "ssl_certfile"), _file(kafka, "ssl_keyfile")
    if certificate is not None:
        _load_own(context, kafka, certificate, key)
    elif key is not None:
        raise SettingsError("kafka.ssl_keyfile: a key without its certificate; set kafka.ssl_certfile too")
    return context


def _load_own(context: ssl.SSLContext, kafka: Kafka, certificate: Path, key: Path | None) -> None:
    where = f"kafka.ssl_certfile: {certificate}, kafka.ssl_keyfile: {key or certificate}"

    def password() -> str:
        # Without it OpenSSL would ask on the terminal, and wait.
        if kafka.ssl_key_password is None:
            raise SettingsError(f"{where}: the key is locked; {_PASSWORD_REMEDY.format('SSL_KEY_PASSWORD')}")
        return kafka.ssl_key_password.get_secret_value()

    try:
        context.load_cert_chain(certificate, key, password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise SettingsError(f"{where}: the key belongs to another certificate") from None
        raise SettingsError(f"{where}: not a certificate and its key in PEM form, or kafka.ssl_key_password is not the key's") from None


def _file(kafka: Kafka, name: str) -> Path | None:
    path: Path | None = getattr(kafka, name)
    if path is None:
        return None
    if not path.is_file():
        raise SettingsError(f"kafka.{name}: {path}: no such file; name a PEM file that this user may read")
    try:
        path.open("rb").close()
    except OSError as error:
        raise SettingsError(f"kafka.{name}: {path}: cannot be read: {error.strerror}; name a PEM file that this user may read") from None
    return path
