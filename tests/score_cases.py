"""Exports and labels of given numbers, for the measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anomaly_daemon.adapters.score_rows import schema
from anomaly_daemon.evaluation.labels import Labels

SECOND_US = 1_000_000


@dataclass(frozen=True)
class Stream:
    """The records of one entity, a second apart unless `times_us` says otherwise. labels, flags: sets of rows."""

    scores: Sequence[float]
    labels: frozenset[int] = frozenset()
    flags: frozenset[int] = frozenset()
    incidents: Mapping[int, str] | None = None
    times_us: Sequence[int] | None = None

    def times(self) -> np.ndarray:
        return np.arange(len(self.scores)) * SECOND_US if self.times_us is None else np.array(self.times_us, np.int64)


def columns_of(streams: Mapping[str, Stream]) -> dict[str, np.ndarray]:
    """All rows, one entity after the other."""
    incidents = [(stream.incidents or {}).get(row) for stream in streams.values() for row in range(len(stream.scores))]
    return {
        "entity": np.array([entity for entity, stream in streams.items() for _ in stream.scores], object),
        "timestamp": np.concatenate([stream.times() for stream in streams.values()]),
        "anomaly_score": np.concatenate([np.array(stream.scores, np.float64) for stream in streams.values()]),
        "is_anomaly": np.concatenate([np.isin(np.arange(len(stream.scores)), sorted(stream.flags)) for stream in streams.values()]),
        "incident_id": np.array(incidents, object),
    }


def write_scores(path: Path, columns: Mapping[str, np.ndarray], *, group_rows: int = 65_536, rejected: int = 0) -> Path:
    """An export as the daemon writes it, with so many rejected records at its beginning."""
    rows = len(columns["entity"])
    values: dict[str, Any] = {
        "topic": ["readings"] * rows,
        "partition": np.zeros(rows, np.int32),
        "offset": np.arange(rejected, rejected + rows),
        "phase": ["live"] * rows,
        "incident_id": [None] * rows,
        **columns,
        "timestamp": pa.array(columns["timestamp"]).cast(pa.timestamp("us", "UTC")),
    }
    layout = schema(("prediction",), {"note": "ours"})
    arrays = [pa.array(values.get(field.name, np.full(rows, 0.5)), field.type) for field in layout]
    refused = pa.table({"topic": ["readings"] * rejected, "partition": np.zeros(rejected, np.int32), "offset": np.arange(rejected)})
    table = pa.concat_tables([refused, pa.table(arrays, layout)], promote_options="permissive").select(layout.names).cast(layout)
    pq.write_table(table, path, row_group_size=group_rows)
    return path


def labels_of(streams: Mapping[str, Stream]) -> Labels:
    """Every labelled record as an interval of its own."""
    intervals = {entity: np.stack([stream.times()[sorted(stream.labels)]] * 2, axis=1).reshape(-1, 2) for entity, stream in streams.items()}
    return Labels(intervals, "labels.csv")
