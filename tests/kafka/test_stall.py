from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from kafka import TopicPartition

from anomaly_daemon.adapters.kafka_sink import KafkaSink
from anomaly_daemon.adapters.kafka_source import KafkaSource
from anomaly_daemon.adapters.kafka_stall import StallWatch
from anomaly_daemon.domain.errors import LogUnavailable
from anomaly_daemon.domain.records import ChangeKind, Message, Partition
from tests.contract.kafka_log import KafkaLog
from tests.contract.logs import until
from tests.kafka.loops import Member, expected

QUIET, BUSY = Partition("readings", 0), Partition("readings", 1)
ENDS = {QUIET: 100, BUSY: 1_000_000}


def seen(watch: StallWatch, seconds: range, *, is_dry: bool, quiet_at: int = 7) -> list[Partition | None]:
    """What the watch says at each of these seconds, while the busy partition goes on."""
    return [watch.stalled(float(second), {QUIET: quiet_at, BUSY: 10 * second}, ENDS, is_dry) for second in seconds]


def test_a_partition_that_stands_still_below_its_end_is_found_after_the_timeout() -> None:
    said = seen(StallWatch(30.0), range(0, 40, 5), is_dry=True)

    assert said[:6] == [None] * 6
    assert said[6] == QUIET


def test_a_partition_at_its_end_may_stand_still_for_ever() -> None:
    assert set(seen(StallWatch(30.0), range(0, 1000, 5), is_dry=True, quiet_at=100)) == {None}


def test_a_partition_that_moves_is_well() -> None:
    watch = StallWatch(30.0)

    assert {watch.stalled(float(second), {QUIET: second // 25}, ENDS, True) for second in range(0, 1000, 5)} == {None}


def test_a_partition_waiting_its_turn_behind_others_is_given_ten_times_as_long() -> None:
    said = seen(StallWatch(30.0), range(0, 310, 5), is_dry=False)

    assert said[:60] == [None] * 60
    assert said[60] == QUIET


def test_one_late_look_after_a_long_pause_accuses_nobody() -> None:
    watch = StallWatch(30.0)

    assert watch.stalled(0.0, {QUIET: 7}, ENDS, True) is None
    assert watch.stalled(500.0, {QUIET: 7}, ENDS, True) is None


def test_a_partition_that_was_taken_away_is_forgotten() -> None:
    watch = StallWatch(30.0)
    seen(watch, range(0, 25, 5), is_dry=True)
    watch.stalled(25.0, {BUSY: 1}, ENDS, True)

    assert seen(watch, range(30, 55, 5), is_dry=True) == [None] * 5


def test_a_partition_that_falls_silent_on_a_broker_is_noticed_named_and_read_on_while_the_others_go_on(
    log: KafkaLog, fresh: Callable[[str], str]
) -> None:
    topic, alerts, group = fresh("readings"), fresh("alerts"), fresh("detectors")
    log.create(topic, 2)
    log.create(alerts, 1)
    silent, busy = Partition(topic, 0), Partition(topic, 1)

    def append(*numbers: int) -> None:
        log.append(Message(topic, None, b"1", partition_number=number) for number in numbers)

    source = KafkaSource(log.bootstrap, log.kafka, [topic], group, "one", 500, answer_timeout_s=4.0, stall_timeout_s=3.0)
    with closing(source), closing(KafkaSink(log.bootstrap, log.kafka, f"{group}-one")) as sink:
        member = Member(source, sink, alerts)
        append(*[0, 1] * 300)
        until(lambda: len(member.committed) == 600, member)
        # What the client did of its own accord: it asks the broker for the others only, and says nothing (its issues 3106 and 3131).
        source._connected().pause(TopicPartition(topic, silent.number))
        append(*[0, 1] * 300)
        until(lambda: member.next_offsets[busy] == 600, member)
        assert member.next_offsets[silent] == 300
        until(lambda: len(member.committed) == 1200, member)

    (told,) = member.failures
    assert isinstance(told, LogUnavailable)
    assert f"{silent} brings nothing though it is behind its end" in str(told)
    assert [change.kind for change in member.changes] == [ChangeKind.ASSIGNED, ChangeKind.LOST, ChangeKind.ASSIGNED]
    assert sorted(record.value or b"" for record in log.read(alerts)) == expected({0: 600, 1: 600})
