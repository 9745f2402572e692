"""Which rule tells a change that lasts from a fault that goes away: `python -m tests.benchmarks.regime`.

The small detector of the tests judges simulated sensors that change for good, or are faulty for a while, a record a minute; its verdicts go through
the product's own incidents under several rules, and its log scores through river's drift detectors, alone and beside an open incident.
A fault lasts less than `regime.after`, as it is by default; a change from the middle of the stream to its end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river import drift

from anomaly_daemon.domain.records import Batch, Partition, Record
from anomaly_daemon.incidents.incident import OpenIncident
from anomaly_daemon.incidents.machine import IncidentMachine, Judged
from anomaly_daemon.incidents.regime import HISTORY, RegimeRule
from anomaly_daemon.settings import Regime
from tests import small

STEPS, ONSET, ENTITIES, WARMUP = 4000, 2000, 10, 64
SUSPECT_LEARNING = (0.1, 0.0)
AFTER_S, STEP_S = Regime().after or 0.0, 60
AFTER = round(AFTER_S / STEP_S)
ASSIGNMENTS = (
    "threshold.z=4",
    "threshold.suspect_z=4",
    f"threshold.warmup_observations={WARMUP}",
    "model.scale_observations=256",
    "incidents.trigger={count: 3, of: 5}",
    "incidents.recovery={count: 10, of: 10}",
    "regime={after: null}",
)
Floats = NDArray[np.float64]


def _noise(random: np.random.Generator) -> Floats:
    return 0.05 * random.normal(size=(STEPS, 3))


def _sines(random: np.random.Generator, entity: int, periods: tuple[float, ...] = (3.0, 5.0, 7.0)) -> Floats:
    return np.asarray(np.sin(np.arange(STEPS)[:, None] / np.array(periods) + entity))


def _between(first: int, last: int) -> NDArray[np.bool_]:
    steps = np.arange(STEPS)
    return (steps >= first) & (steps < last)


def _shift(sign: float, random: np.random.Generator, values: Floats, entity: int) -> Floats:
    values[ONSET:, entity % 3] += sign * random.uniform(0.8, 4)
    return values


def _variance(random: np.random.Generator, values: Floats, entity: int) -> Floats:
    values[ONSET:] += random.uniform(0.3, 1) * random.normal(size=(STEPS - ONSET, 3))
    return values


def _season(random: np.random.Generator, values: Floats, entity: int) -> Floats:
    new = _sines(random, entity, (random.uniform(1, 2), random.uniform(9, 14), random.uniform(1.5, 2.5))) + _noise(random)
    values[ONSET:] = new[ONSET:]
    return values


def _spikes(random: np.random.Generator, values: Floats, entity: int) -> Floats:
    """Single wild records for two days, one in twenty."""
    at = _between(ONSET, STEPS) & (random.random(STEPS) < 0.05)
    values[at, entity % 3] += random.uniform(3, 8)
    return values


def _while(random: np.random.Generator) -> int:
    """From a sixth to five sixths of `regime.after`, in steps."""
    return int(random.integers(AFTER // 6, AFTER * 5 // 6))


def _drift(random: np.random.Generator, values: Floats, entity: int) -> Floats:
    """Away for a while, and back."""
    length = _while(random)
    values[ONSET : ONSET + length, entity % 3] += random.uniform(1, 4) * np.sin(np.linspace(0, np.pi, length))
    return values


def _hours(random: np.random.Generator, values: Floats, entity: int) -> Floats:
    """Another level for a while."""
    values[ONSET : ONSET + _while(random), entity % 3] += random.uniform(1, 5)
    return values


def _bursts(random: np.random.Generator, values: Floats, entity: int) -> Floats:
    """Half an hour of trouble every two hours: nothing that lasts, and nothing that ends."""
    at = _between(ONSET, STEPS) & (np.arange(STEPS) % 120 < 30)
    values[at, entity % 3] += random.uniform(1, 4)
    return values


def _calm(random: np.random.Generator, values: Floats, entity: int) -> Floats:
    return values


CHANGES: Mapping[str, Callable[[np.random.Generator, Floats, int], Floats]] = {
    "level up": partial(_shift, 1.0),
    "level down": partial(_shift, -1.0),
    "variance": _variance,
    "season": _season,
}
FAULTS: Mapping[str, Callable[[np.random.Generator, Floats, int], Floats]] = {
    "spikes": _spikes,
    "drift": _drift,
    "hours": _hours,
    "bursts": _bursts,
    "calm": _calm,
}


@dataclass(frozen=True)
class Seen:
    """What the detector made of one entity, by step."""

    scores: Floats
    is_anomaly: NDArray[np.bool_]


def judged(kind: str, change: Callable[[np.random.Generator, Floats, int], Floats], suspect_learning: float) -> list[Seen]:
    """Ten entities of one kind through the real line."""
    random = np.random.default_rng([0, *kind.encode()])
    streams = [change(random, _sines(random, entity) + _noise(random), entity) for entity in range(ENTITIES)]
    partition = Partition("readings", 0)
    built, _ = small.processor(*ASSIGNMENTS, f"threshold.suspect_learning={suspect_learning}")
    built.begin(partition)
    parts = []
    for first in range(0, STEPS, 500):
        records = [
            Record(partition, step * ENTITIES + entity, 0, b"%d" % entity, _body(stream[step], step))
            for step in range(first, min(first + 500, STEPS))
            for entity, stream in enumerate(streams)
        ]
        output = built.process(Batch(records), {})
        assert output.scored is not None
        parts.append(output.scored.scores)
    built.close()
    scores = np.concatenate([part.anomaly_score for part in parts]).reshape(STEPS, ENTITIES)
    is_anomaly = np.concatenate([part.is_anomaly for part in parts]).reshape(STEPS, ENTITIES)
    return [Seen(scores[:, entity], is_anomaly[:, entity]) for entity in range(ENTITIES)]


def _body(values: Floats, step: int) -> bytes:
    return json.dumps(dict(zip(small.NAMES, values.round(5).tolist(), strict=True)) | {"time": 1_700_000_000 + STEP_S * step}).encode()


@dataclass(frozen=True, slots=True)
class Lasting(RegimeRule):
    """The rule of the product, or with one of its two shares alone."""

    shares: str = "both"

    def is_sustained(self, incident: OpenIncident, at: Judged, recent: int) -> bool:
        if self.shares == "both":
            return RegimeRule.is_sustained(self, incident, at, recent)
        newest = min(HISTORY, incident.observations)
        share = incident.anomalies / incident.observations if self.shares == "whole" else (recent & ((1 << newest) - 1)).bit_count() / newest
        return self.after_us is not None and at.time_us - incident.starts_at_us >= self.after_us and share >= self.share


def by_incident(seen: Seen, share: float, shares: str) -> int | None:
    """The step at which the first change is announced."""
    rule = Lasting("hold", round(AFTER_S * 1_000_000), f"{AFTER} min", share, is_reversible=False, shares=shares)
    return next((turn.at.offset for turn in _turns(seen, rule) if turn.kind == "regime_change"), None)


def _turns(seen: Seen, *rules: RegimeRule) -> Iterator[Any]:
    machine = IncidentMachine("plant", Partition("readings", 0), [small.settings(*ASSIGNMENTS).incidents], rules)
    return iter(machine.advance("0", 0, 0, list(_verdicts(seen))).turns)


def _verdicts(seen: Seen) -> Iterator[Judged]:
    for step, (score, is_anomaly) in enumerate(zip(seen.scores.tolist(), seen.is_anomaly.tolist(), strict=True)):
        yield Judged(step, step * STEP_S * 1_000_000, is_anomaly, step >= WARMUP, score, 1.0, 0.0, 0.0)


def by_drift(seen: Seen, make: Callable[[], Any]) -> int | None:
    """The first step after a day's warm-up at which a drift detector sees the log score move."""
    detector = make()
    for step, value in enumerate(_log_scores(seen)):
        detector.update(value)
        if detector.drift_detected and step >= 1440:
            return step
    return None


def by_drift_and_incident(seen: Seen, make: Callable[[], Any]) -> int | None:
    """An incident has lasted, and for the second half of that time the detector saw its log score stay where it was."""
    detector, opened, moved = make(), None, 0
    spans = _spans(seen)
    for step, value in enumerate(_log_scores(seen)):
        detector.update(value)
        if detector.drift_detected:
            moved = step
        opened = next((first for first, last in spans if first <= step <= last), None)
        if opened is not None and step - opened >= AFTER and step - moved >= AFTER // 2 and seen.is_anomaly[step]:
            return step
    return None


def _spans(seen: Seen) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    for turn in _turns(seen):
        if turn.transition.value == "opened":
            spans.append((turn.at.offset, STEPS))
        elif turn.transition.value == "closed":
            spans[-1] = (spans[-1][0], turn.at.offset)
    return spans


def _log_scores(seen: Seen) -> list[float]:
    scores: list[float] = np.log(seen.scores / (1 - seen.scores) + 1e-6).tolist()
    return scores


DETECTORS: Mapping[str, Callable[[], Any]] = {
    "ADWIN": drift.ADWIN,
    "PageHinkley": partial(drift.PageHinkley, mode="up"),
    "KSWIN": partial(drift.KSWIN, seed=0),
}
DECIDERS: Mapping[str, Callable[[Seen], int | None]] = {
    **{
        f"incident, {shares}, {share:.0%}": partial(by_incident, share=share, shares=shares)
        for shares in ("both", "whole", "newest")
        for share in (0.5, 0.8)
    },
    **{name: partial(by_drift, make=make) for name, make in DETECTORS.items()},
    **{f"incident and {name}": partial(by_drift_and_incident, make=make) for name, make in DETECTORS.items()},
}


def main() -> None:
    for suspect_learning in SUSPECT_LEARNING:
        _compare(suspect_learning)


def _compare(suspect_learning: float) -> None:
    """One table: the share of entities of each kind of which a change is announced, for the changes only after it came; false ones; median delay."""
    seen = {kind: judged(kind, change, suspect_learning) for kind, change in {**CHANGES, **FAULTS}.items()}
    print(f"threshold.suspect_learning: {suspect_learning:g}; delay in units of regime.after; false: of {ENTITIES * len(seen)}")
    print(f"{'decides':24s}" + "".join(f"{kind:>12s}" for kind in seen) + f"{'false':>8s}{'delay':>8s}")
    for name, decide in DECIDERS.items():
        found = {kind: [decide(one) for one in entities] for kind, entities in seen.items()}
        steps = [step for kind in CHANGES for step in found[kind] if step is not None]
        delays = [step - ONSET for step in steps if step >= ONSET]
        false = len(steps) - len(delays) + sum(step is not None for kind in FAULTS for step in found[kind])
        shares = "".join(f"{_share(steps, ONSET if kind in CHANGES else 0):12.2f}" for kind, steps in found.items())
        print(f"{name:24s}{shares}{false:8d}{np.median(delays) / AFTER if delays else np.nan:8.2f}", flush=True)


def _share(steps: list[int | None], not_before: int) -> float:
    return float(np.mean([step is not None and step >= not_before for step in steps]))


if __name__ == "__main__":
    main()
