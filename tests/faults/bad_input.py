"""Bad records among good ones: each rejected with a reason, and the good ones judged as if the bad ones were not there."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from typing import Any

import numpy as np
import psutil

from anomaly_daemon.domain.records import Batch, BatchOutput, Message, Observations, Record, ScoredBatch
from tests.faults.mangling import mangled
from tests.faults.verdict import Verdict
from tests.small import P, processor, stream

_BATCH = 1024
_BAD_PER_GOOD = 10
_MEMORY_MAX_MIB = 64
_WHOLE_BYTES_MAX = 500_000
_NUMBERS = ("anomaly_score", "tail_probability", "threshold", "is_anomaly", "grade", "phase", "deviations")


def run(is_full: bool, seed: int) -> Iterator[Verdict]:
    """The engine in memory."""
    yield mangled_records(1_000_000 if is_full else 20_000, seed)


@dataclass(slots=True)
class Judged:
    """What became of the good records: a digest of each column of their scores, and of each alert without what names an offset."""

    rows: int = 0
    digests: dict[str, Any] = field(default_factory=lambda: defaultdict(blake2b))
    alerts: list[bytes] = field(default_factory=list)

    def take(self, output: BatchOutput) -> None:
        """Count a batch's good records in."""
        assert output.scored is not None
        good = np.array([is_good(record) for record in output.scored.observations.records], np.bool_)
        self.rows += int(good.sum())
        scores = output.scored.scores
        for name, column in ({name: getattr(scores, name) for name in _NUMBERS} | dict(scores.evidence)).items():
            self.digests[name].update(np.ascontiguousarray(column[good]).tobytes())
        told = (without_offsets(alert.body) for alert in output.alerts if alert.entity.startswith("pump-"))
        self.alerts += [blake2b(json.dumps(body, sort_keys=True).encode()).digest() for body in told]

    def differences(self, other: Judged) -> list[str]:
        """How two differ, in words."""
        found = []
        if self.rows != other.rows:
            found.append(f"{self.rows} good records were judged, {other.rows} without the bad ones")
        for name, digest in self.digests.items():
            if digest.digest() != other.digests[name].digest():
                found.append(f"{name} of good records differs from that without the bad ones")
        if self.alerts != other.alerts:
            found.append(f"{len(self.alerts)} alerts of good records, {len(other.alerts)} without the bad ones, or other words")
        return found


def is_good(record: Record) -> bool:
    """Whether it is of the sound stream."""
    return record.key is not None and record.key.startswith(b"pump-")


def without_offsets(alert: Mapping[str, Any]) -> dict[str, Any]:
    """An alert's body but for what names the offset of a record."""
    body = {name: value for name, value in alert.items() if name not in ("incident_id", "source_records")}
    return body | {"peak": {name: value for name, value in body["peak"].items() if name != "offset"}}


def mixed(good: Sequence[Record], bad: int, dice: random.Random) -> Iterator[Record]:
    """The good records in their order, bad ones among them at random; offsets from 0 on."""
    places = set(dice.sample(range(len(good) + bad), len(good)))
    sound, number = iter(good), 0
    for offset in range(len(good) + bad):
        if offset in places:
            one = next(sound)
            yield Record(P, offset, 0, one.key, one.value)
        else:
            message = mangled(dice, number)
            number += 1
            yield Record(P, offset, message.timestamp_ms or 0, message.key, message.value, message.headers)


def mangled_records(times: int, seed: int) -> Verdict:
    """The same good stream with and without mangled records in between."""
    good = stream(seed, 24, times // _BAD_PER_GOOD)
    alone, among = Judged(), Judged()
    with_bad, reasons, failures = _Letters(), Counter[str](), []
    for records, judged, letters in ((iter(good), alone, _Letters()), (mixed(good, times, random.Random(seed)), among, with_bad)):
        built, _ = processor()
        with closing(built):
            built.begin(P)
            while batch := list(islice(records, _BATCH)):
                output = built.process(Batch(batch), {})
                judged.take(output)
                letters.take(batch, output)
                if letters.first_bytes is None:
                    letters.first_bytes = psutil.Process().memory_info().rss
        letters.last_bytes = psutil.Process().memory_info().rss
        failures += letters.failures
    reasons = with_bad.reasons
    grown_mib = (with_bad.last_bytes - (with_bad.first_bytes or 0)) / 2**20
    if grown_mib > _MEMORY_MAX_MIB:
        failures.append(f"memory grew by {grown_mib:.0f} MiB")
    failures += among.differences(alone)
    accepted = times - reasons.total()
    told = (
        f"{reasons.total()} dead letters of {len(reasons)} reasons, {accepted} could be judged after all; {alone.rows} good ones bit for bit as alone"
    )
    return Verdict(
        "records mangled in structure, key, headers and size", times, tuple(failures), f"{told}, {len(alone.alerts)} alerts; {grown_mib:+.0f} MiB"
    )


@dataclass(slots=True)
class _Letters:
    """What is wrong with the dead letters, and how many there were of each reason."""

    reasons: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    first_bytes: int | None = None
    last_bytes: int = 0

    def take(self, batch: Sequence[Record], output: BatchOutput) -> None:
        scored = output.scored
        assert isinstance(scored, ScoredBatch)
        letters = {_whence(message): message for message in output.messages if message.topic == "dead-letters"}
        rejected = {rejection.record.offset: rejection for rejection in scored.rejections}
        judged = _offsets(scored.observations)
        for record in batch:
            if (record.offset in rejected) == (record.offset in judged) or (record.offset in rejected) != (record.offset in letters):
                self.failures.append(f"offset {record.offset}: not exactly one of judged and dead-lettered: {record.value!r:.200}")
        for offset, rejection in rejected.items():
            self.reasons[rejection.reason.value] += 1
            if is_good(rejection.record):
                self.failures.append(f"a good record was rejected: {rejection.detail}")
            if not rejection.detail or not _is_whole(letters[offset], rejection.record):
                self.failures.append(f"offset {offset}: the dead letter is not the record, or says nothing")


def _is_whole(letter: Message, record: Record) -> bool:
    if letter.value != record.value and len(record.value or b"") < _WHOLE_BYTES_MAX:
        return False
    return letter.key == record.key or len(record.key or b"") > _WHOLE_BYTES_MAX


def _whence(message: Message) -> int:
    return int(dict(message.headers)["dead_letter.offset"])


def _offsets(observations: Observations) -> set[int]:
    return {record.offset for record in observations.records}
