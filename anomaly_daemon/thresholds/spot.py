"""Threshold at a tail probability that window-SPOT extrapolates from the entity's last deviations."""

from __future__ import annotations

from anomaly_daemon.domain.errors import SettingsError
from anomaly_daemon.settings import Threshold as ThresholdSettings
from anomaly_daemon.statistics.score_prior import UNKNOWN, ScorePrior
from anomaly_daemon.statistics.spot import Spot
from anomaly_daemon.statistics.window import TAIL_PROBABILITY_MIN, Window
from anomaly_daemon.statistics.window_tail import WindowTail
from anomaly_daemon.thresholds.base import PREFIX
from anomaly_daemon.thresholds.ewma import EwmaThreshold

_FIRST = 200  # deviations of training's that a window begins with: enough to fit, and soon outnumbered by the entity's own


def spot_threshold(settings: ThresholdSettings, prior: ScorePrior = UNKNOWN) -> EwmaThreshold:
    """The deviation that a normal score exceeds with probability `tail`. Raises SettingsError for a tail below 1e-4."""
    if settings.tail < TAIL_PROBABILITY_MIN:
        raise SettingsError(
            f"threshold.tail: {settings.tail:g} is rarer than a window of scores can bear out; set it to {TAIL_PROBABILITY_MIN:g} or more"
        )
    window = f"{PREFIX}.window"
    spot = Spot(window, Window(window, settings.window, prior.sample(min(_FIRST, settings.window))), settings.tail)
    return EwmaThreshold(settings, prior, WindowTail(PREFIX, spot, settings.tail))
