"""Level, residual, linear: averages that leave the place they usually have, of values, and of what the network or a line did not foresee."""

from __future__ import annotations

import torch
from torch import Tensor

from anomaly_daemon.channels.base import Evidence, Seen
from anomaly_daemon.domain.columns import Column
from anomaly_daemon.model.charts import Chart, ChartFit
from anomaly_daemon.model.linear import LinearFit, bank, before, foreseen
from anomaly_daemon.settings import Chart as ChartSettings
from anomaly_daemon.statistics.mewma import pulled, without_zeros
from anomaly_daemon.statistics.ordered import summed

LEVEL, LINEAR = "level", "linear"


class ChartChannel:
    """One chart, held against what training saw."""

    def __init__(self, name: str, fit: ChartFit, settings: ChartSettings, device: str) -> None:
        self._name = name
        self._fit = ChartFit(fit.spans, without_zeros(fit.whitening).to(device), fit.ordinary.to(device))
        self._chart = Chart(name, settings, fit.spans, fit.whitening.shape[-1])
        self._unseen = pulled(fit.spans, self._fit.whitening)

    @property
    def columns(self) -> tuple[Column, ...]:
        """What it keeps per entity."""
        return self._chart.columns

    def observe(self, seen: Seen, values: Tensor) -> dict[str, Evidence]:
        """Evidence of each row's values, float32 [N, F]; then learn."""
        widths = seen.layout.widths.tolist()
        differences = self._chart.differences(widths, seen.rows, values, self._unseen)
        squares = self._chart.squares(widths, seen.rows, differences, self._fit.whitening)
        error = self._fit.error(squares)
        return {self._name: Evidence(error, ~error.isnan(), lambda chosen: self._terms(squares.index_select(0, chosen)))}

    def _terms(self, squares: Tensor) -> Tensor:
        return summed(squares.double() / self._fit.ordinary[:, None])


class LevelChannel:
    """The chart of the values."""

    def __init__(self, chart: ChartFit, settings: ChartSettings, device: str) -> None:
        self._chart = ChartChannel(LEVEL, chart, settings, device)

    @property
    def columns(self) -> tuple[Column, ...]:
        """See Channel."""
        return self._chart.columns

    def observe(self, seen: Seen) -> dict[str, Evidence]:
        """See Channel."""
        return self._chart.observe(seen, seen.scaled)


class LinearChannel:
    """The chart of what a linear forecast from the entity's averages did not foresee."""

    def __init__(self, linear: LinearFit, chart: ChartFit, settings: ChartSettings, device: str) -> None:
        self._fit = LinearFit(linear.weights.to(device), linear.level.to(device))
        self._bank, self._unseen = bank(len(linear.level)), foreseen(self._fit)
        self._chart = ChartChannel(LINEAR, chart, settings, device)

    @property
    def columns(self) -> tuple[Column, ...]:
        """See Channel."""
        return (*self._bank.columns, *self._chart.columns)

    def observe(self, seen: Seen) -> dict[str, Evidence]:
        """See Channel."""
        first = seen.rows[self._bank.columns[0].name].clone()
        after = self._bank.differences(seen.layout.widths.tolist(), seen.rows, seen.scaled, seen.index.seen == 0, self._unseen)
        previous = torch.from_numpy(seen.layout.previous[len(first) :]).to(after.device)
        residual = self._fit.residual(before(previous, first, after), seen.scaled)
        return self._chart.observe(seen, torch.where((seen.index.count > 1)[:, None], residual, torch.nan))
