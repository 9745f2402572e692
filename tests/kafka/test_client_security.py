"""What settings of a secured connection are refused for, before any broker is asked."""

from __future__ import annotations

import shutil
import socket
import threading
from pathlib import Path

import pytest
from kafka import errors
from pydantic import SecretStr

from anomaly_daemon.adapters.kafka_client import Reaction, reaction_to, translate
from anomaly_daemon.adapters.kafka_security import security_arguments
from anomaly_daemon.adapters.kafka_topics import KafkaTopics
from anomaly_daemon.domain.errors import SettingsError
from anomaly_daemon.settings import SECRETS_DIR_VARIABLE, Kafka, exposed_secrets
from tests.kafka.certificates import Authority
from tests.small import settings

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
LOGIN = {"sasl_mechanism": "SCRAM-SHA-512", "sasl_username": "me", "sasl_password": SecretStr("hunter2")}


def refusal(**given: object) -> str:
    with pytest.raises(SettingsError) as refused:
        security_arguments(Kafka.model_validate(given))
    assert "hunter2" not in str(refused.value)
    return str(refused.value)


def test_half_a_login_is_refused_with_what_is_lacking_and_where_it_goes() -> None:
    assert "needs kafka.sasl_mechanism (such as SCRAM-SHA-512), kafka.sasl_username" in refusal(security_protocol="SASL_SSL")
    assert "a file named ANOMALY_DAEMON_KAFKA__SASL_PASSWORD in the secrets directory" in refusal(
        security_protocol="SASL_SSL", **{**LOGIN, "sasl_password": None}
    )


def test_what_the_protocol_would_silently_leave_unused_is_refused() -> None:
    assert "PLAINTEXT makes no use of kafka.sasl_mechanism; set it to SASL_SSL" in refusal(**LOGIN)
    assert "PLAINTEXT makes no use of kafka.ssl_cafile; set it to SSL" in refusal(ssl_cafile="ca.pem")
    assert "SASL_PLAINTEXT makes no use of kafka.ssl_cafile; set it to SASL_SSL" in refusal(
        security_protocol="SASL_PLAINTEXT", ssl_cafile="ca.pem", **LOGIN
    )


@needs_openssl
def test_certificates_that_cannot_be_used_are_refused_by_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    own, other = authority.sign("own"), authority.sign("other")
    (tmp_path / "empty.pem").write_text("")

    assert "ssl_cafile: " in (told := refusal(security_protocol="SSL", ssl_cafile=tmp_path / "empty.pem"))
    assert told.endswith("holds no certificate in PEM form")
    assert "a key without its certificate" in refusal(security_protocol="SSL", ssl_keyfile=own.key)
    assert "the key belongs to another certificate" in refusal(security_protocol="SSL", ssl_certfile=own.certificate, ssl_keyfile=other.key)
    assert "not a certificate and its key" in refusal(security_protocol="SSL", ssl_certfile=tmp_path / "empty.pem")


@needs_openssl
def test_a_locked_key_takes_its_password_from_the_settings_and_never_asks_for_it(tmp_path: Path) -> None:
    locked = Authority(tmp_path, "authority").sign("own", key_password="hunter2")
    own = {"security_protocol": "SSL", "ssl_certfile": locked.certificate, "ssl_keyfile": locked.key}

    assert "the key is locked; a file named ANOMALY_DAEMON_KAFKA__SSL_KEY_PASSWORD" in refusal(**own)
    assert "kafka.ssl_key_password is not the key's" in refusal(**own, ssl_key_password="guessed")
    assert security_arguments(Kafka.model_validate({**own, "ssl_key_password": "hunter2"}))["ssl_context"] is not None


def test_a_port_that_speaks_no_tls_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"220 not what you think\r\n")
                connection.recv(4096)

        threading.Thread(target=greet, daemon=True).start()

        with pytest.raises(SettingsError, match=r"this port does not speak TLS; name the broker's TLS listener"):
            KafkaTopics(f"localhost:{server.getsockname()[1]}", Kafka(security_protocol="SSL"), answer_timeout_s=20).partitions(["readings"])


def test_an_error_that_the_client_only_names_is_answered_as_itself() -> None:
    hidden = errors.KafkaError("Unexpected error in InitProducerIdResponse: [Error 31] ClusterAuthorizationFailedError")

    assert reaction_to(hidden) is Reaction.REFUSE_SETTINGS
    assert "grant this user WRITE on the topics written" in str(translate(hidden, "broker:9092", "appending"))
    assert reaction_to(errors.KafkaError("[Error 7] RequestTimedOutError")) is Reaction.RECOVER


def test_secrets_that_every_user_may_read_are_found(tmp_path: Path) -> None:
    for name, mode in (("ANOMALY_DAEMON_KAFKA__SASL_PASSWORD", 0o644), ("ANOMALY_DAEMON_KAFKA__SSL_KEY_PASSWORD", 0o640), (".hidden", 0o644)):
        (tmp_path / name).write_text("hunter2")
        (tmp_path / name).chmod(mode)
    key = tmp_path / ".hidden"

    exposed = exposed_secrets(settings(f"kafka.ssl_keyfile={key}"), {SECRETS_DIR_VARIABLE: str(tmp_path)})

    assert exposed == [tmp_path / "ANOMALY_DAEMON_KAFKA__SASL_PASSWORD", key]
