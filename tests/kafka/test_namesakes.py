"""Two instances under one name at once: the group says which of them is the later, and that one goes on."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import TypeVar

import pytest
from kafka.errors import KafkaError

from anomaly_daemon.adapters import kafka_sink
from anomaly_daemon.adapters.kafka_group import UnjoinedError
from anomaly_daemon.adapters.kafka_producer import Producer
from anomaly_daemon.adapters.kafka_sink import KafkaSink
from anomaly_daemon.adapters.kafka_source import KafkaSource
from anomaly_daemon.domain.errors import CommitFailed, Fenced
from anomaly_daemon.domain.records import Message, Partition
from tests.chaos.proxy import Api, Cut, Moment, Proxy
from tests.contract.kafka_log import KafkaLog
from tests.contract.logs import until
from tests.kafka.broker import Broker
from tests.kafka.loops import ALERT_EVERY, Member

T = TypeVar("T")
pytestmark = pytest.mark.kafka
ROUND = 5 * ALERT_EVERY
ANSWER_TIMEOUT_S, SESSION, SESSION_S = 3.0, "6s", 6.0


class Gate:
    """Keeps whoever would begin a new epoch waiting."""

    def __init__(self, sink: KafkaSink) -> None:
        self.is_open, self._make = threading.Event(), sink._make
        sink._make = self._pass  # type: ignore[method-assign]

    def _pass(self) -> Producer:
        assert self.is_open.wait(60.0)
        return self._make()


class Instances:
    """One name, one partition. log: behind a proxy that cuts connections; direct: past it."""

    def __init__(self, broker: Broker, log: KafkaLog, direct: KafkaLog, proxy: Proxy) -> None:
        self.broker, self.log, self.direct, self.proxy, self._begun = broker, log, direct, proxy, 0
        direct.create("readings", 1)
        direct.create("alerts", 1)

    def sink(self) -> KafkaSink:
        """That knows no membership before its first commit."""
        return KafkaSink(self.log.bootstrap, self.log.kafka, "detectors-one")

    def member(self, sink: KafkaSink) -> Member:
        return Member(self.log.source(["readings"], "detectors", batch_records_max=ROUND), sink, "alerts")

    def whole(self, log: KafkaLog | None = None) -> Member:
        """Source and sink of one process, as the daemon has them. log: another than that behind the proxy."""
        log = log or self.log
        source = log.source(["readings"], "detectors", batch_records_max=ROUND)
        return Member(source, log.sink(source, "detectors"), "alerts")

    def append(self) -> int:
        """Some records; where they end."""
        self.direct.append(Message("readings", None, b"1", partition_number=0) for _ in range(ROUND))
        self._begun += ROUND
        return self._begun

    def commit(self, member: Member) -> None:
        """Some records, to the end."""
        end = self.append()
        until(lambda: member.next_offsets.get(Partition("readings", 0)) == end, member)

    def at_a_gate(self, sink: KafkaSink) -> tuple[Member, Gate]:
        """A member that has lost a connection within its commit and would begin a new epoch."""
        member = self.member(sink)
        self.commit(member)
        gate, lost = Gate(sink), Cut(Api.END_TXN, Moment.BEFORE)
        self.proxy.arm(lost)
        self.commit(member)
        assert lost.is_done.is_set()
        return member, gate

    def assert_only_the_later_goes_on(self, earlier: Member, later: Member) -> None:
        with pytest.raises(Fenced, match=r"input\.member"):
            until(lambda: False, earlier)
        self.commit(later)

        assert later.failures == []
        assert self.said() == self.expected()

    def said(self) -> list[bytes | None]:
        return [record.value for record in self.direct.read("alerts")]

    def expected(self) -> list[bytes]:
        return [b"0:%d" % offset for offset in range(0, self._begun, ALERT_EVERY)]


@pytest.fixture
def instances(proxied: tuple[Broker, Proxy, KafkaLog]) -> Iterator[Instances]:
    broker, proxy, log = proxied
    with ExitStack() as opened:
        settings = {"session_timeout": SESSION, "commit_timeout": "5s"}
        ways = [opened.enter_context(closing(KafkaLog(way, ANSWER_TIMEOUT_S, **settings))) for way in (log.bootstrap, broker.bootstrap)]
        yield Instances(broker, *ways, proxy)


def test_an_earlier_instance_asks_its_group_before_a_new_epoch_and_ends_the_later_one_no_more(instances: Instances) -> None:
    with closing(instances.sink()) as sink:
        earlier, gate = instances.at_a_gate(sink)
        with closing(instances.sink()) as sink_of_later:
            later = instances.member(sink_of_later)
            instances.commit(later)

            gate.is_open.set()
            with pytest.raises(Fenced, match=r"input\.member"):
                sink._prepared()
            with pytest.raises(Fenced, match=r"input\.member"):
                until(lambda: False, earlier)
            instances.commit(later)

    assert later.failures == []
    assert instances.said() == instances.expected()


def test_the_later_instance_goes_on_where_the_earlier_one_took_a_new_epoch_before_it_had_joined(instances: Instances) -> None:
    with closing(instances.sink()) as sink:
        earlier, gate = instances.at_a_gate(sink)
        with closing(instances.sink()) as sink_of_later:
            sink_of_later._prepared()
            gate.is_open.set()
            sink._prepared()

            later = instances.member(sink_of_later)
            instances.commit(later)
            with pytest.raises(Fenced, match=r"input\.member"):
                until(lambda: False, earlier)
            instances.commit(later)

    assert [type(failure) for failure in later.failures] == [CommitFailed]
    assert instances.said() == instances.expected()


def test_an_instance_that_stood_still_in_a_commit_does_not_end_the_later_one(instances: Instances, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(instances.sink()) as sink, ExitStack() as opened:
        woken, successors = instances.member(sink), list[Member]()
        instances.commit(woken)

        def stand_still() -> None:
            successors.append(instances.member(opened.enter_context(closing(instances.sink()))))
            instances.commit(successors[0])
            monkeypatch.setattr(kafka_sink, "within", past_its_deadline(kafka_sink.within))

        woken.before_commit = stand_still
        instances.append()
        with pytest.raises(Fenced, match=r"input\.member"):
            until(lambda: False, woken)
        monkeypatch.undo()
        instances.commit(successors[0])

    assert successors[0].failures == []
    assert [type(failure) for failure in woken.failures] == [CommitFailed]
    assert "outcome is unknown" in str(woken.failures[0])
    assert instances.said() == instances.expected()


def test_an_earlier_instance_that_is_told_by_its_poll_takes_no_epoch_as_it_ends(instances: Instances) -> None:
    with ExitStack() as opened:
        with closing(instances.sink()) as sink:
            earlier, gate = instances.at_a_gate(sink)
            later = instances.member(opened.enter_context(closing(instances.sink())))
            instances.commit(later)
            with pytest.raises(Fenced, match=r"input\.member"):
                until(lambda: False, earlier)
            gate.is_open.set()
        instances.commit(later)

    assert later.failures == []
    assert instances.said() == instances.expected()


def test_the_group_is_asked_by_the_consumer_at_hand_and_not_by_one_that_was_given_up(instances: Instances) -> None:
    with closing(instances.sink()) as sink, closing(instances.sink()) as sink_of_later:
        earlier, gate = instances.at_a_gate(sink)
        assert isinstance(earlier.source, KafkaSource)
        earlier.source._give_up()
        until(lambda: len(earlier.changes) == 3, earlier)  # had it, lost it, has it again
        later = instances.member(sink_of_later)
        instances.commit(later)

        gate.is_open.set()
        with pytest.raises(Fenced, match=r"input\.member"):
            sink._prepared()
        instances.commit(later)

    assert instances.said() == instances.expected()


@pytest.mark.parametrize("away_s", [0.0, SESSION_S + 1.0])
def test_an_earlier_instance_that_was_cut_off_does_not_take_its_name_back(instances: Instances, away_s: float) -> None:
    """away_s: before the later one begins; by then the group has forgotten the earlier one, or has not."""
    earlier = instances.whole()
    instances.commit(earlier)
    instances.proxy.refuse()
    until(lambda: len(earlier.failures) > 0, earlier)
    time.sleep(away_s)
    later = instances.whole(instances.direct)
    instances.commit(later)

    instances.proxy.restore()
    instances.assert_only_the_later_goes_on(earlier, later)


def test_an_instance_that_was_cut_off_or_did_not_poll_for_long_and_was_not_succeeded_goes_on(instances: Instances) -> None:
    alone = instances.whole()
    instances.commit(alone)
    for away_s in (0.0, SESSION_S + 1.0):
        failures = len(alone.failures)
        instances.proxy.refuse()
        until(lambda failures=failures: len(alone.failures) > failures, alone)  # type: ignore[misc]
        time.sleep(away_s)
        instances.proxy.restore()
        instances.commit(alone)
    for away_s in (0.0, SESSION_S + 1.0):
        not_polled(alone)
        time.sleep(away_s)
        instances.commit(alone)

    assert instances.said() == instances.expected()


def test_an_earlier_instance_that_did_not_poll_for_long_does_not_take_its_name_back(instances: Instances) -> None:
    earlier = instances.whole()
    instances.commit(earlier)
    not_polled(earlier)
    later = instances.whole()
    instances.commit(later)

    instances.assert_only_the_later_goes_on(earlier, later)


def test_who_has_asked_to_be_let_in_asks_the_group_from_then_on(instances: Instances) -> None:
    one = instances.whole()
    assert isinstance(one.source, KafkaSource)
    member = one.source.member
    assert member.consumer is not None
    coordinator = member.consumer._coordinator
    member.confirm()
    assert coordinator.is_new
    until(lambda: not coordinator.is_new, one)
    one.source.close()

    with pytest.raises(UnjoinedError):
        member.confirm()


def test_an_earlier_instance_asks_before_its_first_epoch_too(instances: Instances, monkeypatch: pytest.MonkeyPatch) -> None:
    is_open, make = threading.Event(), KafkaSink._make

    def pass_gate(sink: KafkaSink) -> Producer:
        assert is_open.wait(60.0)
        return make(sink)

    monkeypatch.setattr(KafkaSink, "_make", pass_gate)
    earlier = instances.whole()
    monkeypatch.undo()
    until(lambda: bool(earlier.owned), earlier)
    later = instances.whole()
    instances.commit(later)

    is_open.set()
    assert isinstance(earlier.sink, KafkaSink)
    with pytest.raises(Fenced, match=r"input\.member"):
        earlier.sink._prepared()
    instances.commit(later)

    assert later.failures == []
    assert instances.said() == instances.expected()


def test_a_commit_waits_for_a_producer_that_is_on_its_way_though_its_member_had_to_join_before(
    instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, confirm, asked = instances.whole(), KafkaSink._confirm, itertools.count()
    instances.commit(one)

    def slow(sink: KafkaSink) -> None:
        if not next(asked):
            raise UnjoinedError("it is about to join")
        time.sleep(1.0)
        confirm(sink)

    monkeypatch.setattr(KafkaSink, "_confirm", slow)
    assert isinstance(one.sink, KafkaSink)
    one.sink._preparation.cancel()
    one.sink._prepare()
    instances.commit(one)

    assert next(asked) == 3
    assert one.failures == []


def test_whether_this_is_still_a_member_is_not_known_once_its_consumer_is_given_up(instances: Instances) -> None:
    with closing(instances.sink()) as sink:
        one = instances.member(sink)
        instances.commit(one)
        assert isinstance(one.source, KafkaSource)
        member, answers = one.source.member, list[Exception]()
        member.confirm()

        def ask() -> None:
            try:
                member.confirm()
            except Exception as error:
                answers.append(error)

        instances.broker.freeze()
        asking = threading.Thread(target=ask)
        asking.start()
        one.source.close()
        asking.join(10.0)
        instances.broker.thaw()

        assert not asking.is_alive()
        assert [isinstance(answer, KafkaError) for answer in answers] == [True]
        with pytest.raises(UnjoinedError):
            member.confirm()


def not_polled(member: Member) -> None:
    """What the client does once kafka.max_poll_interval is over."""
    assert isinstance(member.source, KafkaSource)
    consumer = member.source.member.consumer
    assert consumer is not None
    consumer._coordinator.maybe_leave_group()


def past_its_deadline(within: Callable[..., T]) -> Callable[..., T]:
    """Of a commit; whatever else has a deadline keeps to it."""

    def late(deadline_s: float, name: str, work: Callable[[], T]) -> T:
        if name == "kafka-commit":
            raise kafka_sink.DeadlineExceededError("no answer")
        return within(deadline_s, name, work)

    return late
