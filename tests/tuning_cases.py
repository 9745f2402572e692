"""Exports of the small detector for `tune`, and what a full replay under other settings brings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from anomaly_daemon import wiring
from anomaly_daemon.adapters.range_source import Span
from anomaly_daemon.adapters.score_export import ParquetExport
from anomaly_daemon.cli import main
from anomaly_daemon.domain.records import Batch, BatchOutput, Record, Transition
from anomaly_daemon.settings import Settings, load
from tests import small

Incident = tuple[str, str, int, int | None]


def settings_file(folder: Path, *assignments: str) -> Path:
    """A file with the small detector's settings."""
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(small.settings(*assignments).model_dump(mode="json", exclude={"log", "kafka"})))
    return path


def replayed(records: Sequence[Record], settings: Settings, batch: int = 700) -> list[BatchOutput]:
    """What the real processor makes of a stream, from nothing."""
    processor, _, _ = wiring.build_processor(settings, small.artifact())
    for partition in sorted({record.partition for record in records}):
        processor.begin(partition)
    outputs = [processor.process(Batch(records[first : first + batch]), {}) for first in range(0, len(records), batch)]
    processor.close()
    return outputs


def export(path: Path, records: Sequence[Record], settings: Settings, started_from: str = "nothing") -> Path:
    """The scores of a stream, written as `replay` writes them."""
    partitions = sorted({record.partition for record in records})
    ends = {partition: 1 + max(record.offset for record in records if record.partition == partition) for partition in partitions}
    spans = {partition: Span(0, 0, 0, end) for partition, end in ends.items()}
    told = wiring.describe(settings, small.artifact(), mode="replay", started_from=started_from, spans=spans)
    with closing(ParquetExport(path, sorted(settings.evidence.channels), told)) as target:
        for output in replayed(records, settings):
            target.write(output)
    return path


def incidents(records: Sequence[Record], settings: Settings) -> set[Incident]:
    """Id, entity, opening and closing offset of every incident of a full replay."""
    opened: dict[str, tuple[str, int]] = {}
    closed: dict[str, int] = {}
    for output in replayed(records, settings):
        for alert in output.alerts:
            if alert.transition is Transition.OPENED:
                opened[alert.incident_id] = (alert.entity, alert.offset)
            elif alert.transition is Transition.CLOSED:
                closed[alert.incident_id] = alert.offset
    return {(name, entity, offset, closed.get(name)) for name, (entity, offset) in opened.items()}


def under(config: Path, patch: Path) -> Settings:
    """The settings with a patch merged over."""
    return load([config, patch], (), {})


def late(records: Sequence[Record], every: int, seconds: int) -> list[Record]:
    """The same, but every so-many-th record says a time so much earlier."""
    found = []
    for number, record in enumerate(records):
        if number % every == 0 and record.value is not None:
            body = json.loads(record.value)
            record = msgspec.structs.replace(record, value=json.dumps({**body, "time": body["time"] - seconds}).encode())
        found.append(record)
    return found


def tuned(capsys: pytest.CaptureFixture[str], config: Path, scores: Path, *arguments: str) -> dict[str, Any]:
    """What `tune --format json` prints; the patch is written beside the scores."""
    patch = scores.with_name("patch.yaml")
    code = main(["tune", "-c", str(config), "--scores", str(scores), "--output", str(patch), "--format", "json", "--force", *arguments])
    told = capsys.readouterr()
    assert code == 0, told.err
    found: dict[str, Any] = json.loads(told.out)
    return found


def promised(found: dict[str, Any]) -> set[Incident]:
    """The incidents that `tune` promises."""
    return {(one["incident_id"], one["entity"], one["first_offset"], one["closing_offset"]) for one in found["incidents"]}
