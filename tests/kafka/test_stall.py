from __future__ import annotations

from anomaly_daemon.adapters.kafka_stall import StallWatch
from anomaly_daemon.domain.records import Partition

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
