"""Exports and alerts made up for pages: seeded, of any size, written in row groups."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from anomaly_daemon.adapters.score_rows import schema
from anomaly_daemon.evaluation.report import ReportFacts

START_US = 1_767_225_600_000_000
STEP_US = 60_000_000
WARMUP_ROWS = 50
CHANNELS = ("prediction", "reconstruction")
SETTINGS = {"threshold": {"method": "ewma", "z": 4.0}, "overrides": [{"match": "pump-1", "threshold": {"z": 5.0}}]}
NOTES = {
    "format": 1,
    "version": "0.1.0",
    "mode": "replay",
    "detector_id": "plant",
    "settings": SETTINGS,
    "settings_hash": "0123456789abcdef",
    "model": {"name": "pumps", "version": "1", "fingerprint": "abc"},
    "log": "sqlite:///topics.db",
    "channels": list(CHANNELS),
    "priors": None,
    "decode_every": 8,
    "started_from": "nothing",
    "partitions": {"readings[0]": {"warm_up_from": None, "from": 0, "to": 1000}},
}
FACTS = ReportFacts("readings, all of it", 1003, 1000, 2, 1, {"schema": 2}, 2.5)


def write_export(path: Path, rows: int, entities: Sequence[str], *, group_rows: int = 65_536, notes: dict[str, Any] | None = None) -> None:
    """Records of the entities in turn, a minute apart: normal deviations, and an anomalous one of 9 every 1000 rows of an entity."""
    columns = schema(CHANNELS, {"anomaly_daemon": json.dumps(NOTES if notes is None else notes)})
    random = np.random.default_rng(0)
    names = pa.array(entities, pa.string())
    with pq.ParquetWriter(path, columns) as writer:
        for first in range(0, rows, group_rows):
            writer.write_table(_group(np.arange(first, min(rows, first + group_rows)), names, columns, random))


def _group(offsets: Any, names: Any, columns: Any, random: np.random.Generator) -> Any:
    place, turn = offsets % len(names), offsets // len(names)
    is_live = turn >= WARMUP_ROWS
    is_planted = is_live & (turn % 1000 == 999)
    deviations = np.where(is_planted, 9.0, random.standard_normal(len(offsets)))
    score = 1 - np.exp(-np.exp(deviations / 2 - 3))
    is_anomaly = is_live & (deviations > 4)
    values = {
        "topic": pa.array(["readings"]).take(pa.array(np.zeros(len(offsets), np.int64))),
        "partition": pa.array(np.zeros(len(offsets), np.int32)),
        "offset": pa.array(offsets),
        "entity": names.take(pa.array(place)),
        "timestamp": pa.array(START_US + turn * STEP_US).cast(pa.timestamp("us", "UTC")),
        "anomaly_score": pa.array(score),
        "tail_probability": pa.array(np.maximum(1e-4, torch.special.ndtr(torch.from_numpy(-deviations)).numpy())),
        "threshold": pa.array(np.full(len(offsets), 1 - np.exp(-np.exp(-1.0)))),
        "is_anomaly": pa.array(is_anomaly),
        "grade": pa.array(np.where(is_anomaly, 0.5, 0.0)),
        "phase": pa.array(["warmup", "live"]).take(pa.array(is_live.astype(np.int64))),
        "incident_id": pa.array(["a", None]).take(pa.array((~is_planted).astype(np.int64))),
        **{channel: pa.array(score) for channel in CHANNELS},
        "deviations": pa.array(np.where(is_live, deviations, np.nan)),
    }
    return pa.table({name: values[name] for name in columns.names}, columns)


def alert(number: int, entity: str = "pump-1", *, peak: float = 0.9, sequence: int = 1, **changed: Any) -> dict[str, Any]:
    """A body as the alerts topic holds it, with three features, the second one leading."""
    starts_at = f"2026-01-02T{number % 24:02d}:{number % 60:02d}:00.000Z"
    features = [
        {"feature": name, "actual": 4.2, "expected": 3.1, "lower": 2.8, "upper": 3.4, "contribution": share, "imputed": False}
        for name, share in (("speed", 0.2), ("pressure", 0.7), ("flow", 0.1))
    ]
    return {
        "schema_version": "1.0",
        "incident_id": f"incident-{number:06d}",
        "sequence": sequence,
        "status": "resolved",
        "kind": "collective",
        "severity": ("low", "medium", "high", "critical")[number % 4],
        "anomaly_score": peak,
        "confidence": 1.0,
        "probability": 1e-4,
        "threshold": {"value": 0.6, "method": "ewma"},
        "direction": "above",
        "entity": entity,
        "starts_at": starts_at,
        "ends_at": starts_at.replace(":00.000Z", ":30.000Z"),
        "peak": {"anomaly_score": peak, "time": starts_at, "offset": number},
        "observations": 7,
        "features": features,
        "explanation": {"message": f"{entity}: pressure 4.2 where 3.1 was expected.", "reasons": ["pressure"]},
        "window": [{"steps_back": 7 - step, "actual": [1.0, 2.0 + step, None], "reconstructed": [1.0, None, 3.0]} for step in range(8)],
        "source_records": {"topic": "readings", "partition": 0, "first_offset": number, "last_offset": number + 3},
        **changed,
    }


def write_alerts(path: Path, alerts: Sequence[dict[str, Any]]) -> None:
    """One a line."""
    path.write_text("".join(json.dumps(one) + "\n" for one in alerts))
