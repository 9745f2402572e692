"""What is asked of `tune`, checked before anything is searched: the budget, and whether the export can answer for these settings."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.evaluation.notes import ExportNotes
from anomaly_daemon.evaluation.tuning.incidents import FoundIncident
from anomaly_daemon.evaluation.tuning.rows import KeptRows
from anomaly_daemon.settings import DECIDING, RULES, Settings, changed, format_duration, is_under

_PER_DAY: Final = {"hour": 24.0, "day": 1.0, "week": 1 / 7}
_BUDGET: Final = re.compile(r"\s*(\S+?)\s*/\s*(\w+)(\s+per\s+entity)?\s*")


@dataclass(frozen=True, slots=True)
class Budget:
    """So many incidents a day, over all or for each entity on average."""

    incidents_per_day: float
    is_per_entity: bool
    text: str

    def over_all(self, entities: int) -> float:
        """Incidents a day of all entities together."""
        return self.incidents_per_day * entities if self.is_per_entity else self.incidents_per_day


def parse_budget(text: str) -> Budget:
    """`5/day`, `2/week`, `0.1/day per entity`. Raises InputError."""
    found = _BUDGET.fullmatch(text)
    number = found and _number(found[1])
    if found is None or number is None or found[2] not in _PER_DAY:
        raise InputError(f"--budget {text!r}: not a budget; write 5/day, 2/week, 1/hour or '0.1/day per entity'")
    if number <= 0:
        raise InputError(f"--budget {text!r}: must be above 0, or nothing would ever be announced; the least useful is about 1/week")
    return Budget(number * _PER_DAY[found[2]], found[3] is not None, text.strip())


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def exported_settings(path: Path, notes: ExportNotes) -> Settings:
    """The settings that the export was made with. Raises InputError where they are not noted, or not such as this version knows."""
    if not notes.settings:
        raise InputError(f"{path}: does not note the settings it was made with; export the scores anew with `anomaly-daemon replay --export`")
    try:
        return Settings.model_validate(notes.settings)
    except ValidationError:
        raise InputError(
            f"{path}: the settings it was made with are not such as this version knows (written by version {notes.version or 'unknown'}); "
            "export the scores anew with `anomaly-daemon replay --export`"
        ) from None


def refuse_contradiction(path: Path, exported: Settings, given: Settings) -> None:
    """Raises InputError naming what shapes scores and differs: what the export says would not hold under the given settings."""
    keys = [key for key in changed(exported, given) if is_under(key, DECIDING) and not is_under(key, RULES)]
    if keys:
        raise InputError(
            f"{path}: was made under other settings, and these shape scores: {', '.join(keys)}; "
            "give -c the file that the export was made with, or export the scores anew under this one"
        )


def refuse_budget(settings: Settings) -> None:
    """Raises InputError where z follows alerts per day: there is no threshold to choose."""
    if settings.threshold.alerts_per_day is not None:
        raise InputError(
            f"threshold.alerts_per_day is {settings.threshold.alerts_per_day:g}, so z follows it and a patch would not hold; to choose a fixed z "
            "from this export, take alerts_per_day out of the settings or give --set threshold.alerts_per_day=null, here and with the patch"
        )


def inexact(notes: ExportNotes, rows: KeptRows, settings: Settings) -> list[str]:
    """Why a full replay under the patch may bring other incidents than those promised; nothing where it cannot."""
    reasons = []
    if notes.started_from not in (None, "nothing") or any(
        one.warm_up_from is not None and one.start is not None and one.warm_up_from < one.start for one in notes.partitions.values()
    ):
        reasons.append(
            "the export may begin in the midst of the log (after a warm-up range, from a checkpoint, or made by a running daemon): what was open "
            "or about to open there is not in it, so a replay may differ in an entity's first incident"
        )
    entities: dict[object, int] = {}
    for partition in rows.partitions:
        entities[partition] = entities.get(partition, 0) + 1
    crowded = max(entities.values(), default=0)
    if crowded > settings.engine.entities_max:
        reasons.append(
            f"a partition holds {crowded:,} entities, more than engine.entities_max ({settings.engine.entities_max:,}): the daemon forgets some "
            "on the way, with their incidents, so a replay may differ in those"
        )
    return reasons


def lasting(settings: Settings, incidents: Iterable[FoundIncident], until_us: int) -> list[str]:
    """Why a full replay may differ where an incident lasts so long that it is taken for a change; until_us: where the export ends."""
    regimes = [settings.regime, *(settings.regime.overridden(override.regime) for override in settings.overrides)]
    after_s = min((one.after for one in regimes if one.after is not None), default=math.inf)
    found = sum((until_us if one.closed_us is None else one.closed_us) - one.opened_us >= after_s * 1e6 for one in incidents)
    if not found:
        return []
    told = f"{found:,} incidents, under the present settings or the others, last for {format_duration(after_s)} and more: such a change decides what "
    return [told + "its entity learns (`regime`), so a replay may differ in these entities from there on; with `regime: {after: null}` it does not"]
