"""Values inside the normal range that are wrong in their context: what a trained network finds of 60, beside untrained ones and three controls.

    python -m tests.benchmarks.quality.contextual [--seeds 1] [--worlds plant+till hall+cell] [--set KEY=VALUE]

Every detector is fitted on the clean five sevenths of each stream. A planted anomaly is a hit where one of its records, or of the GRACE after it,
is called; every other record that is called is false. Called is a record whose own running tail says p < 1e-3 and, to compare at an equal price,
one among the strangest that cost FALSE_MAX false records.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from anomaly_daemon.cli import main as anomaly_daemon
from anomaly_daemon.model import fitting
from anomaly_daemon.model.autoencoder import Autoencoder
from anomaly_daemon.model.corpus import Corpus
from anomaly_daemon.model.training import Course, Progress, train_network
from anomaly_daemon.settings import Settings
from tests.benchmarks.quality.contextual_events import CELL, TILL, events
from tests.benchmarks.quality.contextual_streams import HALL, PLANT, Floats, Stream, sensors
from tests.benchmarks.quality.controls import CONTROLS, running_tail

CONFIG = Path(__file__).parents[3] / "configs" / "benchmarks" / "contextual.yaml"
WORLDS = {"plant+till": (PLANT, TILL), "hall+cell": (HALL, CELL)}
TAIL, FALSE_MAX, GRACE_RECORDS = 1e-3, 5, 8
_BARELY = {"epochs": 1, "learning_rate": 1e-12}
UNTRAINED = tuple(f"training.{key}={value}" for key, value in _BARELY.items())
_CONTEXT: list[dict[str, object]] = [
    {"name": "hour", "kind": "cyclic", "period": "hour_of_day"},
    {"name": "weekday", "kind": "cyclic", "period": "day_of_week"},
]


@dataclass(frozen=True, slots=True)
class Judged:
    """One stream as one detector saw it, [T] each: how strange a record is, higher is stranger, and which records are called."""

    stream: Stream
    strangeness: Floats
    is_rare: NDArray[np.bool_]
    is_deployed: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Result:
    """Hits per kind and false records, by each rule; records that could be false."""

    planted: Counter[str]
    rare: Counter[str]
    rare_false: int
    deployed: Counter[str]
    deployed_false: int
    priced: Counter[str]
    normal: int


def result(judged: Sequence[Judged]) -> Result:
    """Over all streams together."""
    normal = [_normal(one.stream) for one in judged]
    everything = np.concatenate([one.strangeness[rows] for one, rows in zip(judged, normal, strict=True)])
    price = float(np.sort(everything)[-FALSE_MAX - 1])
    rare = [one.is_rare for one in judged]
    deployed = [one.is_deployed for one in judged]
    return Result(
        planted=Counter(planted.kind for one in judged for planted in one.stream.planted),
        rare=_hits(judged, rare),
        rare_false=sum(int(called[rows].sum()) for called, rows in zip(rare, normal, strict=True)),
        deployed=_hits(judged, deployed),
        deployed_false=sum(int(called[rows].sum()) for called, rows in zip(deployed, normal, strict=True)),
        priced=_hits(judged, [one.strangeness > price for one in judged]),
        normal=len(everything),
    )


def _normal(stream: Stream) -> NDArray[np.bool_]:
    """[T], the rows after the clean part that no anomaly may account for."""
    rows = np.arange(len(stream.values)) >= stream.training
    for planted in stream.planted:
        rows[planted.start : planted.stop + GRACE_RECORDS] = False
    return rows


def _hits(judged: Sequence[Judged], called: Sequence[NDArray[np.bool_]]) -> Counter[str]:
    return Counter(
        planted.kind
        for one, calls in zip(judged, called, strict=True)
        for planted in one.stream.planted
        if calls[planted.start : planted.stop + GRACE_RECORDS].any()
    )


@contextlib.contextmanager
def random_network() -> Iterator[None]:
    """What is fitted on the network's states is trained as ever, the network itself is not: what training it is worth."""

    def barely(on: Corpus, settings: Settings, report: Callable[[Progress], None]) -> tuple[Autoencoder, Course]:
        return train_network(on, settings.model_copy(update={"training": settings.training.model_copy(update=_BARELY)}), report)

    with patch.object(fitting, "train_network", barely):
        yield


def by_control(name: str, streams: Sequence[Stream]) -> list[Judged]:
    """A control over every stream."""
    judged = []
    for stream in streams:
        tail = running_tail(CONTROLS[name](stream), stream.training)
        judged.append(Judged(stream, -np.log(tail), tail < TAIL, tail < TAIL))
    return judged


def by_product(streams: Sequence[Stream], assignments: Sequence[str]) -> list[Judged]:
    """The product's own train and replay over the streams of one source."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for stream in streams:
            _write(stream, folder / f"{stream.entity}.csv")
        features = folder / "features.json"
        features.write_text(json.dumps({"record": {"features": _features(streams[0])}}))
        common = ["-c", str(CONFIG), "-c", str(features), "--set", "logging.level=error", "--source", f"file://{folder}/*.csv"]
        common += [word for one in assignments for word in ("--set", one)]
        until = datetime.fromtimestamp(min(stream.times_s[stream.training] for stream in streams), UTC).isoformat()
        with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
            for command in (["train", *common, "--to", until], ["replay", *common, "--export", "scores.parquet"]):
                code = anomaly_daemon(command)
                assert code == 0, f"{command[0]} ended with {code}"
        return _read(streams, folder / "scores.parquet")


def _features(stream: Stream) -> list[dict[str, object]]:
    if stream.events is None:
        return [*({"name": channel} for channel in stream.channels), *_CONTEXT]
    event = {"name": "event", "kind": "category", "bits": 16}
    return [{"name": "amount", "kind": "log"}, event, {"name": "pace", "kind": "elapsed"}, *_CONTEXT]


def _write(stream: Stream, path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["timestamp", *stream.channels, *(["event"] if stream.events else [])])
        for row, (second, values) in enumerate(zip(stream.times_s, stream.values, strict=True)):
            told = [stream.events[row]] if stream.events else []
            writer.writerow([datetime.fromtimestamp(second, UTC).isoformat(), *(f"{value:.6g}" for value in values), *told])


def _read(streams: Sequence[Stream], scores: Path) -> list[Judged]:
    """The export, stream by stream. A record is as strange as its odds lie above the threshold's; where that moves with the entity, in deviations."""
    table = pq.read_table(scores).to_pandas()
    judged = []
    for stream in streams:
        rows = table[table["entity"] == stream.entity].sort_values("offset")
        assert len(rows) == len(stream.values), f"{stream.entity}: {len(rows)} scores of {len(stream.values)} records"
        score, limit, tail, deviations = (rows[name].to_numpy() for name in ("anomaly_score", "threshold", "tail_probability", "deviations"))
        over = np.log(score / (1 - score) + 1e-9) - np.log(limit / (1 - limit) + 1e-9)
        is_moving = np.isfinite(deviations).any() and np.nanmin(limit) < np.nanmax(limit)
        strangeness = np.nan_to_num(deviations if is_moving else over, nan=-np.inf)
        judged.append(Judged(stream, strangeness, np.nan_to_num(tail, nan=1.0) < TAIL, rows["is_anomaly"].to_numpy()))
    return judged


def table(results: dict[str, Result]) -> str:
    """A line a detector: hits by p < 1e-3, with the deployed threshold, and at the price of FALSE_MAX false records, then per kind at that price."""
    first = next(iter(results.values()))
    rules = f"{'p<1e-3':>30s}{'false':>7s}{'deployed':>10s}{'false':>7s}{f'<={FALSE_MAX} false':>12s}"
    price = "  ".join(f"{kind}/{count}" for kind, count in first.planted.items())
    lines = [f"{rules}   of {first.planted.total()}; per kind at <={FALSE_MAX} false of {first.normal} normal records: {price}"]
    for name, one in results.items():
        counts = f"{one.rare.total():8d}{one.rare_false:7d}{one.deployed.total():10d}{one.deployed_false:7d}{one.priced.total():12d}"
        lines.append(f"{name:22s}{counts}   " + "  ".join(f"{kind} {one.priced[kind]}" for kind in first.planted))
    return "\n".join(lines)


def _found(sources: Sequence[Sequence[Stream]], assignments: Sequence[str]) -> Result:
    return result([one for streams in sources for one in by_product(streams, assignments)])


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    arguments.add_argument("--seeds", type=int, default=1)
    arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the product, for every network")
    arguments.add_argument("--no-controls", action="store_true")
    arguments.add_argument("--no-untrained", action="store_true")
    options = arguments.parse_args()
    for world in options.worlds:
        for seed in range(options.seeds):
            begun = time.perf_counter()
            sources = sensors(WORLDS[world][0], seed), events(WORLDS[world][1], seed)
            results = {"product, trained": _found(sources, options.set)}
            if not options.no_untrained:
                results["product, untrained"] = _found(sources, [*options.set, *UNTRAINED])
                with random_network():
                    results["network untrained"] = _found(sources, options.set)
            if not options.no_controls:
                results |= {name: result([one for streams in sources for one in by_control(name, streams)]) for name in CONTROLS}
            print(f"{world}, seed {seed}, {time.perf_counter() - begun:.0f} s\n{table(results)}\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
