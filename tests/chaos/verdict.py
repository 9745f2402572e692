"""What a group of daemons left behind, and whether it is what one that nobody harmed left of the same input."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kafka.consumer.fetcher import ConsumerRecord

from tests.chaos.reader import Groups, read
from tests.end_to_end.harness import Site

Lane = tuple[int, int]
_SHOWN, _FIELDS_SHOWN = 6, 5


@dataclass(frozen=True, slots=True)
class Effects:
    """All effects of a group, each list in the order of the log.

    alerts, dead_letters: (partition written, partition read) → what was written; detected_at and the broker's timestamps aside.
    committed: partition → next offset. state: partition → offset and digest of the newest checkpoint.
    """

    alerts: Mapping[Lane, Sequence[str]]
    dead_letters: Mapping[Lane, Sequence[str]]
    committed: Mapping[int, int]
    state: Mapping[str, tuple[int, str]]


@dataclass(slots=True)
class Verdict:
    """Of one input: how much it was, and every difference; none where the verdict is equal."""

    records: int = 0
    alerts: int = 0
    differences: list[str] = field(default_factory=list)


def followed(whole: Effects, rest: Effects, gaps: Mapping[int, int]) -> Effects:
    """What is expected of a group that was as `whole` up to a gap at these offsets of some partitions, and there began anew as `rest`."""

    def both(before: Mapping[Lane, Sequence[str]], after: Mapping[Lane, Sequence[str]], offset_of: Callable[[str], int]) -> dict[Lane, Sequence[str]]:
        lanes = {
            lane: [one for one in before.get(lane, ()) if offset_of(one) < gaps[lane[1]]] + list(after.get(lane, ()))
            if lane[1] in gaps
            else before.get(lane, ())
            for lane in {*before, *after}
        }
        return {lane: told for lane, told in lanes.items() if told}

    state = {name: (rest if int(name.rpartition("[")[2][:-1]) in gaps else whole).state[name] for name in rest.state}
    return Effects(both(whole.alerts, rest.alerts, last_offset), both(whole.dead_letters, rest.dead_letters, _letter_offset), rest.committed, state)


def effects_of(site: Site, bootstrap: str, aside: Sequence[str] = ()) -> Effects:
    """Read by the independent reader. aside: more fields of an alert that may differ, by dotted path."""
    settings = site.settings
    groups = Groups(bootstrap)
    try:
        committed = groups.committed(settings.input.group, settings.input.topics[0])
    finally:
        groups.close()
    return Effects(
        alerts=_lanes([_alert(record, ("detected_at", *aside)) for record in read(bootstrap, settings.output.alerts_topic)]),
        dead_letters=_lanes([_dead_letter(record) for record in read(bootstrap, settings.output.dead_letter_topic)]),
        committed=committed,
        state=site.state(),
    )


def differences(harmed: Effects, unharmed: Effects) -> list[str]:
    """One sentence for each kind of effect that is not the same; nothing where all are."""
    found = [_between(name, getattr(harmed, name), getattr(unharmed, name)) for name in ("alerts", "dead_letters")]
    found += [
        [f"{name}: {key}: {mine.get(key)} and not {theirs.get(key)}" for key in sorted({*mine, *theirs}, key=str) if mine.get(key) != theirs.get(key)]
        for name, mine, theirs in (("committed", harmed.committed, unharmed.committed), ("state", harmed.state, unharmed.state))
    ]
    return [sentence for sentences in found for sentence in sentences]


def contradictions(effects: Effects, records: Sequence[ConsumerRecord]) -> list[str]:
    """What the input alone says is wrong: a broken record without its one dead letter, an incident told with a gap or twice."""
    broken = Counter((record.partition, record.offset) for record in records if not _is_json(record.value))
    lettered: Counter[tuple[int, int]] = Counter()
    for (_, source), letters in effects.dead_letters.items():
        lettered.update((source, _letter_offset(letter)) for letter in letters)
    found = [f"dead letters: {count} of {place}, not {broken[place]}" for place, count in lettered.items() if count != broken[place]]
    found += [f"dead letters: none of {place}" for place in broken if place not in lettered]
    told: dict[str, list[int]] = defaultdict(list)
    for alerts in effects.alerts.values():
        for alert in map(json.loads, alerts):
            told[alert["incident_id"]].append(alert["sequence"])
    found += [f"incident {name}: told as {numbers}" for name, numbers in told.items() if numbers != list(range(1, len(numbers) + 1))]
    ends = Counter(record.partition for record in records)
    found += [
        f"committed: {partition}: {effects.committed.get(partition)} of {end}"
        for partition, end in ends.items()
        if effects.committed.get(partition) != end
    ]
    return found[:_SHOWN]


def _lanes(written: Sequence[tuple[Lane, str]]) -> dict[Lane, list[str]]:
    lanes: dict[Lane, list[str]] = defaultdict(list)
    for lane, text in written:
        lanes[lane].append(text)
    return dict(lanes)


def _alert(record: ConsumerRecord, aside: Sequence[str]) -> tuple[Lane, str]:
    body = json.loads(record.value)
    headers = {name: value.decode() for name, value in record.headers}
    for path in aside:
        owner, _, name = path.rpartition(".")
        (body[owner] if owner else body).pop(name)
    told = {"key": record.key.decode(), **body, "headers": headers}
    return (record.partition, body["source_records"]["partition"]), json.dumps(told, sort_keys=True)


def _dead_letter(record: ConsumerRecord) -> tuple[Lane, str]:
    headers = {name: value.decode() for name, value in record.headers if name != "dead_letter.timestamp_ms"}
    told = {**headers, "key": record.key.decode(), "value": record.value.decode()}
    return (record.partition, int(headers["dead_letter.partition"])), json.dumps(told, sort_keys=True)


def _between(name: str, mine: Mapping[Lane, Sequence[str]], theirs: Mapping[Lane, Sequence[str]]) -> list[str]:
    found = []
    for lane in sorted({*mine, *theirs}):
        ours, others = list(mine.get(lane, ())), list(theirs.get(lane, ()))
        if ours == others:
            continue
        more, fewer = Counter(ours) - Counter(others), Counter(others) - Counter(ours)
        kind = "in another order" if not more and not fewer else f"{more.total()} too many, {fewer.total()} missing"
        first = next((pair for pair in zip(ours, others, strict=False) if pair[0] != pair[1]), None)
        shown = "" if first is None else f"; the first of them: {_fields_apart(*map(json.loads, first))}"
        found.append(f"{name}: of partition {lane[1]}, written to {lane[0]}: {len(ours)} and not {len(others)}: {kind}{shown}")
    return found


def _fields_apart(mine: Mapping[str, object], theirs: Mapping[str, object]) -> str:
    """The fields in which two of them differ, and how."""
    apart = [name for name in sorted({*mine, *theirs}) if mine.get(name) != theirs.get(name)]
    return "; ".join(f"{name} {str(mine.get(name))[:80]} and not {str(theirs.get(name))[:80]}" for name in apart[:_FIELDS_SHOWN])


def last_offset(alert: str) -> int:
    """Of the records that an alert is about."""
    return int(json.loads(alert)["source_records"]["last_offset"])


def _letter_offset(letter: str) -> int:
    return int(json.loads(letter)["dead_letter.offset"])


def _is_json(value: bytes) -> bool:
    try:
        json.loads(value)
    except ValueError:
        return False
    return True
