"""River's estimators behind one face: found by name, built from settings, asked about one score at a time."""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from anomaly_daemon.domain.errors import SettingsError
from anomaly_daemon.settings import RIVER_PREFIX
from anomaly_daemon.settings import Threshold as ThresholdSettings
from anomaly_daemon.statistics.window import VALUE_MAX

_MODULES = ("anomaly", "stats")  # nothing else is ever imported by name
_QUANTILES = ("Quantile", "RollingQuantile", "Max", "RollingMax")  # of stats: a threshold by themselves; a maximum is the last quantile
_ACCEPTED = "a detector or filter of river.anomaly, or stats.Quantile, RollingQuantile, Max or RollingMax"
_PROBE_SCORES = (0.5, 1.0, 2.0)


class Estimator(Protocol):
    """One entity's estimator."""

    def judge(self, score: float, level: float) -> tuple[float, bool]:
        """The threshold, on the scale of the score, and whether the score is beyond it; nothing is learned."""
        ...

    def learn(self, score: float) -> None:
        """Take the score in."""
        ...


class Statistic:
    """A quantile: its value is the threshold."""

    def __init__(self, statistic: Any) -> None:
        self._statistic = statistic

    def judge(self, score: float, level: float) -> tuple[float, bool]:  # noqa: ARG002 - the level is the detectors'
        """See Estimator."""
        threshold = self._statistic.get()
        threshold = VALUE_MAX if threshold is None or math.isnan(threshold) else min(max(float(threshold), 0.0), VALUE_MAX)
        return threshold, score > threshold

    def learn(self, score: float) -> None:
        """See Estimator."""
        self._statistic.update(score)


class Detector:
    """A detector, or a filter around one: a detector's reading is held against the level, a filter classifies it itself."""

    def __init__(self, detector: Any) -> None:
        self._detector = detector
        self._is_filter = hasattr(detector, "classify")
        inner = detector.anomaly_detector if self._is_filter else detector
        self._is_supervised = "y" in inspect.signature(inner.score_one).parameters

    def judge(self, score: float, level: float) -> tuple[float, bool]:
        """See Estimator; the threshold is where the reading would reach its bound if it grew as the score does."""
        reading = float(self._detector.score_one(*self._arguments(score)))
        if math.isnan(reading):
            return VALUE_MAX, False
        reading = min(max(reading, -VALUE_MAX), VALUE_MAX)
        is_anomaly = bool(self._detector.classify(reading)) if self._is_filter else reading >= level
        bound = self._bound() if self._is_filter else level
        threshold = min(score * bound / reading, VALUE_MAX) if reading > 0 and bound > 0 else VALUE_MAX
        return (min(threshold, score) if is_anomaly else max(threshold, score)), is_anomaly

    def learn(self, score: float) -> None:
        """See Estimator."""
        self._detector.learn_one(*self._arguments(score))

    def _bound(self) -> float:
        """The reading from which the filter classifies as anomalous."""
        bound = self._detector.quantile.get() if hasattr(self._detector, "quantile") else self._detector.threshold
        return VALUE_MAX if bound is None else float(bound)

    def _arguments(self, score: float) -> tuple[Any, ...]:
        return ({}, score) if self._is_supervised else ({"score": score / (1 + score)},)


def factory(settings: ThresholdSettings) -> Callable[[], Estimator]:
    """A maker of fresh estimators of `settings.method`, proved on a few scores. Raises SettingsError when it cannot be."""
    path = settings.method.removeprefix(RIVER_PREFIX)
    found = _find(path)
    accepted = inspect.signature(found).parameters
    usual: dict[str, float | int] = {"seed": 0}  # unseeded, each run would draw other trees and a replay would differ
    if path.startswith("stats."):
        usual |= {"q": 1 - settings.tail, "window_size": settings.window}
    parameters = {name: value for name, value in usual.items() if name in accepted} | settings.parameters

    def make() -> Estimator:
        built = found(**{name: _resolved(value) for name, value in parameters.items()})
        return Detector(built) if hasattr(built, "score_one") else Statistic(built)

    _prove(make, settings, f"{found.__name__}{inspect.signature(found)}")
    return make


def _prove(make: Callable[[], Estimator], settings: ThresholdSettings, signature: str) -> None:
    try:
        estimator = make()
    except (TypeError, ValueError, AttributeError) as error:
        raise SettingsError(f"threshold.parameters: {settings.method}: {error}; it is made by {signature}") from None
    try:
        for score in _PROBE_SCORES:
            estimator.judge(score, settings.level)
            estimator.learn(score)
    except (TypeError, ValueError, AttributeError, KeyError, NotImplementedError) as error:
        raise SettingsError(f"threshold.method: {settings.method} cannot judge single scores ({error}); name another: {_ACCEPTED}") from None


def is_judged_by_level(method: str) -> bool:
    """Whether `threshold.level` is held against the reading of a detector of river, on that detector's own scale."""
    path = method.removeprefix(RIVER_PREFIX)
    return path != method and path.startswith("anomaly.") and not hasattr(_find(path), "classify")


def _resolved(value: object) -> object:
    """A parameter that names an estimator, as QuantileFilter's `anomaly_detector: anomaly.GaussianScorer`, becomes a new one."""
    if not isinstance(value, str) or value.split(".")[0] not in _MODULES:
        return value
    found = _find(value)
    return found(seed=0) if "seed" in inspect.signature(found).parameters else found()


def _find(path: str) -> Any:
    known = _known()
    if path in known:
        return known[path]
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.87)
    hint = f"did you mean `{RIVER_PREFIX}{near[0]}`?" if near else f"name {_ACCEPTED}"
    raise SettingsError(f"threshold.method: {RIVER_PREFIX}{path}: neither an anomaly detector nor a quantile estimator of river; {hint}")


def _known() -> Mapping[str, Any]:
    anomaly, stats = (importlib.import_module(f"river.{module}") for module in _MODULES)
    known = {f"anomaly.{name}": getattr(anomaly, name) for name in anomaly.__all__}
    return known | {f"stats.{name}": getattr(stats, name) for name in _QUANTILES}
