"""A side of a comparison from alerts: one body per line of a file, or as published, each incident as its alerts within the range leave it."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Annotated, Final, Literal, cast

import msgspec

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.domain.records import Offset, Partition
from anomaly_daemon.evaluation.comparison import INCIDENTS_MAX, ModelName, Side, SideIncident
from anomaly_daemon.incidents.incident import Severity
from anomaly_daemon.settings import microseconds_since_1970

LINE_BYTES_MAX: Final = 16 << 20
_SUFFIXES: Final = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz", ".json.gz")
# Incidents about incidents: no record of an export names them.
_NOT_EXPORTED: Final = frozenset({"regime_change"})
_GZIP: Final = b"\x1f\x8b"

Time = Annotated[datetime, msgspec.Meta(tz=True)]


class _Peak(msgspec.Struct, frozen=True):
    anomaly_score: float


class _Model(msgspec.Struct, frozen=True):
    name: str
    version: str


class _SourceRecords(msgspec.Struct, frozen=True):
    topic: str
    partition: int
    first_offset: Offset
    last_offset: Offset


class _Alert(msgspec.Struct, frozen=True):
    """The part of an alert that is compared."""

    schema_version: Literal["1.0"]
    detector_id: str
    incident_id: str
    sequence: int
    kind: str
    status: Literal["firing", "resolved"]
    severity: Severity
    severity_number: int
    entity: str
    data_end_time: Time
    starts_at: Time
    ends_at: Time | None
    peak: _Peak | None
    model: _Model
    settings_hash: str
    source_records: _SourceRecords


class _Dumped(msgspec.Struct, frozen=True):
    """A line that `dump` wrote of a record of the alerts topic."""

    topic: str
    offset: Offset
    value: str


_decode_alert = msgspec.json.Decoder(_Alert).decode
_decode_dumped = msgspec.json.Decoder(_Dumped).decode


class AlertsFold:
    """Folds alerts into incidents, those that lie within the range of `other`, where it tells one.

    foreign: what was given and is no alert of this schema.
    """

    def __init__(self, name: str, other: Side | None = None) -> None:
        self._name, self._other = name, other
        self._latest: dict[str, tuple[int, SideIncident]] = {}
        self._closed_before: set[str] = set()
        self._detector_ids: set[str] = set()
        self._topics: set[str] = set()
        self._models: set[ModelName] = set()
        self._settings_hashes: set[str] = set()
        self._unscored: set[str] = set()
        self._unknown_entities = self._outside = 0
        self.foreign = 0

    def add(self, value: bytes) -> bool:
        """Take note of an alert's body; False, and counted, when it is none. Raises InputError for too many incidents."""
        try:
            alert = _decode_alert(value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.foreign += 1
            return False
        self._detector_ids.add(alert.detector_id)
        self._topics.add(alert.source_records.topic)
        other = self._other
        if other is not None and other.detector_ids and alert.detector_id not in other.detector_ids:
            return True
        if alert.kind in _NOT_EXPORTED and other is not None and other.is_export:
            return True
        if other is not None and alert.kind in ("silence", "data_quality"):
            self._unscored.add(alert.incident_id)
            return True
        if not self._is_within(alert):
            return True
        self._models.add(ModelName(alert.model.name, alert.model.version))
        self._settings_hashes.add(alert.settings_hash)
        known = self._latest.get(alert.incident_id)
        if known is None or alert.sequence > known[0]:
            self._latest[alert.incident_id] = (alert.sequence, _incident(alert))
        if len(self._latest) > INCIDENTS_MAX:
            raise InputError(f"{self._name}: more than {INCIDENTS_MAX:,} incidents; compare a shorter range")
        return True

    def side(self) -> Side:
        """All that was taken."""
        for incident_id in self._closed_before:
            self._latest.pop(incident_id, None)
        notes = []
        if self._unknown_entities:
            exported = self._other.name if self._other is not None else ""
            notes.append(f"{self._name}: {self._unknown_entities:,} alerts of entities without a record in {exported} are left out")
        if self._unscored:
            notes.append(
                f"{self._name}: {len(self._unscored):,} incidents of silence and of data quality are left out: an export of scores holds none"
            )
        if self._outside and not self._latest:
            notes.append(f"{self._name}: none of its alerts lies in the range of the other side")
        return Side(
            name=self._name,
            is_export=False,
            detector_ids=frozenset(self._detector_ids),
            topics=frozenset(self._topics),
            models=frozenset(self._models),
            settings_hashes=frozenset(self._settings_hashes),
            settings=None,
            version=None,
            ranges=None if self._other is None else self._other.ranges,
            seen_us=None,
            history={},
            incidents=[incident for _, incident in self._latest.values()],
            notes=tuple(notes),
        )

    def _is_within(self, alert: _Alert) -> bool:
        """Whether its record lies within the range. An opening's and an update's is the last anomalous one; a close's is known by its time only."""
        other, source = self._other, alert.source_records
        if other is None or other.ranges is None or other.seen_us is None:
            return True
        offsets = other.ranges.get(Partition(source.topic, source.partition))
        if offsets is None or source.last_offset >= offsets.stop:
            self._outside += 1
            return False
        seen_us = other.seen_us.get(alert.entity)
        if seen_us is None:
            self._unknown_entities += 1
            return False
        if alert.status == "firing":
            return True
        closed_us = microseconds_since_1970(alert.data_end_time)
        if source.last_offset < offsets.start and closed_us < seen_us[0]:
            self._closed_before.add(alert.incident_id)
        return closed_us <= seen_us[1]


def read_alerts(path: Path, other: Side | None) -> Side:
    """The side that a file of alerts is, gzipped or not: bodies, or lines that `dump` wrote. Raises InputError naming file and line."""
    fold = AlertsFold(str(path), other)
    try:
        with path.open("rb") as raw:
            is_packed = raw.read(len(_GZIP)) == _GZIP
            raw.seek(0)
            stream = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if is_packed else raw
            lines = 0
            for lines, line in enumerate(_lines(stream), start=1):
                _add_line(fold, line, f"{path}: line {lines}")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; `anomaly-daemon replay --alerts {path}` writes one") from None
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}; check the file and its rights") from None
    if not lines and not path.name.lower().endswith(_SUFFIXES):
        raise InputError(f"{path}: is empty; give exported scores (Parquet) or alerts (a file named .jsonl may be empty: no incidents)")
    return fold.side()


def _add_line(fold: AlertsFold, line: bytes, where: str) -> None:
    if fold.add(line) or not line.strip():
        return
    try:
        value = _decode_dumped(line).value.encode()
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InputError(f"{where}: neither an alert of schema 1.0 nor a line that `dump` wrote; give exported scores (Parquet) or alerts") from None
    if not fold.add(value):
        raise InputError(f"{where}: a dumped record that is no alert of schema 1.0; dump the alerts topic")


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    while line := stream.readline(LINE_BYTES_MAX):
        yield line


def _incident(alert: _Alert) -> SideIncident:
    source = alert.source_records
    return SideIncident(
        incident_id=alert.incident_id,
        partition=Partition(source.topic, source.partition),
        entity=alert.entity,
        first_offset=source.first_offset,
        until_offset=source.last_offset,
        starts_at_us=microseconds_since_1970(alert.starts_at),
        ends_at_us=None if alert.ends_at is None else microseconds_since_1970(alert.ends_at),
        is_open=alert.status == "firing",
        is_partial=False,
        severity=alert.severity,
        severity_number=alert.severity_number,
        peak_score=None if alert.peak is None else alert.peak.anomaly_score,
    )
