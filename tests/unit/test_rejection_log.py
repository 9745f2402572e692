from __future__ import annotations

from collections.abc import Sequence

import structlog.testing

from anomaly_daemon.domain.records import Batch, Reason, Record, Rejection
from anomaly_daemon.pipeline.rejection_log import RejectionLog
from tests.clock_by_hand import ClockByHand
from tests.small import P, processor, stream


def rejections(offsets: Sequence[int], reason: Reason = Reason.TIME_MISSING) -> list[Rejection]:
    return [Rejection(Record(P, offset, 0, b"pump-1", b"secret"), reason, "no time in 'secret'") for offset in offsets]


def test_the_first_is_told_at_once_then_once_a_minute_how_many_for_each_reason_and_the_rest_at_the_end() -> None:
    clock = ClockByHand()
    rejection_log = RejectionLog(clock)
    with structlog.testing.capture_logs() as said:
        for second in range(150):
            rejection_log.note(rejections([2 * second], Reason.TOMBSTONE) + rejections([2 * second + 1]))
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
    built, _ = processor()
    built.begin(P)
    output = built.process(Batch(stream(1, 4, 160, with_bad=True)), {P: 80})
    built.close()
    assert output.scored is not None
    bad = [rejection.record.offset for rejection in output.scored.rejections]
    new = [offset for offset in bad if offset >= 80]

    rejection_log = RejectionLog(ClockByHand())
    with structlog.testing.capture_logs() as said:
        rejection_log.note(output.rejections)
        rejection_log.tell(is_last=True)

    assert bad[0] < 80
    assert [(line["records"], line["first"]) for line in said] == [(len(new), f"{P} offset {new[0]}")]
