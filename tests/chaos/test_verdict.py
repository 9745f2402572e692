from __future__ import annotations

import json
from dataclasses import replace

from tests.chaos.verdict import Effects, differences, followed


def alert(offset: int, score: float = 0.5) -> str:
    return json.dumps({"anomaly_score": score, "source_records": {"partition": 0, "last_offset": offset}})


EFFECTS = Effects({(1, 0): [alert(3), alert(8)]}, {}, {0: 10, 1: 4}, {"readings[0]": (10, "abc")})


def test_what_is_the_same_has_no_differences() -> None:
    assert differences(EFFECTS, replace(EFFECTS)) == []


def test_an_alert_told_twice_left_out_moved_or_changed_is_a_difference_and_so_are_offsets_and_state() -> None:
    for told in ([alert(3), alert(8), alert(8)], [alert(3)], [alert(8), alert(3)], [alert(3), alert(8, 0.6)]):
        assert len(differences(replace(EFFECTS, alerts={(1, 0): told}), EFFECTS)) == 1
    assert differences(replace(EFFECTS, committed={0: 9, 1: 4}), EFFECTS) == ["committed: 0: 9 and not 10"]
    assert len(differences(replace(EFFECTS, state={"readings[0]": (10, "abd")}), EFFECTS)) == 1


def test_after_a_gap_what_was_said_before_it_is_followed_by_what_a_beginner_says() -> None:
    rest = replace(EFFECTS, alerts={(1, 0): [alert(8)], (1, 1): [alert(5)]})

    assert followed(EFFECTS, rest, {0: 5}) == replace(EFFECTS, alerts={(1, 0): [alert(3), alert(8)]})
