"""Where the log is: checked before anything is opened, and never shown together with a password."""

from __future__ import annotations

import re
from typing import Final

SQLITE: Final = "sqlite:///"
KAFKA: Final = "kafka://"

_SCHEME = re.compile(r"[\w+.-]*://")
_BROKER = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d+))?")
_PORT_MAX = 65_535
_KINDS = f"use {SQLITE}topics.db or {KAFKA}host:9092"


def masked(url: str) -> str:
    """The URL with *** for all up to its last @, and for a query: too much is hidden rather than a password with a slash shown."""
    scheme = match[0] if (match := _SCHEME.match(url)) else ""
    rest = url.removeprefix(scheme)
    if "@" in rest:
        rest = f"***@{rest.rpartition('@')[2]}"
    if scheme and "?" in rest:
        rest = f"{rest.partition('?')[0]}?***"
    return scheme + rest


def checked_log(url: str) -> str:
    """The URL as it is. Raises ValueError, which never quotes it: a scheme nobody knows, a user or password, brokers that cannot be."""
    if url.startswith(SQLITE):
        if url == SQLITE:
            raise ValueError(f"name the file, such as {SQLITE}topics.db")
        return url
    if "@" in url:
        raise ValueError(
            "no user and no password belong here: set kafka.sasl_username, and put the password into a file named "
            "ANOMALY_DAEMON_KAFKA__SASL_PASSWORD in the secrets directory"
        )
    if not url.startswith(KAFKA):
        raise ValueError(f"not a log; {_KINDS}")
    for broker in brokers(url).split(","):
        match = _BROKER.fullmatch(broker)
        if match is None:
            raise ValueError(f"brokers that cannot be read; write {KAFKA}host:9092,host:9092")
        if match["port"] is not None and not 1 <= int(match["port"]) <= _PORT_MAX:
            raise ValueError(f"{broker}: a port lies between 1 and {_PORT_MAX}")
    return url


def brokers(url: str) -> str:
    """`host:port,host:port` of a Kafka log's URL."""
    return url.removeprefix(KAFKA).rstrip("/")
