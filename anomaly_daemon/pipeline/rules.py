"""What may change while the daemon runs, and which of it an entity is under."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anomaly_daemon.domain.entity import Profiles
from anomaly_daemon.domain.records import Partition
from anomaly_daemon.incidents.regime import RegimeRule
from anomaly_daemon.settings import Incidents as IncidentRules


@dataclass(frozen=True, slots=True)
class Rules:
    """By profile: row 0 for everybody, row i + 1 for the i-th override.

    alerts_per_day: incidents that a partition may open in a day, its z moving to meet it; None: any number, z as it is set.
    """

    profiles: Profiles
    parameters: Mapping[str, NDArray[np.float64]]
    incidents: Sequence[IncidentRules]
    regimes: Sequence[RegimeRule]
    alerts_per_day: float | None = None


def governed(
    rules_of: Mapping[Partition, Rules], owners: Sequence[Partition], entities: Sequence[str]
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]]]:
    """Profile and parameters of each entity, by the rules of its partition: one that recovers may still be under older ones."""
    rules = list({id(one): one for one in rules_of.values()}.values())
    if len(rules) == 1:
        profile = np.array([rules[0].profiles.index(entity) for entity in entities], np.int64)
        return profile, {name: by_profile[profile] for name, by_profile in rules[0].parameters.items()}
    found = [rules_of[owner] for owner in owners]
    indices = [one.profiles.index(entity) for one, entity in zip(found, entities, strict=True)]
    names = rules[0].parameters
    parameters = {name: np.array([one.parameters[name][index] for one, index in zip(found, indices, strict=True)]) for name in names}
    return np.array(indices, np.int64), parameters
