"""What differs between two sets of settings, and a short name for one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from anomaly_daemon.domain.errors import SettingsError
from anomaly_daemon.settings.incident_rules import Incidents, Override, Regime
from anomaly_daemon.settings.record_schema import Feature
from anomaly_daemon.settings.whole import Settings

# What decides on alerts; the rest is where and how the daemon runs. Of these RULES come after the scores, which stay as they were under others.
# What is live and comes before them, `regime`, decides what an entity learns once a change lasts.
RULES: Final = ("threshold.z", "threshold.alerts_per_day", "threshold.level", "incidents", "overrides")
LIVE_RULES: Final = (*RULES, "regime")
DECIDING: Final = (
    "detector_id",
    "record",
    "model.scale",
    "model.scale_observations",
    "model.tails",
    "engine.decode_every",
    "engine.decode_steps",
    "engine.ring",
    "engine.entities_max",
    "engine.entity_ttl",
    "evidence",
    "threshold",
    "quality",
    "incidents",
    "regime",
    "overrides",
)
_METHOD_KEYS: Final = ("z", "alerts_per_day", "level")


def features_of(settings: Settings) -> tuple[Feature, ...]:
    """The features, refused when there are none: every verb that reads records needs them."""
    if not settings.record.features:
        raise SettingsError("record.features: name at least one feature, such as `- name: pressure`")
    return settings.record.features


def changed(old: Settings, new: Settings) -> list[str]:
    """All keys that differ; never their values, which may be secret."""
    return _differences(old.model_dump(), new.model_dump(), "")


def restart_needed(old: Settings, new: Settings) -> list[str]:
    """The keys that differ and cannot change while the daemon runs."""
    return [key for key in changed(old, new) if not is_under(key, Settings.LIVE)]


def is_under(key: str, sections: Iterable[str]) -> bool:
    """Whether a dotted key is one of these or lies in one."""
    return any(key == section or key.startswith(section + ".") for section in sections)


def take_live(old: Settings, new: Settings) -> Settings:
    """The old settings with the new values of what can change while the daemon runs; what a method reads only of the one that runs.

    Raises SettingsError where these do not go together.
    """
    live: dict[str, Any] = {
        "checkpoints": old.checkpoints.model_copy(update={"every": new.checkpoints.every}),
        "incidents": new.incidents,
        "logging": new.logging,
    }
    if new.threshold.method == old.threshold.method:
        live["threshold"] = old.threshold.model_copy(update={key: getattr(new.threshold, key) for key in _METHOD_KEYS})
        live |= {"overrides": new.overrides, "regime": new.regime}
    taken = old.model_copy(update=live)
    if faults := taken.unacceptable():
        raise SettingsError("; ".join(faults) + "; what is asked for beside it needs a restart")
    return taken


def live_part(settings: Settings, partitions: int = 1) -> str:
    """The rules of a daemon as text: what decides on incidents and can change while it runs. Equal settings give equal text.

    partitions: how many share `threshold.alerts_per_day`; it is part of the rules where that is set.
    """
    tree = settings.model_dump(mode="json", include=_tree_of(LIVE_RULES))
    if settings.threshold.alerts_per_day is None:
        del tree["threshold"]["alerts_per_day"]
    else:
        tree["partitions"] = partitions
    return json.dumps(tree, sort_keys=True)


def with_live_part(settings: Settings, text: str) -> tuple[Settings, int]:
    """These settings under the rules of a text of `live_part`, and its partitions. Raises ValueError where it is none that this version knows."""
    try:
        tree = json.loads(text)
        limits = {key: float(tree["threshold"][key]) for key in Override.ADJUSTABLE}
        per_day = tree["threshold"].get("alerts_per_day")
        partitions = int(tree.get("partitions", 1))
        live = {
            "threshold": settings.threshold.model_copy(update={**limits, "alerts_per_day": None if per_day is None else float(per_day)}),
            "incidents": Incidents(**tree["incidents"]),
            "regime": Regime(**tree.get("regime", {"after": None})),  # a text of a version that knew no change
            "overrides": tuple(Override(**override) for override in tree["overrides"]),
        }
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"not the rules of a daemon: {error!r}") from None
    return settings.model_copy(update=live), partitions


def digest(settings: Settings) -> str:
    """Names what decides on alerts, 16 hex digits: equal on both logs, in live and in replay, whatever the machine."""
    tree = settings.model_dump(mode="json", include=_tree_of(DECIDING))
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]


def _tree_of(keys: Iterable[str]) -> Any:
    """Dotted keys as pydantic takes them: section → True for all of it, or the keys wanted."""
    tree: dict[str, Any] = {}
    for section, _, key in (name.partition(".") for name in keys):
        if key:
            tree.setdefault(section, set()).add(key)
        else:
            tree[section] = True
    return tree


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str) -> list[str]:
    found = []
    for key, before in old.items():
        name, after = f"{prefix}{key}", new[key]
        if isinstance(before, Mapping) and isinstance(after, Mapping) and set(before) == set(after):
            found += _differences(before, after, name + ".")
        elif before != after:
            found.append(name)
    return found
