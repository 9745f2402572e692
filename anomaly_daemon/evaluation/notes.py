"""What an export notes of its own making, in the Parquet file's metadata: written by `replay` and `run`, read by `tune`, `diff` and the report."""

from __future__ import annotations

from typing import Final

import msgspec
import yaml

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.evaluation.scores import ScoreFile
from anomaly_daemon.settings import is_river
from anomaly_daemon.statistics.score_prior import UNKNOWN, ScorePrior

_KEY: Final = "anomaly_daemon"
_FORMAT: Final = 1


class ModelNote(msgspec.Struct, frozen=True):
    """Which weights."""

    name: str = ""
    version: str = ""
    fingerprint: str = ""


class PartitionNote(msgspec.Struct, frozen=True, rename={"start": "from", "end": "to"}):
    """Offsets of a partition: those scored but not reported, then `start` up to before `end`; None where not noted."""

    warm_up_from: int | None = None
    start: int | None = None
    end: int | None = None


class ExportNotes(msgspec.Struct, frozen=True):
    """What the writer of an export noted in it; every part may be missing from a file of other hands."""

    format: int = _FORMAT
    version: str = ""
    mode: str = ""
    detector_id: str = ""
    settings: dict[str, object] = {}
    settings_hash: str = ""
    model: ModelNote = ModelNote()
    log: str = ""
    channels: tuple[str, ...] = ()
    priors: object = None
    score_prior: ScorePrior = UNKNOWN
    decode_every: int | None = None
    started_from: object = None
    partitions: dict[str, PartitionNote] = {}

    def settings_yaml(self) -> str:
        """The whole settings as a file would spell them; empty where they are not noted."""
        return yaml.safe_dump(self.settings, sort_keys=False, allow_unicode=True, width=120) if self.settings else ""

    def method(self) -> str:
        """The threshold's method; empty where not noted."""
        threshold = self.settings.get("threshold")
        return str(threshold.get("method", "")) if isinstance(threshold, dict) else ""

    @property
    def judges_in_warmup(self) -> bool:
        """Whether a record in warm-up could be anomalous; not where nothing is noted."""
        threshold = self.settings.get("threshold")
        is_judging = isinstance(threshold, dict) and threshold.get("warmup") == "judge"
        return is_judging and not is_river(self.method())

    def alerts_per_day(self) -> float | None:
        """What z followed; None where it was fixed."""
        threshold = self.settings.get("threshold")
        per_day = threshold.get("alerts_per_day") if isinstance(threshold, dict) else None
        return float(per_day) if isinstance(per_day, int | float) else None

    def in_force(self, parameter: str) -> tuple[float, ...]:
        """The values of a threshold parameter, of the defaults first, then of the overrides; each once. None of a z that alerts per day moved."""
        if parameter == "z" and self.alerts_per_day() is not None:
            return ()
        values: dict[float, None] = {}
        overrides = self.settings.get("overrides")
        for section in (self.settings, *(overrides if isinstance(overrides, list | tuple) else ())):
            threshold = section.get("threshold") if isinstance(section, dict) else None
            value = threshold.get(parameter) if isinstance(threshold, dict) else None
            if isinstance(value, int | float) and not isinstance(value, bool):
                values[float(value)] = None
        return tuple(values)


def as_metadata(notes: ExportNotes) -> dict[str, str]:
    """The notes as the writer of an export puts them into the file."""
    return {_KEY: msgspec.json.encode(notes).decode()}


def notes_of(file: ScoreFile) -> ExportNotes:
    """What the export notes of its making; nothing where it has no such notes. Raises InputError for notes of another format."""
    text = file.metadata.get(_KEY)
    if text is None:
        return ExportNotes()
    try:
        notes = msgspec.json.decode(text, type=ExportNotes)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file.path}: its notes on how it was made cannot be read ({error}); export the scores anew") from None
    if notes.format != _FORMAT:
        raise InputError(f"{file.path}: written by another version (format {notes.format}, this one reads {_FORMAT}); export the scores anew")
    return notes
