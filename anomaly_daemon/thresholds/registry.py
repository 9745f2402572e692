"""Every judging method by its name in the settings."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping

from anomaly_daemon.domain.errors import SettingsError
from anomaly_daemon.settings import RIVER_PREFIX, is_river
from anomaly_daemon.settings import Threshold as ThresholdSettings
from anomaly_daemon.statistics.score_prior import UNKNOWN, ScorePrior
from anomaly_daemon.thresholds.base import Threshold
from anomaly_daemon.thresholds.ewma import EwmaThreshold
from anomaly_daemon.thresholds.quantile import quantile_threshold
from anomaly_daemon.thresholds.river import RiverThreshold
from anomaly_daemon.thresholds.spot import spot_threshold
from anomaly_daemon.thresholds.static import StaticThreshold

METHODS: Mapping[str, Callable[[ThresholdSettings, ScorePrior], Threshold]] = {
    "ewma": EwmaThreshold,
    "spot": spot_threshold,
    "quantile": quantile_threshold,
    "static": StaticThreshold,
}


def build(settings: ThresholdSettings, prior: ScorePrior = UNKNOWN) -> Threshold:
    """The threshold that the settings name, begun from this prior. Raises SettingsError naming the nearest method, or the parameter that is wrong."""
    if is_river(settings.method):
        return RiverThreshold(settings)
    if settings.parameters:
        raise SettingsError(f"threshold.parameters: only river: methods take them, not {settings.method!r}; leave them out")
    if settings.method not in METHODS:
        near = difflib.get_close_matches(settings.method, METHODS, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(METHODS)}, {RIVER_PREFIX}MODULE.CLASS"
        raise SettingsError(f"threshold.method: {settings.method!r} does not exist; {hint}")
    return METHODS[settings.method](settings, prior)
