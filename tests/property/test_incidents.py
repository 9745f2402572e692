from __future__ import annotations

import itertools
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from anomaly_daemon.domain.errors import CheckpointInvalid
from anomaly_daemon.domain.records import Partition, Transition
from anomaly_daemon.incidents.machine import RECENT_MASK, IncidentMachine, Judged, Turn, aged, push
from anomaly_daemon.incidents.regime import RegimeRule
from anomaly_daemon.settings import Incidents, Regime, Window

SECOND_US = 1_000_000
GRADES = (0.0, 0.1, 0.3, 0.6, 0.9)


@dataclass(frozen=True)
class Outcome:
    turns: list[Turn]
    incident_ids: list[str | None]
    recent: int
    state: bytes


@st.composite
def rules(draw: st.DrawFn) -> Incidents:
    def window(of_max: int) -> Window:
        of = draw(st.integers(1, of_max))
        return Window(count=draw(st.integers(1, of)), of=of)

    cooldown, update_every = draw(st.sampled_from(["0", "3s", "20s"])), draw(st.sampled_from(["0", "2s", "10s"]))
    return Incidents(trigger=window(5), recovery=window(6), cooldown=cooldown, update_every=update_every)


RUNS = st.lists(
    st.tuples(
        st.booleans(),  # anomalous
        st.integers(1, 7),  # observations
        st.sampled_from([-2, 0, 1, 1, 5]),  # seconds between them: some come late
        st.sampled_from(GRADES),
        st.sampled_from([0.6, 0.8, 1.0]),  # score
        st.sampled_from([True, True, True, False]),  # judged
    ),
    max_size=12,
)


@st.composite
def streams(draw: st.DrawFn) -> list[Judged]:
    """Observations of one entity, at every second offset of the log."""
    stream, time_us = list[Judged](), 0
    for is_anomaly, length, step_s, grade, score, is_judged in draw(RUNS):
        for _ in range(length):
            time_us += step_s * SECOND_US
            weight = 1.0 if is_anomaly else 0.1
            stream.append(Judged(2 * len(stream), time_us, is_anomaly, is_judged, score * weight, 0.01, 0.5, grade * is_anomaly))
    return stream


@st.composite
def regimes(draw: st.DrawFn) -> RegimeRule:
    after, policy = draw(st.sampled_from(["1s", "5s", "30s"])), draw(st.sampled_from(["hold", "accept", "ask"]))
    return RegimeRule.of(Regime(policy=policy, after=after, share=draw(st.sampled_from([0.3, 0.8, 1.0]))), is_reversible=draw(st.booleans()))


def play(stream: list[Judged], settings: Incidents, cuts: set[int], *changes: RegimeRule) -> Outcome:
    """The stream in pieces that end before each position in `cuts`, the machine saved and restored at each."""
    machine = IncidentMachine("plant", Partition("readings", 0), [settings], changes)
    recent, turns, incident_ids = 0, list[Turn](), list[str | None]()
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(stream)), len(stream)]
    for first, last in itertools.pairwise(edges):
        while first < last:
            kept, before = machine.kept("pump-7"), machine.to_bytes()
            assert machine.advance("pump-7", 0, recent, stream[first:last]).incident_ids
            machine.put_back("pump-7", kept)
            assert machine.to_bytes() == before
            advance = machine.advance("pump-7", 0, recent, stream[first:last])
            recent = advance.recent
            turns += advance.turns
            incident_ids += advance.incident_ids
            first += len(advance.incident_ids)
        state = machine.to_bytes()
        machine = IncidentMachine("plant", Partition("readings", 0), [settings], changes)
        machine.restore(state)
    return Outcome(turns, incident_ids, recent, machine.to_bytes())


@given(streams(), rules(), st.sets(st.integers(0, 84), max_size=8))
def test_turns_and_state_do_not_depend_on_where_the_log_is_cut_or_the_machine_restored(
    stream: list[Judged], settings: Incidents, cuts: set[int]
) -> None:
    assert play(stream, settings, cuts) == play(stream, settings, set())


@given(streams(), rules(), regimes(), st.sets(st.integers(0, 84), max_size=8))
def test_changes_do_not_depend_on_cuts_either(stream: list[Judged], settings: Incidents, change: RegimeRule, cuts: set[int]) -> None:
    assert play(stream, settings, cuts, change) == play(stream, settings, set(), change)


@given(streams(), rules(), regimes())
def test_a_held_change_is_open_only_inside_its_incident_and_is_announced_once_for_it(
    stream: list[Judged], settings: Incidents, change: RegimeRule
) -> None:
    turns = play(stream, settings, set(), change).turns
    opened = [turn for turn in turns if turn.transition is Transition.OPENED]
    readings = {turn.first_offset for turn in opened if turn.kind != "regime_change"}
    changes = [turn.first_offset for turn in opened if turn.kind == "regime_change"]

    assert len(changes) == len(set(changes))
    assert set(changes) <= readings
    if change.policy != "accept":
        ends = {turn.first_offset: turn.at.offset for turn in turns if turn.transition is Transition.CLOSED and turn.kind != "regime_change"}
        over = {turn.first_offset: turn.at.offset for turn in turns if turn.transition is Transition.CLOSED and turn.kind == "regime_change"}
        assert over == {offset: end for offset, end in ends.items() if offset in changes}


@given(streams(), rules())
def test_every_incident_opens_once_closes_at_most_once_and_numbers_its_turns_without_a_gap(stream: list[Judged], settings: Incidents) -> None:
    outcome = play(stream, settings, set())
    by_incident: dict[str, list[Turn]] = {}
    for turn in outcome.turns:
        by_incident.setdefault(turn.incident_id, []).append(turn)

    for turns in by_incident.values():
        assert [turn.sequence for turn in turns] == list(range(1, len(turns) + 1))
        assert turns[0].transition is Transition.OPENED
        assert all(turn.transition is Transition.UPDATED for turn in turns[1:-1])
        assert all(turn.transition is not Transition.OPENED for turn in turns[1:])
    closed = [turns[-1].transition is Transition.CLOSED for turns in by_incident.values()]
    assert all(closed[:-1]), "an incident opened before the one before it had closed"


@given(streams(), rules())
def test_no_incident_opens_inside_a_cooldown(stream: list[Judged], settings: Incidents) -> None:
    turns = play(stream, settings, set()).turns
    times_us = {one.offset: one.time_us for one in stream if one.is_judged}
    closed: Turn | None = None
    for turn in turns:
        if turn.transition is Transition.CLOSED:
            closed = turn
        elif turn.transition is Transition.OPENED and closed is not None:
            between = [time_us for offset, time_us in times_us.items() if closed.at.offset < offset <= turn.at.offset]
            assert settings.cooldown == 0 or max(between) - closed.at.time_us >= settings.cooldown * 1e6


@given(streams(), rules())
def test_turn_describes_the_observations_of_its_incident(stream: list[Judged], settings: Incidents) -> None:
    outcome = play(stream, settings, set())
    for turn in outcome.turns:
        inside = [one for one, owner in zip(stream, outcome.incident_ids, strict=True) if owner == turn.incident_id and one.is_judged]
        seen = [one for one in inside if one.offset <= turn.at.offset]
        anomalous = [one for one in seen if one.is_anomaly]
        assert (turn.first_offset, turn.last_offset) == (anomalous[0].offset, anomalous[-1].offset)
        assert turn.peak_score == max(one.anomaly_score for one in anomalous)
        assert 0 <= turn.anomalies - len(anomalous) <= turn.observations - len(seen) < settings.trigger.of
        assert 1 <= turn.anomalies <= turn.observations
        assert (turn.ends_at_us is None) == (turn.transition is not Transition.CLOSED)
        assert turn.ends_at_us is None or turn.starts_at_us <= turn.ends_at_us
        assert turn.since_us <= turn.at.time_us


@given(st.binary(max_size=200))
@settings(max_examples=50)
def test_any_bytes_are_refused_or_restored_never_a_crash(state: bytes) -> None:
    machine = IncidentMachine("plant", Partition("readings", 0), [Incidents()])
    try:
        machine.restore(state)
    except CheckpointInvalid:
        assert machine.open_count == 0


@given(st.integers(0, RECENT_MASK), st.integers(0, 200))
def test_a_history_that_ages_is_as_if_each_normal_verdict_had_been_pushed(recent: int, observations: int) -> None:
    pushed = recent
    for _ in range(observations):
        pushed = push(pushed, is_anomaly=False)
    assert aged(recent, observations) == pushed
