"""How the Kafka client connects."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator

from anomaly_daemon.settings.section import Section
from anomaly_daemon.settings.values import Duration, spelled

_TIMEOUT_MIN_S, _TIMEOUT_MAX_S = 1.0, 86_400.0


class Kafka(Section):
    """How the Kafka client connects."""

    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field("PLAINTEXT", description="Transport security.")
    ssl_cafile: Path | None = Field(
        None, description="Certificate authority that signed the brokers' certificates, PEM; default: those of this machine."
    )
    ssl_certfile: Path | None = Field(None, description="Client certificate, PEM.")
    ssl_keyfile: Path | None = Field(None, description="Client key, PEM; default: in the file of the certificate.")
    ssl_key_password: SecretStr | None = Field(None, description="Password of a locked client key; give it through the secrets directory.")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = Field(None, description="SASL mechanism.")
    sasl_username: str | None = Field(None, description="SASL user.")
    sasl_password: SecretStr | None = Field(None, description="SASL password; give it through the secrets directory.")
    static_membership: bool = Field(
        True,
        description=(
            "A member that leaves keeps its partitions until its session times out, so that a restart moves none. False: it gives them up at once, "
            "for instances that come and go with the load."
        ),
    )
    session_timeout: Duration = spelled("45s", "A member silent for this long loses its partitions.")
    max_poll_interval: Duration = spelled("5m", "A member that does not poll for this long leaves the group.")
    transaction_timeout: Duration = spelled("60s", "The broker aborts a transaction open for longer.")
    commit_timeout: Duration = spelled("30s", "A commit that takes longer has an unknown outcome: the daemon recovers.")
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field("lz4", description="Codec of what is produced.")

    @field_validator("session_timeout", "max_poll_interval", "transaction_timeout", "commit_timeout")
    @classmethod
    def _check(cls, seconds: float) -> float:
        if not _TIMEOUT_MIN_S <= seconds <= _TIMEOUT_MAX_S:
            raise ValueError("between 1s and 1d: a shorter one is over before a broker can answer, a longer one waits for what is long dead")
        return seconds
