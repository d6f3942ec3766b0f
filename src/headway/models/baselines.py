"""Naive forecasts, called as a model is: a batch in physical units enters, a forecast leaves.

They need no training and are judged by the code that judges the model. Where a definition has no
observed reading to offer, the forecast is the historical average.
Glossary: batch B, horizon H, sensor N; origin t = row of the first target step.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headway.data.calendar import WEEK
from headway.data.prepared import Prepared
from headway.data.usual import last_observed
from headway.types import Batch, Forecast, PointForecast

NAIVE = ("persistence", "historical_average", "same_time_last_week")  # in the order of all tables


def naive_forecasts(prepared: Prepared) -> dict[str, Callable[[Batch], Forecast]]:
    """Every naive forecast that exists for this series, in the order of NAIVE.

    `same_time_last_week` is left out where a week is no whole number of steps, and where the
    horizon is longer than a week: last week's reading would then lie behind the origin.
    """
    forecasts: dict[str, Callable[[Batch], Forecast]] = {
        "persistence": persistence,
        "historical_average": historical_average,
    }
    week, remainder = divmod(WEEK, prepared.meta.step_seconds)
    if remainder == 0 and week >= prepared.meta.horizon:
        forecasts["same_time_last_week"] = SameTimeLastWeek(prepared.values, prepared.observed, week)
    return forecasts


def persistence(batch: Batch) -> Forecast:
    """The last observed reading of the history, held for the whole horizon."""
    last, known = last_observed(batch.history[..., 0], batch.history_observed[..., 0])
    return PointForecast(point=torch.where(known.unsqueeze(1), last.unsqueeze(1), batch.fallback))


def historical_average(batch: Batch) -> Forecast:
    """The training climatology of the target's time of week."""
    return PointForecast(point=batch.fallback)


class SameTimeLastWeek:
    """The reading exactly one week before the target step."""

    def __init__(
        self,
        values: Float[np.ndarray, "time node channel"],
        observed: Bool[np.ndarray, "time node channel"],
        week: int,
    ) -> None:
        """`values` and `observed` [T, N, C] are the prepared arrays (memory-mapped); `week` is in steps."""
        self._values, self._observed, self._week = values, observed, week

    def __call__(self, batch: Batch) -> Forecast:
        rows = _target_rows(batch) - self._week
        within = np.maximum(rows, 0)  # rows before the series are read as row 0 and then not used
        reading = torch.from_numpy(self._values[within, :, 0]).to(batch.fallback)
        observed = torch.from_numpy(self._observed[within, :, 0] & (rows >= 0)[..., None])
        return PointForecast(point=torch.where(observed.to(reading.device), reading, batch.fallback))


def _target_rows(batch: Batch) -> Int[np.ndarray, "batch horizon"]:
    steps: Int[Tensor, " horizon"] = torch.arange(batch.fallback.shape[1])
    return (batch.origin.cpu()[:, None] + steps).numpy()
