"""Which channels to fuse and where to put the threshold, chosen on every other stream of a set and checked on the rest: both figures are told.

    python -m tests.benchmarks.quality.choice --data DIR --scores FILE [--false-per-day 0.5]

FILE: an export of the set in which every channel to choose from has a column (`tests.benchmarks.quality SET … --set 'evidence.channels=[…]'`).
Channels are fused offline as the judge does with `calibration: trained`, each held against its own training rows: VUS-PR, mean over streams. The
threshold is z, which teaches nothing, so that the export tells what another z would have said; event F1 at so many false alarms a day at most, or
for an export of a static threshold its level. With three streams or fewer there is nothing to check on.
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
from anomaly_daemon.evaluation.measures.detection import add, count, detection
from anomaly_daemon.evaluation.measures.ranking import WINDOW_ROWS, rank
from anomaly_daemon.evaluation.notes import notes_of
from anomaly_daemon.evaluation.scores import ScoreFile, read_scores
from anomaly_daemon.settings.evidence import ChannelName

Floats = NDArray[np.float64]
_Z, _LEVEL = np.arange(1.5, 8.01, 0.25), np.arange(0.4, 0.901, 0.01)
_ERROR_MIN, _QUANTILE_99 = 1e-6, 2.326


@dataclass(frozen=True, slots=True)
class Stream:
    """One entity's judged records, N of them.

    parts: channel → [N], log1p(error / level), 0 where it has nothing to say. times_us: int64 [N]. reached: [N], the largest threshold that
    the record is still beyond, −inf where it is beyond none.
    """

    parts: Mapping[str, Floats]
    is_event: NDArray[np.bool_]
    period_rows: int
    times_us: NDArray[np.int64]
    reached: Floats


def read(data: Path, scores: Path, *, is_static: bool) -> list[Stream]:
    """Those that hold an anomaly and a normal record, by name. is_static: the threshold is a level of the score."""
    labels = read_labels(data)
    columns = pq.read_schema(scores).names
    channels = [name for name in get_args(ChannelName) if name in columns]
    table = read_scores(scores, ("timestamp", "deviations", "anomaly_score", *channels))
    found = []
    for entity in sorted(table.places):
        times_us = table.column(entity, "timestamp")
        is_event = labels.of_records(entity, times_us)
        first = int(np.count_nonzero(times_us < labels.judged_from.get(entity, 0)))
        parts = {name: _part(table.column(entity, name), first) for name in channels}
        if 0 < is_event[first:].sum() < len(is_event) - first:
            deviations = np.nan_to_num(table.column(entity, "deviations")[first:], nan=-np.inf, posinf=np.inf, neginf=-np.inf)
            score = table.column(entity, "anomaly_score")[first:]
            reached = np.where(np.isneginf(deviations), -np.inf, score) if is_static else deviations
            found.append(Stream(parts, is_event[first:], labels.period_rows.get(entity, WINDOW_ROWS), times_us[first:], reached))
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


def called(streams: Sequence[Stream], threshold: float) -> tuple[float, float]:
    """Event F1 and false alarms a day of these streams together."""
    found = detection(add([count(one.is_event, one.reached > threshold, one.times_us) for one in streams]))
    return found.event_f1 or 0.0, found.false_alarms_per_day or 0.0


def best(streams: Sequence[Stream], thresholds: Floats, false_per_day: float) -> float:
    """The threshold of the highest event F1 within the budget; of equals the lowest."""
    found = [(*called(streams, threshold), float(threshold)) for threshold in thresholds]
    return max(found, key=lambda one: (one[1] <= false_per_day, one[0], -one[2]))[2]


def main() -> None:
    """A line a subset, best on the choosing half first; then a line a half that the threshold was chosen on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the streams and their dataset.json")
    parser.add_argument("--scores", type=Path, required=True, help="an export with a column for every channel")
    parser.add_argument("--false-per-day", type=float, default=0.5, help="false alarms a day that the threshold may cost")
    options = parser.parse_args()
    with ScoreFile(options.scores) as file:
        is_static = notes_of(file).method() == "static"
    streams = read(options.data, options.scores, is_static=is_static)
    rows = []
    for channels in subsets(tuple(streams[0].parts)):
        found = np.array([ranked(stream, channels) for stream in streams])
        rows.append((found[::2].mean(), found[1::2].mean() if len(found) > 1 else float("nan"), found.mean(), channels))
    rows.sort(key=lambda row: -row[0])
    print(f"chosen on  checked on  all    of {len(streams)} streams")
    for chosen, checked, both, channels in rows:
        print(f"     {chosen:.3f}       {checked:.3f}  {both:.3f}  {' + '.join(channels)}")
    print("threshold  chosen on       checked on: event F1 at false alarms a day")
    for first in range(min(2, len(streams) - 1)):
        own, other = streams[first::2], streams[1 - first :: 2]
        threshold = best(own, _LEVEL if is_static else _Z, options.false_per_day)
        figures = [f"{f1:.3f} at {false:.2f}" for f1, false in (called(own, threshold), called(other, threshold))]
        print(f"     {threshold:.2f}  {'   '.join(figures)}")


if __name__ == "__main__":
    main()
