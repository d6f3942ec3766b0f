"""One week of one sensor with its forecast, picked by rule before anything is forecast.

Enter: the prepared arrays, then the batches of the test pass. Leave: the rows of week.csv.
Glossary: step = how far ahead the plotted forecast was made, counted from 1; origin t = row of the
first target step, so that step h of a window is row t + h - 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from headway.data.calendar import HOUR, WEEK
from headway.data.prepared import Prepared
from headway.evaluation.tables import rounded
from headway.types import Batch


class SensorWeek:
    """Collects the first week of the test split (or all of it, where it is shorter) of one sensor."""

    def __init__(self, prepared: Prepared) -> None:
        meta = prepared.meta
        self.step = _plotted_step(meta.horizon, meta.step_seconds)
        first, last = meta.splits["test"]
        self._origins = range(first, min(last, first + max(1, WEEK // meta.step_seconds)))
        rows = slice(first + self.step - 1, self._origins.stop + self.step - 1)
        self.sensor = typical_sensor(prepared.values[rows, :, 0], prepared.observed[rows, :, 0])
        self._sensor_id = prepared.sensors["sensor_id"].iloc[self.sensor]
        self._time, self._zone = prepared.time, ZoneInfo(meta.time_zone)
        self._found: list[tuple[int, float | None, float]] = []

    def add(self, batch: Batch, point: Float[Tensor, "batch horizon node"]) -> None:
        """Keep what this batch holds of the week."""
        at = (slice(None), self.step - 1, self.sensor)
        readings = zip(
            batch.origin.tolist(),
            batch.target[at].tolist(),
            batch.target_observed[at].tolist(),
            point[at].tolist(),
            strict=True,
        )
        self._found += [
            (origin + self.step - 1, reading if observed else None, forecast)
            for origin, reading, observed, forecast in readings
            if origin in self._origins
        ]

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """(local civil time, sensor, reading or None, forecast) of each step, in time order."""
        for row, reading, forecast in self._found:
            moment = datetime.fromtimestamp(int(self._time[row]), self._zone)
            # without the offset, a browser shows it as the sensor's own clock did
            clock = moment.replace(tzinfo=None).isoformat()
            yield clock, self._sensor_id, rounded(reading), rounded(forecast)


def typical_sensor(values: Float[np.ndarray, "time node"], observed: Bool[np.ndarray, "time node"]) -> int:
    """Of the sensors with the most observed readings, the one whose spread is in the middle."""
    count = observed.sum(axis=0)
    candidates = np.flatnonzero(count == count.max())
    readings, known = values[:, candidates], observed[:, candidates]
    share = np.maximum(count[candidates], 1)
    mean = np.where(known, readings, 0).sum(axis=0, dtype=np.float64) / share
    spread = np.where(known, readings - mean, 0)
    order = np.argsort(np.square(spread).sum(axis=0), kind="stable")
    return int(candidates[order[len(order) // 2]])


def _plotted_step(horizon: int, step_seconds: int) -> int:
    """The step one hour ahead, or the last one where there is none."""
    step, remainder = divmod(HOUR, step_seconds)
    return step if remainder == 0 and 1 <= step <= horizon else horizon
