"""Silence and data quality, record by record: against a plain reference, and on the whole line however it is cut."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from anomaly_daemon.domain.records import Alert, Record
from anomaly_daemon.incidents.silence import Heard, Silence, SilenceTurn
from anomaly_daemon.incidents.watermark import UNKNOWN_US, Watermark
from tests.small import P, judge

LIMITS: tuple[int | None, ...] = (5, 9, None)
TTL = 30
steps = st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0, 0, 1, 2, 4, 7, 12, 40]), st.booleans()), min_size=1, max_size=60)
cuts = st.lists(st.integers(1, 59), max_size=8)


def profile_of(entity: str) -> int:
    return int(entity[-1]) % len(LIMITS)


def plain(marks: Sequence[int], entities: Sequence[str], forgotten: Sequence[tuple[int, str]]) -> list[SilenceTurn]:
    """What is silent, looked up for every entity at every record."""
    heard: dict[str, Heard] = {}
    silent: set[str] = set()
    turns = []
    for position, (mark, entity) in enumerate(zip(marks, entities, strict=True)):
        here = []
        for _, gone in [one for one in forgotten if one[0] == position]:
            if gone in silent:
                here.append(SilenceTurn("forgotten", gone, position, mark, heard[gone]))
                silent.remove(gone)
            heard.pop(gone, None)
        if entity in silent:
            here.append(SilenceTurn("returned", entity, position, mark, heard[entity]))
            silent.remove(entity)
        heard[entity] = Heard(mark, position)
        for other, last in list(heard.items()):
            limit = LIMITS[profile_of(other)]
            if other not in silent and limit is not None and mark > last.time_us + limit:
                here.append(SilenceTurn("silent", other, position, mark, last))
                silent.add(other)
            if other in silent and mark > last.time_us + TTL:
                here.append(SilenceTurn("expired", other, position, mark, last))
                silent.remove(other)
                del heard[other]
        turns += sorted(here, key=lambda turn: turn.heard.offset)
    return turns


@given(steps, cuts)
def test_turns_of_silence_are_those_of_a_look_at_everybody_at_every_record_however_the_log_is_cut(
    stream: list[tuple[int, int, bool]], found: list[int]
) -> None:
    marks = np.cumsum([step for _, step, _ in stream])
    entities = [f"pump-{number}" for number, _, _ in stream]
    forgotten = [(place, f"pump-{(number + 1) % 6}") for place, (number, _, is_full) in enumerate(stream) if is_full and place % 3 == 0]
    expected = plain(marks.tolist(), entities, forgotten)
    silence, turns = Silence(TTL, LIMITS, profile_of), list[SilenceTurn]()

    for first, last in itertools.pairwise(sorted({0, *(cut for cut in found if cut < len(stream)), len(stream)})):
        gone = [(place - first, entity) for place, entity in forgotten if first <= place < last]
        part = silence.advance(marks[first:last], range(first, last), entities[first:last], gone)
        turns += [replace(turn, position=turn.position + first) for turn in part]
        entries = silence.entries()
        silence = Silence(TTL, LIMITS, profile_of)
        silence.restore(entries)

    assert turns == expected


@given(steps, cuts, st.sampled_from([None, 3, 10]))
def test_the_watermark_does_not_depend_on_where_the_log_is_cut(stream: list[tuple[int, int, bool]], found: list[int], leap_us: int | None) -> None:
    times = np.cumsum([step for _, step, _ in stream]) * np.where([is_back for *_, is_back in stream], 1, 2)
    trusted = np.array([step != 2 for _, step, _ in stream])
    entities = [str(number) for number, _, _ in stream]
    whole = Watermark().advance(times, trusted, entities, leap_us)
    piecewise, parts = Watermark(), []

    for first, last in itertools.pairwise(sorted({0, *(cut for cut in found if cut < len(stream)), len(stream)})):
        parts.append(piecewise.advance(times[first:last], trusted[first:last], entities[first:last], leap_us))
        piecewise = Watermark(piecewise.time_us, piecewise.leap)

    assert np.concatenate(parts).tolist() == whole.tolist()
    assert (np.diff(whole[whole != UNKNOWN_US]) >= 0).all()


FAULTY = (
    "incidents.silence_after=8m",
    "overrides=[{match: pump-1, incidents: {silence_after: 20m}}]",
    "quality={clock_ahead: 5m, late: 10m, stuck_after: 12m}",
    "record.features=[{name: flow, possible: [-2, 2]}, {name: pressure}, {name: current}]",
)
START_S = 1_700_000_000


def stream(seed: int, entities: int, length: int = 160) -> list[Record]:
    """Pumps at random, each for stretches silent, ahead, late, stuck or beyond its range."""
    generator = np.random.default_rng(seed)
    records: list[Record] = []
    states, until = ["well"] * entities, [0] * entities
    for minute in range(length):
        entity = int(generator.integers(entities))
        if minute >= until[entity]:
            states[entity] = str(generator.choice(["well", "well", "away", "ahead", "late", "stuck", "beyond"]))
            until[entity] = minute + int(generator.integers(5, 50))
        state = states[entity]
        if state == "away":
            entity = (entity + 1) % entities
            state = states[entity] if states[entity] != "away" else "well"
        time_s = START_S + 60 * minute
        shown_s = time_s + (7200 if state == "ahead" else -3600 if state == "late" else 0)
        flow = 9.0 if state == "beyond" else 0.25 if state == "stuck" else round(float(generator.normal(0, 0.3)), 4)
        pressure, current = generator.normal(0, 0.3, 2).round(4).tolist()
        value = json.dumps({"flow": flow, "pressure": pressure, "current": current, "time": shown_s}).encode()
        records.append(Record(P, len(records), time_s * 1000, b"pump-%d" % entity, value))
    return records


def kinds(alerts: Sequence[Alert]) -> set[str]:
    return {alert.body["kind"] for alert in alerts}


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 20), st.integers(2, 6), st.lists(st.integers(1, 159), max_size=12), st.integers(1, 159))
def test_no_bit_depends_on_cuts_a_restart_spilling_or_a_full_table(seed: int, entities: int, found: list[int], restart_at: int) -> None:
    records = stream(seed, entities)

    assert judge(records, found, *FAULTY, restart_at=restart_at) == judge(records, (), *FAULTY)
    assert judge(records, found, *FAULTY, "engine.resident_max=2") == judge(records, (), *FAULTY)
    assert judge(records, found, *FAULTY, "engine.entities_max=3") == judge(records, (), *FAULTY, "engine.entities_max=3")


def test_such_streams_are_worth_comparing() -> None:
    alerts = [alert for seed in range(4) for alert in judge(stream(seed, 4), (), *FAULTY).alerts]

    assert kinds(alerts) >= {"silence", "data_quality"}
    said = " ".join(str(alert.body["explanation"]) for alert in alerts if alert.body["kind"] == "data_quality")
    assert all(words in said for words in ("2 h ahead", "late", "cannot be"))
