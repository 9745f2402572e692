from __future__ import annotations

from collections.abc import Sequence

import structlog.testing

from anomaly_daemon.domain.records import Partition, Reason, Record, Rejection
from anomaly_daemon.pipeline.rejection_log import RejectionLog
from tests.clock_by_hand import ClockByHand

WHERE = Partition("readings", 0)


def rejections(offsets: Sequence[int], reason: Reason = Reason.TIME_MISSING) -> list[Rejection]:
    return [Rejection(Record(WHERE, offset, 0, b"pump-1", b"secret"), reason, "no time in 'secret'") for offset in offsets]


def test_the_first_is_told_at_once_then_once_a_minute_how_many_for_each_reason_and_the_rest_at_the_end() -> None:
    clock = ClockByHand()
    rejection_log = RejectionLog(clock)
    with structlog.testing.capture_logs() as said:
        for second in range(150):
            rejection_log.note(rejections([2 * second], Reason.TOMBSTONE) + rejections([2 * second + 1]), {WHERE: 2 * second})
            rejection_log.tell()
            clock.sleep(1.0)
        rejection_log.tell(is_last=True)
        rejection_log.tell(is_last=True)
    assert [(line["records"], line["reasons"], line["first"]) for line in said] == [
        (2, {"tombstone": 1, "time_missing": 1}, "readings[0] offset 0"),
        (120, {"tombstone": 60, "time_missing": 60}, "readings[0] offset 2"),
        (120, {"tombstone": 60, "time_missing": 60}, "readings[0] offset 122"),
        (58, {"tombstone": 29, "time_missing": 29}, "readings[0] offset 242"),
    ]
    assert "secret" not in str(said)


def test_those_that_an_earlier_life_committed_are_not_told_again() -> None:
    rejection_log = RejectionLog(ClockByHand())
    with structlog.testing.capture_logs() as said:
        rejection_log.note(rejections(range(10)), {WHERE: 10})
        rejection_log.tell(is_last=True)
        rejection_log.note(rejections(range(5, 15)), {WHERE: 10})
        rejection_log.tell(is_last=True)
    assert [(line["records"], line["first"]) for line in said] == [(5, "readings[0] offset 10")]
