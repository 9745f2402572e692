from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, errors
from pydantic import SecretStr

from anomaly_daemon.adapters.kafka_client import (
    DeadlineExceededError,
    Reaction,
    connection_arguments,
    consumer_arguments,
    open_client,
    reaction_to,
    translate,
    within,
)
from anomaly_daemon.adapters.kafka_producer import producer_arguments
from anomaly_daemon.adapters.kafka_topics import KafkaTopics
from anomaly_daemon.domain.errors import CommitFailed, Fenced, LogUnavailable, SettingsError, TopicError
from anomaly_daemon.settings import Kafka

SERVERS = "kafka-1:9092,kafka-2:9092"
ALL_ERRORS = {name: one for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, Exception)}
# Errors of the client that ask for recovery though they are not marked as retriable: each was looked at.
RECOVERED = set(
    """
    BrokerIdNotRegisteredError BrokerNotAvailableError BrokerResponseError CommitFailedError CorruptRecordError CorruptRecordException
    DelegationTokenAuthDisabledError DelegationTokenExpiredError DelegationTokenNotFoundError DelegationTokenOwnerMismatchError
    DelegationTokenRequestNotAllowedError DuplicateBrokerRegistrationError DuplicateResourceError DuplicateSequenceNumberError
    DuplicateVoterError FeatureUpdateFailedError FencedMemberEpochError FencedStateEpochError GroupIdNotFoundError
    GroupSubscribedToTopicError IllegalArgumentError IllegalGenerationError IllegalStateError InconsistentClusterIdError
    InconsistentVoterSetError IneligibleReplicaError InvalidCommitOffsetSizeError InvalidFetchRequestError InvalidPrincipalTypeError
    InvalidProducerIdMappingError InvalidReceiveError InvalidRecordStateError InvalidRegistrationError
    InvalidReplicationAssignmentError InvalidRequestError InvalidRequiredAcksError InvalidTxnStateError InvalidUpdateVersionError
    InvalidVoterKeyError KafkaError KafkaProtocolError LogDirNotFoundError LogTruncationError MemberIdRequiredError
    MismatchedEndpointTypeError NewLeaderElectedError NoError NoOffsetForPartitionError NoReassignmentInProgressError NonEmptyGroupError
    OffsetMetadataTooLargeError OffsetMovedToTieredStorageError OffsetOutOfRangeError OperationNotAttemptedError
    OutOfOrderSequenceNumberError PositionOutOfRangeError PrincipalDeserializationFailureError QuotaViolationError
    ReassignmentInProgressError RebalanceInProgressError ResourceNotFoundError SnapshotNotFoundError StaleBrokerEpochError
    StaleControllerEpochError StaleMemberEpochError TelemetryTooLargeError TopicAlreadyExistsError TopicDeletionDisabledError
    TransactionAbortableError TransactionAbortedError TransactionCoordinatorFencedError TransactionalIdNotFoundError
    UnacceptableCredentialError UnknownBrokerIdError UnknownControllerIdError UnknownError UnknownMemberIdError UnknownProducerIdError
    UnknownSubscriptionIdError UnreleasedInstanceIdError UnsupportedAssignorError UnsupportedEndpointTypeError VoterNotFoundError
""".split()  # noqa: SIM905 - a list that long is read better as words
)


def test_every_error_of_the_client_has_a_reaction_that_someone_chose() -> None:
    unchosen = {
        name
        for name, one in ALL_ERRORS.items()
        if not issubclass(one, errors.RetriableError) and name not in RECOVERED and reaction_to(one.__new__(one)) is Reaction.RECOVER
    }

    assert unchosen == set()
    assert {name for name in RECOVERED if reaction_to(ALL_ERRORS[name].__new__(ALL_ERRORS[name])) is not Reaction.RECOVER} == set()


@pytest.mark.parametrize(
    ("error", "is_commit", "expected"),
    [
        (errors.KafkaTimeoutError("late"), False, LogUnavailable),
        (errors.KafkaTimeoutError("late"), True, CommitFailed),
        (errors.CommitFailedError(), True, CommitFailed),
        (errors.ProducerFencedError(), True, Fenced),
        (errors.FencedInstanceIdError(), True, Fenced),
        (errors.TopicAuthorizationFailedError({"readings"}), False, TopicError),
        (errors.GroupAuthorizationFailedError("group"), False, SettingsError),
        (errors.SaslAuthenticationFailedError("denied"), False, SettingsError),
    ],
)
def test_the_error_raised_says_what_to_do_and_where(error: Exception, is_commit: bool, expected: type[Exception]) -> None:
    ours = translate(error, SERVERS, "reading", is_commit=is_commit)

    assert type(ours) is expected
    assert "kafka://kafka-1:9092,kafka-2:9092: reading: " in str(ours)


def test_the_client_knows_every_argument() -> None:
    kafka = Kafka(security_protocol="SASL_SSL", sasl_mechanism="SCRAM-SHA-512", sasl_username="detector", sasl_password=SecretStr("hush"))

    assert set(consumer_arguments(SERVERS, kafka, "group", "one", 4096)) <= set(KafkaConsumer.DEFAULT_CONFIG)
    assert set(producer_arguments(SERVERS, kafka, 60.0, "group-one")) <= set(KafkaProducer.DEFAULT_CONFIG)
    assert set(connection_arguments(SERVERS, kafka)) <= set(KafkaAdminClient.DEFAULT_CONFIG)


def test_the_defaults_that_lose_or_repeat_records_are_overridden() -> None:
    arguments = consumer_arguments(SERVERS, Kafka(), "group", "one", 4096)

    chosen = {
        key: arguments[key] for key in ("isolation_level", "enable_auto_commit", "auto_offset_reset", "allow_auto_create_topics", "group_instance_id")
    }
    assert chosen == {
        "isolation_level": "read_committed",
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "allow_auto_create_topics": False,
        "group_instance_id": "one",
    }


def test_a_mechanism_without_what_it_needs_is_refused_with_the_way_out() -> None:
    with pytest.raises(SettingsError, match="SCRAM-SHA-512"):
        connection_arguments(SERVERS, Kafka(sasl_mechanism="OAUTHBEARER"))


def test_a_certificate_that_is_not_there_is_refused_at_once() -> None:
    with pytest.raises(SettingsError, match=r"kafka\.ssl_cafile: nowhere\.pem: no such file"):
        connection_arguments(SERVERS, Kafka(security_protocol="SSL", ssl_cafile=Path("nowhere.pem")))


def test_a_broker_that_is_away_is_told_with_the_settings_to_look_at() -> None:
    with pytest.raises(LogUnavailable, match=r"is the broker up, is `log` its address, .*kafka\.security_protocol"):
        KafkaTopics("127.0.0.1:1", Kafka(), answer_timeout_s=0.1).partitions(["readings"])


@pytest.mark.parametrize("make", [KafkaConsumer, KafkaProducer, KafkaAdminClient])
def test_a_client_that_cannot_connect_leaves_no_thread_behind(make: Any) -> None:
    before = set(threading.enumerate())

    with pytest.raises(errors.KafkaTimeoutError):
        open_client(make, {"bootstrap_servers": "127.0.0.1:1", "bootstrap_timeout_ms": 100})

    assert set(threading.enumerate()) <= before


def test_work_within_its_deadline_returns_or_raises_as_if_called() -> None:
    def refuse() -> None:
        raise ValueError("no")

    assert within(10.0, "work", lambda: 7) == 7
    with pytest.raises(ValueError, match="no"):
        within(10.0, "work", refuse)


def test_work_beyond_its_deadline_is_left_behind() -> None:
    released = threading.Event()

    with pytest.raises(DeadlineExceededError):
        within(0.01, "work", released.wait)

    released.set()
