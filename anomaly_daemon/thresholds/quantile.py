"""Threshold at a rolling quantile of the entity's last deviations."""

from __future__ import annotations

import math

from anomaly_daemon.domain.errors import SettingsError
from anomaly_daemon.settings import Threshold as ThresholdSettings
from anomaly_daemon.statistics.quantile import RollingQuantile
from anomaly_daemon.statistics.score_prior import UNKNOWN, ScorePrior
from anomaly_daemon.statistics.window import Window
from anomaly_daemon.statistics.window_tail import WindowTail
from anomaly_daemon.thresholds.base import PREFIX
from anomaly_daemon.thresholds.ewma import EwmaThreshold


def quantile_threshold(settings: ThresholdSettings, prior: ScorePrior = UNKNOWN) -> EwmaThreshold:
    """The 1 − `tail` quantile of the last `window` deviations, at first training's: no rank is rarer than one in as many as there are.

    Raises SettingsError where the window holds no score that rare.
    """
    if settings.tail * settings.window < 1:
        raise SettingsError(
            f"threshold.tail: {settings.tail:g} is rarer than one score in a window of {settings.window}; "
            f"set threshold.window to {math.ceil(1 / settings.tail)} or more, or threshold.method to spot"
        )
    window = f"{PREFIX}.window"
    quantile = RollingQuantile(window, Window(window, settings.window, prior.sample(settings.window)), settings.tail)
    return EwmaThreshold(settings, prior, WindowTail(PREFIX, quantile, settings.tail))
