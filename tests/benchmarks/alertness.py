"""Whether an entity is still alert after what it went through: `python -m tests.benchmarks.alertness [--set KEY=VALUE …]`.

The product's own `train` and `replay` under default settings: six entities for each thing that may happen, a record a minute, four features that
follow each other and the hour; six more, of three normal days, are trained on. Then the same entities have faults of twenty deviations in one
feature for half an hour. A fault is told when an alert within it, or ten records later, lays .3 or more of the evidence on that feature. False:
incidents that open at any other time. About a minute.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.quality.streams import judge, train

Values = NDArray[np.float64]
Features = dict[str, NDArray[Any]]
NUMBERS = ("a", "b", "c", "d")
DEVIATIONS = {"a": 1.25, "b": 0.77, "c": 1.1, "d": 2.0}
MEANS = {"a": 10.0, "b": 5.0, "c": -3.0, "d": 100.0}
ENTITIES, DAY, HALF_HOUR, SETTLED = 6, 1440, 30, 3168
START = datetime(2026, 1, 1, tzinfo=UTC)
_LATER, _SHARE = 10, 0.3
_SHOPS, _VISITS = ("s0", "s1", "s2", "s3", "s4"), (0.5, 0.25, 0.15, 0.07, 0.03)
_SETTINGS = """detector_id: alertness
record:
  entity: entity
  time: {path: timestamp}
  features: [%s]
training: {epochs: 8}
"""


@dataclass(frozen=True, slots=True)
class Case:
    """What happens to an entity of so many records, within `during`; then where faults are asked for, of which feature, how many deviations.

    Of no deviations: what happens is itself the fault.
    """

    name: str
    records: int
    happens: Callable[[Features], None]
    during: range
    faults: tuple[tuple[int, str, float], ...]
    with_shop: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """Of each fault, how many of the entities had it told; false incidents, lasting changes announced, and days of all entities."""

    faults: tuple[int, ...]
    false: int
    changes: int
    days: float


def cases() -> Iterator[Case]:
    """All that may happen."""
    nothing = range(0)
    yield Case("nothing", 4 * DAY, lambda _: None, nothing, ())
    yield Case("nothing, then weaker faults", SETTLED + 1200, lambda _: None, nothing, ((SETTLED, "b", 6), (SETTLED + 600, "b", 4)))
    for at in (3, 30, 100):
        yield Case(f"one reading of 65535 at record {at}", 2600, _set("b", at, 1, 65535.0), range(at, at + 1), _asked(700, 2500))
    for at in (20, 60, 200):
        yield Case(f"a fault at record {at}", 2600, lambda _: None, nothing, _asked(at, 900, 2500))
    for at in (20, 50):
        yield Case(f"200 deviations at record {at}, five records", 1000, _add("b", at, 5, 200), range(at, at + 5), ((at, "b", 0), *_asked(900)))
    yield Case(
        "100 fleet deviations away from the first",
        3100,
        _everywhere(lambda values, name: values + 100 * DEVIATIONS[name]),
        range(16),
        _asked(1500, 3000),
    )
    yield Case(
        "ten times as wide",
        3100,
        _everywhere(lambda values, name: MEANS[name] + 10 * (values - MEANS[name])),
        range(16),
        _asked(1500, deviations=200),
    )
    for hours in (10, 28):
        lasts = range(SETTLED, SETTLED + 60 * hours)
        after = (lasts.stop - 90, lasts.stop + 100, lasts.stop + 400, lasts.stop + 2000)
        yield Case(f"20 deviations of another feature, {hours} h", lasts.stop + 2200, _add("a", lasts.start, len(lasts), 20), lasts, _asked(*after))
    for hours in (2, 7, 20):
        lasts = range(SETTLED, SETTLED + 60 * hours)
        yield Case(f"all constant, {hours} h", lasts.stop + 800, _rest(lasts), lasts, _asked(*(lasts.stop + later for later in (60, 200, 700))))
    yield Case(
        "all constant each night", 5 * DAY, _rest(*(range(night, night + 480) for night in range(960, 5 * DAY, DAY))), nothing, _asked(5960, 6460)
    )
    yield Case(
        "one constant, 7 h", SETTLED + 1000, _set("a", SETTLED, 420, 10.0), range(SETTLED, SETTLED + 430), _asked(SETTLED + 200, SETTLED + 500)
    )
    gaps = [range(at, at + 60) for at in range(SETTLED, SETTLED + 3000, 300)]
    yield Case("one missing for an hour, ten times", SETTLED + 3600, _missing("a", *gaps), nothing, _asked(SETTLED + 310, SETTLED + 3500))
    yield Case("one missing for 28 h", SETTLED + 2400, _missing("a", range(SETTLED, SETTLED + 1700)), nothing, _asked(SETTLED + 1200, SETTLED + 2200))
    swings = range(SETTLED, SETTLED + 240)
    yield Case("1e300 and -1e300 in turn, 4 h", SETTLED + 600, _swing(swings), swings, _asked(SETTLED + 120, SETTLED + 300, SETTLED + 540))
    shops = (1900, 2400, 3200)
    yield Case("a category never seen, for good", 3300, _shop(slice(1600, None)), range(1600, 1800), _asked(*shops), with_shop=True)
    yield Case(
        "half of the records of a category never seen", 3300, _shop(slice(1600, None), "s0"), range(1600, 1800), _asked(*shops), with_shop=True
    )


def measure(wanted: Sequence[Case], assignments: Sequence[str] = (), entities: int = ENTITIES) -> list[Told]:
    """What is told of each case; cases with a shop are of a detector of their own."""
    found: dict[str, Told] = {}
    for with_shop in sorted({case.with_shop for case in wanted}):
        names = ("a", "b", "shop") if with_shop else NUMBERS
        mine = [case for case in wanted if case.with_shop == with_shop]
        with TemporaryDirectory() as name:
            folder = Path(name)
            config = folder / "settings.yaml"
            config.write_text(_SETTINGS % ", ".join("{name: shop, kind: category}" if one == "shop" else f"{{name: {one}}}" for one in names))
            for seed in range(ENTITIES):
                _write(folder / "train" / f"normal-{seed}.csv", f"normal-{seed}", _normal(seed, 3 * DAY), names)
            for number, case in enumerate(mine):
                for seed in range(entities):
                    _write(folder / "all" / f"{number}-{seed}.csv", f"{number}-{seed}", _lived(case, 1000 * (number + 1) + seed), names)
            train(config, folder, assignments)
            judge(config, folder, folder / "scores.parquet", assignments)
            alerts = [json.loads(line) for line in (folder / "alerts.jsonl").read_text().splitlines()]
        for number, case in enumerate(mine):
            found[case.name] = _told(case, [[one for one in alerts if one["entity"] == f"{number}-{seed}"] for seed in range(entities)])
    return [found[case.name] for case in wanted]


def _told(case: Case, alerts: Sequence[list[dict[str, Any]]]) -> Told:
    spans = [range(at, at + HALF_HOUR + _LATER) for at, *_ in case.faults]

    def is_named(one: dict[str, Any], span: range, feature: str) -> bool:
        shares = {share["feature"]: share["contribution"] for share in one["features"] or ()}
        return one["status"] == "firing" and _minute(one["data_end_time"]) in span and (shares.get(feature) or 0) >= _SHARE

    told = [sum(any(is_named(one, span, feature) for one in own) for own in alerts) for span, (_, feature, _) in zip(spans, case.faults, strict=True)]
    firsts = [one for own in alerts for one in own if one["sequence"] == 1]
    excused = [*spans, range(case.during.start, case.during.stop + _LATER)] if case.during else spans
    false = sum(one["kind"] != "regime_change" and not any(_minute(one["starts_at"]) in span for span in excused) for one in firsts)
    return Told(tuple(told), false, sum(one["kind"] == "regime_change" for one in firsts), len(alerts) * case.records / DAY)


def _minute(time: str) -> int:
    return round((datetime.fromisoformat(time) - START).total_seconds() / 60)


def _normal(seed: int, records: int) -> Features:
    random, minutes = np.random.default_rng(seed), np.arange(records)
    day = np.sin(2 * np.pi * minutes / DAY + 0.3 * seed)
    pushes, common = 0.43 * random.normal(size=(records, 2)), np.zeros((records + 1, 2))
    for at, push in enumerate(pushes):
        common[at + 1] = 0.9 * common[at] + push
    first, second = common[1:].T
    noise = 0.3 * random.normal(size=(3, records))
    shop = np.array(random.choice(_SHOPS, size=records, p=_VISITS), object)
    return {
        "a": MEANS["a"] + day + first + noise[0],
        "b": MEANS["b"] + 0.5 * first + 0.5 * second + noise[1],
        "c": MEANS["c"] + second + 0.5 * day + noise[2],
        "d": MEANS["d"] + 2 * random.normal(size=records),
        "shop": shop,
    }


def _lived(case: Case, seed: int) -> Features:
    features = _normal(seed, case.records)
    case.happens(features)
    for at, feature, deviations in case.faults:
        features[feature][at : at + HALF_HOUR] += deviations * DEVIATIONS[feature]
    return features


def _asked(*places: int, deviations: float = 20) -> tuple[tuple[int, str, float], ...]:
    """Faults of b."""
    return tuple((at, "b", deviations) for at in places)


def _set(name: str, at: int, records: int, value: float) -> Callable[[Features], None]:
    def happens(features: Features) -> None:
        features[name][at : at + records] = value

    return happens


def _add(name: str, at: int, records: int, deviations: float) -> Callable[[Features], None]:
    def happens(features: Features) -> None:
        features[name][at : at + records] += deviations * DEVIATIONS[name]

    return happens


def _everywhere(changed: Callable[[Values, str], Values]) -> Callable[[Features], None]:
    def happens(features: Features) -> None:
        features.update({name: changed(features[name], name) for name in NUMBERS})

    return happens


def _rest(*spans: range) -> Callable[[Features], None]:
    def happens(features: Features) -> None:
        for span in spans:
            for name in NUMBERS:
                features[name][span.start : span.stop] = MEANS[name]

    return happens


def _missing(name: str, *spans: range) -> Callable[[Features], None]:
    def happens(features: Features) -> None:
        for span in spans:
            features[name][span.start : span.stop] = np.nan

    return happens


def _swing(span: range) -> Callable[[Features], None]:
    def happens(features: Features) -> None:
        features["a"][span.start : span.stop] = 1e300 * (1 - 2 * (np.arange(len(span)) % 2))

    return happens


def _shop(rows: slice, known: str | None = None) -> Callable[[Features], None]:
    def happens(features: Features) -> None:
        shops = features["shop"][rows]
        shops[(shops == known) if known else slice(None)] = "new"

    return happens


def _write(path: Path, entity: str, features: Features, names: Sequence[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["entity", "timestamp", *names])
        for minute, values in enumerate(zip(*(features[name].tolist() for name in names), strict=True)):
            known = ["" if value != value else value for value in values]
            rows.writerow([entity, (START + timedelta(minutes=minute)).isoformat(), *known])


def main() -> int:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting other than its default")
    wanted = list(cases())
    print(f"{'':46s} faults told, of {ENTITIES} each   false incidents, days   lasting changes")
    for case, told in zip(wanted, measure(wanted, reader.parse_args().set), strict=True):
        print(f"{case.name:46s} {', '.join(map(str, told.faults)):24s} {told.false:8d} in {told.days:4.0f} {told.changes:16d}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
