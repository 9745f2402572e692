from __future__ import annotations

import json
from dataclasses import replace

import pytest

from anomaly_daemon.domain.errors import CheckpointInvalid
from anomaly_daemon.domain.records import Partition, Transition
from anomaly_daemon.incidents.machine import Advance, IncidentMachine, Judged
from anomaly_daemon.settings import Incidents, Window

READINGS = Partition("readings", 3)
SECOND_US = 1_000_000


def rules(trigger: tuple[int, int] = (3, 5), recovery: tuple[int, int] = (2, 2), cooldown: str = "0", update_every: str = "5m") -> Incidents:
    return Incidents(
        trigger=Window(count=trigger[0], of=trigger[1]),
        recovery=Window(count=recovery[0], of=recovery[1]),
        cooldown=cooldown,
        update_every=update_every,
    )


def machine(settings: Incidents | None = None, detector_id: str = "plant") -> IncidentMachine:
    return IncidentMachine(detector_id, READINGS, [settings or rules()])


def judged(verdict: str, offset: int, grade: float = 0.1, score: float | None = None) -> Judged:
    """A: anomalous, n: normal, -: not judged. One a second, offsets from 100."""
    is_anomaly = verdict == "A"
    return Judged(
        offset=100 + offset,
        time_us=offset * SECOND_US,
        is_anomaly=is_anomaly,
        is_judged=verdict != "-",
        anomaly_score=score if score is not None else (0.9 if is_anomaly else 0.1),
        tail_probability=0.001 if is_anomaly else 0.5,
        threshold=0.6,
        grade=grade if is_anomaly else 0.0,
    )


def feed(one: IncidentMachine, verdicts: str, recent: int = 0, start: int = 0, entity: str = "pump-7") -> Advance:
    return one.advance(entity, 0, recent, [judged(verdict, start + position) for position, verdict in enumerate(verdicts)])


def told(advance: Advance) -> list[tuple[str, int, int]]:
    return [(turn.transition.value, turn.sequence, turn.at.offset - 100) for turn in advance.turns]


def test_incident_opens_at_the_observation_that_completes_the_trigger_window() -> None:
    advance = feed(machine(), "nAnAnA")

    assert told(advance) == [("opened", 1, 5)]
    (opened,) = advance.turns
    assert (opened.first_offset, opened.last_offset, opened.starts_at_us, opened.ends_at_us) == (105, 105, 5 * SECOND_US, None)
    assert (opened.observations, opened.anomalies) == (5, 3)


def test_anomalies_too_far_apart_open_nothing() -> None:
    assert feed(machine(), "AnnAnnAnnA").turns == []


def test_incident_closes_after_its_recovery_window_and_ends_at_its_last_anomaly() -> None:
    one = machine()

    advance = feed(one, "AAAAnAnn")

    assert told(advance) == [("opened", 1, 2), ("closed", 2, 7)]
    closed = advance.turns[-1]
    assert (closed.first_offset, closed.last_offset, closed.ends_at_us) == (102, 105, 5 * SECOND_US)
    assert (closed.observations, closed.anomalies, closed.kind) == (8, 5, "collective")
    assert one.open_count == 0
    assert not one.is_tracked("pump-7")


def test_recovery_counts_only_observations_after_the_opening() -> None:
    one = machine(rules(trigger=(2, 5), recovery=(3, 4)))

    assert told(feed(one, "AnnA")) == [("opened", 1, 3)]
    assert told(feed(one, "nn", recent=0b1001, start=4)) == []


def test_records_belong_to_the_incident_from_its_opening_to_its_closing_one() -> None:
    advance = feed(machine(), "AAAAnnn")

    (incident_id,) = {turn.incident_id for turn in advance.turns}
    assert advance.incident_ids == [None, None, *[incident_id] * 4, None]


def test_observations_in_warm_up_neither_open_feed_nor_close() -> None:
    one = machine()

    assert feed(one, "AA---").turns == []
    advance = feed(one, "A--n-n", recent=0b11, start=5)

    assert told(advance) == [("opened", 1, 5), ("closed", 2, 10)]
    assert advance.turns[0].observations == 3
    assert advance.incident_ids == [advance.turns[0].incident_id] * 6


def test_what_one_incident_was_made_of_does_not_open_the_next() -> None:
    advance = feed(machine(rules(trigger=(3, 5), recovery=(1, 1))), "AAAnAA")

    assert told(advance) == [("opened", 1, 2), ("closed", 2, 3)]
    assert advance.recent == 0b11


def test_update_is_announced_when_severity_rises() -> None:
    one = machine()
    grades = [0.1, 0.1, 0.1, 0.2, 0.6, 0.55, 0.8]

    turns = one.advance("pump-7", 0, 0, [judged("A", offset, grade) for offset, grade in enumerate(grades)]).turns

    assert [(turn.transition, turn.sequence, turn.severity, turn.severity_number) for turn in turns] == [
        (Transition.OPENED, 1, "low", 13),
        (Transition.UPDATED, 2, "high", 17),
        (Transition.UPDATED, 3, "critical", 21),
    ]


def test_update_is_announced_at_the_first_anomaly_after_the_interval() -> None:
    advance = feed(machine(rules(recovery=(3, 3), update_every="4s")), "AAAAnAnnAAA")

    assert told(advance) == [("opened", 1, 2), ("updated", 2, 8)]
    assert advance.turns[1].since_us == 2 * SECOND_US


def test_peak_is_the_highest_scoring_anomaly() -> None:
    scores = [0.7, 0.7, 0.8, 0.95, 0.9]
    observations = [judged("A", offset, score=score) for offset, score in enumerate(scores)]
    quiet = [judged("n", offset, score=0.99) for offset in (5, 6)]

    closed = machine().advance("pump-7", 0, 0, observations + quiet).turns[-1]

    assert (closed.peak_score, closed.peak_offset, closed.peak_time_us) == (0.95, 103, 3 * SECOND_US)


@pytest.mark.parametrize(("anomalies", "kind"), [(2, "point"), (3, "point"), (4, "collective")])
def test_incident_of_more_than_three_anomalies_is_collective(anomalies: int, kind: str) -> None:
    closed = feed(machine(rules(trigger=(1, 1))), "A" * anomalies + "nn").turns[-1]

    assert closed.kind == kind


@pytest.mark.parametrize(("anomalies", "share", "kind"), [(30, 0.6, "level_shift"), (30, 0.5, "collective"), (29, 0.6, "collective")])
def test_collective_incident_that_lasts_and_that_charts_carry_is_a_level_shift(anomalies: int, share: float, kind: str) -> None:
    observations = [
        replace(judged("A" if offset < anomalies else "n", offset), evidence=2.0, chart_evidence=2 * share) for offset in range(anomalies + 2)
    ]

    closed = machine(rules(trigger=(1, 1))).advance("pump-7", 0, 0, observations).turns[-1]

    assert (closed.transition, closed.kind) == (Transition.CLOSED, kind)


def test_trigger_inside_a_cooldown_is_counted_once_and_carried_by_the_next_opening() -> None:
    one = machine(rules(cooldown="10s"))

    inside = feed(one, "AAAnn" + "AAAAnnnnn")
    assert told(inside) == [("opened", 1, 2), ("closed", 2, 4)]
    assert one.suppressed_total == 1
    after = feed(one, "nAAA", recent=inside.recent, start=14)

    assert told(after) == [("opened", 1, 17)]
    assert (after.turns[0].suppressed, after.turns[0].suppression_rule) == (1, "cooldown 10s")
    assert after.turns[0].incident_id != inside.turns[0].incident_id


def test_anomaly_that_outlasts_the_cooldown_opens_at_its_end() -> None:
    advance = feed(machine(rules(cooldown="6s")), "AAAnn" + "AAAAAAA")

    assert told(advance)[-1] == ("opened", 1, 10)
    assert advance.turns[-1].suppressed == 1


def test_cooldown_that_suppressed_nothing_is_let_go_at_the_first_observation_after_it() -> None:
    one = machine(rules(cooldown="3s"))

    feed(one, "AAAnnnn")
    assert one.is_tracked("pump-7")
    feed(one, "n", start=7)

    assert not one.is_tracked("pump-7")


def test_each_entity_has_its_own_incident() -> None:
    one = machine()

    ids = {feed(one, "AAA", entity=entity).turns[0].incident_id for entity in ("pump-7", "pump-8")}

    assert len(ids) == one.open_count == 2


def test_incident_id_depends_on_detector_partition_entity_and_opening_offset_only() -> None:
    def opened(detector_id: str = "plant", partition: Partition = READINGS, verdicts: str = "AAA", start: int = 0, entity: str = "pump-7") -> str:
        one = IncidentMachine(detector_id, partition, [rules()])
        return feed(one, verdicts, start=start, entity=entity).turns[0].incident_id

    assert opened() == opened(verdicts="nAnAA", start=-2)
    others = [
        opened("other"),
        opened(partition=Partition("readings", 4)),
        opened(partition=Partition("other", 3)),
        opened(start=1),
        opened(entity="pump-8"),
    ]
    assert len({opened(), *others}) == 6


def test_other_rules_apply_from_the_next_observation_on() -> None:
    one = machine()
    assert feed(one, "AA").turns == []

    one.take_rules([rules(trigger=(2, 3))])

    assert told(feed(one, "A", recent=0b10, start=2)) == [("opened", 1, 2)]


def test_profile_chooses_the_rules() -> None:
    one = IncidentMachine("plant", READINGS, [rules(), rules(trigger=(1, 1))])

    assert one.advance("pump-7", 1, 0, [judged("A", 0)]).turns
    assert not one.advance("pump-8", 0, 0, [judged("A", 0)]).turns


def test_forgotten_entity_is_no_longer_tracked() -> None:
    one = machine()
    feed(one, "AAA")

    one.forget("pump-7")

    assert not one.is_tracked("pump-7")
    assert one.to_bytes() == machine().to_bytes()


def test_restored_machine_goes_on_as_the_saved_one() -> None:
    saved, restored = machine(rules(cooldown="9s")), machine(rules(cooldown="9s"))
    feed(saved, "AAA")
    feed(saved, "AAAnnAAA", entity="pump-ü")

    restored.restore(saved.to_bytes())

    assert restored.to_bytes() == saved.to_bytes()
    assert feed(restored, "Ann", recent=0b111, start=3) == feed(saved, "Ann", recent=0b111, start=3)
    assert restored.suppressed_total == saved.suppressed_total == 1


def test_bytes_do_not_depend_on_the_order_in_which_entities_came() -> None:
    one, other = machine(), machine()
    for entity in ("a", "b"):
        feed(one, "AAA", entity=entity)
    for entity in ("b", "a"):
        feed(other, "AAA", entity=entity)

    assert one.to_bytes() == other.to_bytes()


def _altered(**changes: object) -> bytes:
    return json.dumps({**json.loads(machine().to_bytes()), **changes}).encode()


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        (b"", "not the state"),
        (b"\xff\xfe", "not the state"),
        (b'{"format": 1', "not the state"),
        (b"[]", "not the state"),
        (_altered(open={"pump-7": {}}), "not the state"),
        (_altered(surplus=1), "not the state"),
        (_altered(format=1), "format 1"),
        (_altered(detector_id="other"), "belong to other"),
        (_altered(partition=4), r"belong to plant on readings\[4\]"),
    ],
)
def test_damaged_or_foreign_state_is_refused_and_changes_nothing(damaged: bytes, said: str) -> None:
    one = machine()
    feed(one, "AAA")
    before = one.to_bytes()

    with pytest.raises(CheckpointInvalid, match=said):
        one.restore(damaged)

    assert one.to_bytes() == before


def test_state_with_an_entity_both_open_and_cooling_is_refused() -> None:
    one = machine()
    feed(one, "AAA")
    state = json.loads(one.to_bytes())
    state["cooling"] = {"pump-7": {"until_us": 1, "suppressed": 0}}

    with pytest.raises(CheckpointInvalid, match="both open and cooling"):
        machine().restore(json.dumps(state).encode())
