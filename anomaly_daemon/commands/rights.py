"""The part of `check` that is about a Kafka cluster: who we are to it, and which rights we have and lack."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import closing

from anomaly_daemon import wiring
from anomaly_daemon.adapters.kafka_client import address, connection_arguments
from anomaly_daemon.adapters.kafka_rights import KafkaRights, Right, granting_commands, principal
from anomaly_daemon.domain.errors import InputError, SettingsError
from anomaly_daemon.settings import Settings, brokers, format_duration


def least_rights(settings: Settings) -> list[Right]:
    """What `run` needs, and nothing more."""
    written = (settings.output.alerts_topic, settings.output.dead_letter_topic)
    made = (*settings.input.topics, *written) if settings.topics.create_topics else ()
    return [
        *(Right("topic", topic, "READ") for topic in settings.input.topics),
        *(Right("topic", topic, "WRITE") for topic in written),
        Right("group", settings.input.group, "READ"),
        Right("transactional-id", wiring.transactional_id(settings), "WRITE"),
        *(Right("topic", topic, "CREATE") for topic in made),
    ]


def commands(settings: Settings) -> list[str]:
    """What an administrator runs to grant them. Raises InputError on the embedded log."""
    if not wiring.is_kafka(settings):
        raise InputError(f"--acls: {settings.log} knows no rights; name a Kafka cluster in `log`")
    return granting_commands(brokers(settings.log), settings.kafka, least_rights(settings))


def connection(settings: Settings, is_offline: bool) -> list[str]:
    """Whether the connection's settings are whole and, unless offline, whether a broker takes us."""
    servers, kafka = brokers(settings.log), settings.kafka
    connection_arguments(servers, kafka)
    if not is_offline:
        with closing(KafkaRights(servers, kafka)) as cluster:
            _check_limits(settings, cluster.limits_s())
    told = f"{address(servers)}: {kafka.security_protocol} as {principal(kafka)}{', not tried while --offline' if is_offline else ''}"
    if kafka.security_protocol == "SASL_PLAINTEXT" and kafka.sasl_mechanism == "PLAIN":
        return [told, "the password crosses the network as it is: set kafka.security_protocol: SASL_SSL"]
    return [told]


def _check_limits(settings: Settings, limits_s: Mapping[str, float]) -> None:
    """Raises SettingsError that names each time that the broker would refuse."""
    transaction_s, session_s = settings.kafka.transaction_timeout, settings.kafka.session_timeout
    faults = []
    if transaction_s > (most_s := limits_s.get("transaction.max.timeout.ms", math.inf)):
        faults.append(f"kafka.transaction_timeout: at most {format_duration(most_s)}, transaction.max.timeout.ms of the broker")
    if session_s < (least_s := limits_s.get("group.min.session.timeout.ms", 0.0)):
        faults.append(f"kafka.session_timeout: at least {format_duration(least_s)}, group.min.session.timeout.ms of the broker")
    if session_s > (most_s := limits_s.get("group.max.session.timeout.ms", math.inf)):
        faults.append(f"kafka.session_timeout: at most {format_duration(most_s)}, group.max.session.timeout.ms of the broker")
    if faults:
        raise SettingsError("; ".join(faults))


def rights(settings: Settings) -> list[str]:
    """That nothing is lacking. Raises SettingsError that names every right which is, with the commands that grant it."""
    servers, wanted = brokers(settings.log), least_rights(settings)
    with closing(KafkaRights(servers, settings.kafka)) as cluster:
        missing = cluster.missing(wanted)
    if missing:
        named = ", ".join(map(str, missing))
        granting = "\n  ".join(granting_commands(servers, settings.kafka, missing))
        raise SettingsError(f"{address(servers)}: {principal(settings.kafka)} lacks {named}; let an administrator run\n  {granting}")
    return [f"{principal(settings.kafka)} may: {', '.join(map(str, wanted))}"]
