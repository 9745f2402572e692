"""The product's own train and replay over every stream of a labelled set, and what its measures make of the scores.

    python -m tests.benchmarks.quality SET --data DIR --export FILE [--seed N] [--ablation] [-c FILE] [--set key=value]

DIR: streams as CSV beside a dataset.json that says how many rows of each are for training. One setting serves the whole set:
configs/benchmarks/SET.yaml. No label comes near the detector: it reads copies of the streams without them. Beside it stand three controls: every
record flagged, chance, and MEWMA, the `level` channel alone under the same threshold.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from anomaly_daemon.settings import NETWORK_CHANNELS, load
from tests.benchmarks.quality.streams import CONFIGS, copy_streams, judge, measured, train

Rows = dict[str, dict[str, float | None]]


def main() -> None:
    """One set, as asked for on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", help="names configs/benchmarks/SET.yaml")
    parser.add_argument("--data", type=Path, required=True, help="folder of the streams and their dataset.json")
    parser.add_argument("--export", type=Path, required=True, help="the scores, Parquet; replaced where there are some")
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--ablation", action="store_true", help="also without each channel, with an untrained network and without the network")
    parser.add_argument("-c", "--config", type=Path, help="other settings than configs/benchmarks/SET.yaml")
    parser.add_argument("--set", action="append", default=[], dest="assignments", metavar="key=value", help="as the product takes it")
    options = parser.parse_args()
    config = options.config or CONFIGS / f"{options.set}.yaml"
    assignments = [*options.assignments, f"training.seed={options.seed}"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began_s = time.perf_counter()
        copy_streams(options.data, folder)
        channels = load([config], assignments).evidence.channels
        train(config, folder, [*assignments, _fused(dict.fromkeys((*channels, "level")))])
        trained_s = time.perf_counter()
        records = judge(config, folder, options.export, assignments)
        judged_s = time.perf_counter()
        took_s, each_us = judged_s - trained_s, 1e6 * (judged_s - trained_s) / max(1, records)
        print(f"{options.set}: trained in {trained_s - began_s:.0f} s, {records:,} records judged in {took_s:.0f} s, {each_us:.0f} µs each")
        rows = measured(options.export, options.data) | _only({"MEWMA": ["level"]}, config, folder, options.data, assignments)
        if options.ablation:
            rows |= _ablation(channels, config, folder, options.data, assignments)
    _print(rows)


def _fused(channels: Iterable[str]) -> str:
    return f"evidence.channels=[{', '.join(channels)}]"


def _only(kept: Mapping[str, Sequence[str]], config: Path, folder: Path, data: Path, assignments: Sequence[str]) -> Rows:
    """What the same artifact gives with some of its channels, by tag."""
    found = {}
    for tag, channels in kept.items():
        judge(config, folder, folder / "part.parquet", [*assignments, _fused(channels)])
        found[tag] = measured(folder / "part.parquet", data)["detector"]
    return found


def _ablation(channels: Sequence[str], config: Path, folder: Path, data: Path, assignments: Sequence[str]) -> Rows:
    kept = {f"without {name}": [one for one in channels if one != name] for name in channels}
    kept |= {f"{name} alone": [name] for name in channels}
    kept["without the network"] = [one for one in channels if one not in NETWORK_CHANNELS]
    found = _only({tag: left for tag, left in kept.items() if left and left != list(channels)}, config, folder, data, assignments)
    if any(one in NETWORK_CHANNELS for one in channels):
        untrained = [*assignments, "training.epochs=1", "training.learning_rate=1e-9"]
        train(config, folder, untrained)
        found |= _only({"untrained network": channels}, config, folder, data, untrained)
    return found


def _print(rows: Rows) -> None:
    names = list(rows["detector"])
    width = max(map(len, names))
    print(" " * width + "".join(f"  {tag:>12}" for tag in rows))
    for name in names:
        print(
            f"{name:<{width}}"
            + "".join(f"  {'–' if row.get(name) is None else format(row[name], '.3f'):>{max(12, len(tag))}}" for tag, row in rows.items())
        )


if __name__ == "__main__":
    main()
