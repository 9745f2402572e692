"""Exported scores: one row per record in log order, as Parquet in row groups, with flat memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.domain.records import BatchOutput, Offset, Partition, Phase, Record, ScoredBatch

_ROW_GROUP_ROWS = 65_536


class ParquetExport:
    """Buffers committed batches to row groups. A rejected record has a row too: its entity and numbers are null."""

    def __init__(self, path: Path, channels: tuple[str, ...]) -> None:
        self._channels = channels
        self._schema = pa.schema(
            [
                ("topic", pa.string()),
                ("partition", pa.int32()),
                ("offset", pa.int64()),
                ("entity", pa.string()),
                ("timestamp", pa.timestamp("us", "UTC")),
            ]
            + [(name, pa.float64()) for name in ("anomaly_score", "tail_probability", "threshold")]
            + [("is_anomaly", pa.bool_()), ("grade", pa.float64()), ("phase", pa.string()), ("incident_id", pa.string())]
            + [(channel, pa.float64()) for channel in channels]
        )
        try:
            self._writer: pq.ParquetWriter | None = pq.ParquetWriter(str(path), self._schema)
        except OSError as error:
            raise InputError(f"--export {path}: cannot be written: {error}") from None
        self._next: dict[Partition, Offset] = {}
        self._held: list[pa.RecordBatch] = []
        self._held_rows = 0

    def begin(self, partition: Partition, offset: Offset) -> None:
        """The first row wanted of a partition; only the first call counts."""
        self._next.setdefault(partition, offset)

    def write(self, output: BatchOutput) -> None:
        """Append the rows that are not there yet: a batch whose commit took effect unheard comes a second time, through recovery."""
        if output.scored is None:
            return
        rows = self._rows(output.scored)
        self._held.append(rows)
        self._held_rows += rows.num_rows
        if self._held_rows >= _ROW_GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is held and the file's end; may be called twice."""
        if self._writer is not None:
            self._flush()
            self._writer.close()
            self._writer = None

    def _is_next(self, record: Record) -> bool:
        if record.offset < self._next.get(record.partition, 0):
            return False
        self._next[record.partition] = record.offset + 1
        return True

    def _flush(self) -> None:
        if self._held and self._writer is not None:
            self._writer.write_table(pa.Table.from_batches(self._held, self._schema))
        self._held, self._held_rows = [], 0

    def _rows(self, scored: ScoredBatch) -> pa.RecordBatch:
        records = [*scored.observations.records, *(rejection.record for rejection in scored.rejections)]
        judged = len(scored.observations.records)
        order = sorted(range(len(records)), key=lambda place: _log_order(records[place]))
        order = [place for place in order if self._is_next(records[place])]
        kept = [records[place] for place in order]
        place_of = np.array([place if place < judged else -1 for place in order], np.int64)

        def column(values: Any, missing: Any) -> Any:
            return np.where(place_of >= 0, values[place_of], missing) if judged else np.full(len(order), missing)

        scores = scored.scores
        entities = [scored.observations.entities[place] if place < judged else None for place in order]
        incidents = [scored.incident_ids[place] if place < judged else None for place in order]
        phases = [Phase(int(scores.phase[place])).name.lower() if place < judged else None for place in order]
        is_missing = place_of < 0
        arrays = [
            pa.array([record.partition.topic for record in kept]),
            pa.array([record.partition.number for record in kept], pa.int32()),
            pa.array([record.offset for record in kept], pa.int64()),
            pa.array(entities, pa.string()),
            pa.array(column(scored.observations.times_us, 0), pa.int64(), mask=is_missing).cast(pa.timestamp("us", "UTC")),
            *(pa.array(column(getattr(scores, name), np.nan)) for name in ("anomaly_score", "tail_probability", "threshold")),
            pa.array(column(scores.is_anomaly, False).astype(bool)),
            pa.array(column(scores.grade, np.nan)),
            pa.array(phases, pa.string()),
            pa.array(incidents, pa.string()),
            *(pa.array(column(scores.evidence[channel], np.nan)) for channel in self._channels),
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)


def _log_order(record: Record) -> tuple[Partition, Offset]:
    return record.partition, record.offset
