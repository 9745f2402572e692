"""Level and residual: averages that leave the place they usually have, of the values, and of what the network did not foresee."""

from __future__ import annotations

from torch import Tensor

from anomaly_daemon.channels.base import Evidence, Seen
from anomaly_daemon.domain.columns import Column
from anomaly_daemon.model.charts import Chart, ChartFit
from anomaly_daemon.settings import Chart as ChartSettings

LEVEL, RESIDUAL = "level", "residual"


class ChartChannel:
    """One chart, held against what training saw."""

    def __init__(self, name: str, fit: ChartFit, settings: ChartSettings, device: str) -> None:
        self._name = name
        self._fit = ChartFit(fit.spans, fit.whitening.to(device), fit.ordinary.to(device))
        self._chart = Chart(name, settings, fit.spans, fit.whitening.shape[-1])

    @property
    def columns(self) -> tuple[Column, ...]:
        """What it keeps per entity."""
        return self._chart.columns

    def observe(self, seen: Seen, values: Tensor) -> dict[str, Evidence]:
        """Evidence of each row's values, float32 [N, F]; then learn."""
        widths = seen.layout.widths.tolist()
        differences = self._chart.differences(widths, seen.rows, values, seen.index.seen == 0)
        squares = self._chart.squares(widths, seen.rows, differences, self._fit.whitening)
        error = self._fit.error(squares)
        return {self._name: Evidence(error, ~error.isnan(), lambda row: (squares[row].double() / self._fit.ordinary[:, None]).sum(0))}
