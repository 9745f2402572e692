"""Who we are to a Kafka broker and whom we trust: settings → TLS context and login."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from anomaly_daemon.domain.errors import SettingsError
from anomaly_daemon.settings import Kafka

_SASL, _TLS = ("SASL_PLAINTEXT", "SASL_SSL"), ("SSL", "SASL_SSL")
_PASSWORD_REMEDY = "a file named ANOMALY_DAEMON_KAFKA__{} in the secrets directory holds it"


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
