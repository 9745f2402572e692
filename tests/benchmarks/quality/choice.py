"""Which channels to fuse, chosen on every other stream of a set and checked on the rest, so that both figures can be written down.

    python -m tests.benchmarks.quality.choice --data DIR --scores FILE

FILE: an export of the set in which every channel to choose from has a column (`tests.benchmarks.quality SET … --set 'evidence.channels=[…]'`).
Fused offline as the judge does with `calibration: trained`, each channel held against its own training rows. VUS-PR, mean over streams; with three
streams or fewer there is nothing to check on.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from anomaly_daemon.evaluation.labels.files import read_labels
from anomaly_daemon.evaluation.measures.ranking import WINDOW_ROWS, rank
from anomaly_daemon.evaluation.scores import read_scores
from anomaly_daemon.settings.evidence import ChannelName

Floats = NDArray[np.float64]
_SHOWN = 12
_ERROR_MIN, _QUANTILE_99 = 1e-6, 2.326


@dataclass(frozen=True, slots=True)
class Stream:
    """One entity's judged records. parts: channel → [N], log1p(error / level), 0 where it has nothing to say. is_event: [N]."""

    parts: Mapping[str, Floats]
    is_event: NDArray[np.bool_]
    period_rows: int


def read(data: Path, scores: Path) -> list[Stream]:
    """Those that hold an anomaly and a normal record, by name."""
    labels = read_labels(data)
    columns = pq.read_schema(scores).names
    channels = [name for name in get_args(ChannelName) if name in columns]
    table = read_scores(scores, ("timestamp", *channels))
    found = []
    for entity in sorted(table.places):
        times_us = table.column(entity, "timestamp")
        is_event = labels.of_records(entity, times_us)
        first = int(np.count_nonzero(times_us < labels.judged_from.get(entity, 0)))
        parts = {name: _part(table.column(entity, name), first) for name in channels}
        if 0 < is_event[first:].sum() < len(is_event) - first:
            found.append(Stream(parts, is_event[first:], labels.period_rows.get(entity, WINDOW_ROWS)))
    return found


def _part(error: Floats, training: int) -> Floats:
    usual = np.log(error[:training][~np.isnan(error[:training])] + _ERROR_MIN)
    level = np.exp(usual.mean() + _QUANTILE_99 * usual.std()) if len(usual) else 1.0
    return np.log1p(np.nan_to_num(error[training:], nan=0.0).clip(0, 1e30) / level)


def subsets(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Every one that is not empty."""
    return itertools.chain.from_iterable(itertools.combinations(names, size) for size in range(1, len(names) + 1))


def ranked(stream: Stream, channels: Sequence[str]) -> float:
    """VUS-PR of these channels together."""
    return rank(stream.is_event, np.sum([stream.parts[name] for name in channels], 0), stream.period_rows).vus_pr


def main() -> None:
    """A line a subset, best on the choosing half first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the streams and their dataset.json")
    parser.add_argument("--scores", type=Path, required=True, help="an export with a column for every channel")
    options = parser.parse_args()
    streams = read(options.data, options.scores)
    rows = []
    for channels in subsets(tuple(streams[0].parts)):
        found = np.array([ranked(stream, channels) for stream in streams])
        rows.append((found[::2].mean(), found[1::2].mean() if len(found) > 1 else float("nan"), found.mean(), channels))
    rows.sort(key=lambda row: -row[0])
    print(f"chosen on  checked on  all    of {len(streams)} streams")
    for chosen, checked, both, channels in rows[:_SHOWN]:
        print(f"     {chosen:.3f}       {checked:.3f}  {both:.3f}  {' + '.join(channels)}")


if __name__ == "__main__":
    main()
