"""Intervals calibrated anew each day, on the newest forecasts whose readings have come in since.

What validation asked for holds on days like the validation days; a season later it may not. Who forecasts all the
time also sees how far off the forecasts of the last week were, so that intervals can follow: those of a day are
calibrated on the newest LESSONS windows, an hour apart, of which every reading is known when the day begins.

Enter: forecasts in time order. Leave: quantiles. `Forecaster.recalibrate` does the same with recent readings.
Source: the fit is that of calibration.py; Barber, Candes, Ramdas, Tibshirani 2023, "Conformal prediction beyond
exchangeability", say why the newest readings bear a shift.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headway.data.calendar import HOUR, HOURS
from headway.data.prepared import PreparedMeta
from headway.models.calibration import Calibrator, Intervals, Misses, fit_calibrator
from headway.types import Batch

LESSONS = 7 * HOURS  # windows that a calibration looks at
FEWEST = HOURS  # with fewer of them, what validation asked for stays


def steps_apart(step_seconds: int) -> int:
    """Steps between two lessons: an hour, or one step where steps are longer."""
    return max(1, HOUR // step_seconds)


def lesson_origins(now: int, meta: PreparedMeta, first: int) -> Int[np.ndarray, " lesson"]:
    """Origins of the newest LESSONS windows whose readings are all known at step `now`, in time order.

    Args: first: no origin lies before it.
    """
    apart = steps_apart(meta.step_seconds)
    newest = -(-meta.horizon // apart)
    origins = now - apart * np.arange(newest + LESSONS - 1, newest - 1, -1)
    return origins[origins >= first]


class Recalibration:
    """The calibrator of each day of the test split; a day begins 24 lessons after the one before."""

    def __init__(self, meta: PreparedMeta, shipped: Calibrator) -> None:
        """`shipped`: fitted to the validation split, and used until there are enough lessons."""
        self._meta, self._first = meta, meta.splits["test"][0]
        self._apart = steps_apart(meta.step_seconds)
        self._lessons: dict[int, Misses] = {}  # by origin
        self._calibrator, self._day = shipped, -1

    def earlier_origins(self) -> Int[Tensor, " window"]:
        """The windows before the test split that its first days are calibrated on; training has none of them."""
        known = self._origins(self._first)
        oldest = known[0] if len(known) else self._meta.splits["validation"][0]
        origins = np.arange(self._first - self._apart, oldest - 1, -self._apart)[::-1]
        return torch.from_numpy(origins.copy())

    def learn(self, batch: Batch, said: Intervals) -> None:
        """See what came of the forecasts of a batch, as far as they are lessons."""
        for row in range(len(batch.origin)):
            self._learn(batch, said, row)

    def quantiles(self, batch: Batch, said: Intervals) -> Float[Tensor, "batch horizon node level"]:
        """Quantiles of LEVELS as each window's day has them; batches of the test split come in time order."""
        found = []
        for row, origin in enumerate(batch.origin.tolist()):
            day = (origin - self._first) // (HOURS * self._apart)
            if day > self._day:
                self._begin(day)
            found.append(self._calibrator.quantiles(said.window(row)))
            self._learn(batch, said, row)
        return torch.cat(found)

    def _learn(self, batch: Batch, said: Intervals, row: int) -> None:
        origin, window = int(batch.origin[row]), slice(row, row + 1)
        if (origin - self._first) % self._apart == 0:
            self._lessons[origin] = Misses.of(
                said.window(row), batch.target[window], batch.target_observed[window]
            )

    def _begin(self, day: int) -> None:
        origins = self._origins(self._first + day * HOURS * self._apart).tolist()
        if len(origins) >= FEWEST and any(self._lessons[origin].observed.any() for origin in origins):
            self._calibrator = fit_calibrator(self._lessons[origin] for origin in origins)
        self._day = day
        self._lessons = {
            key: lesson for key, lesson in self._lessons.items() if key >= min(origins, default=0)
        }

    def _origins(self, now: int) -> Int[np.ndarray, " lesson"]:
        return lesson_origins(now, self._meta, self._meta.splits["validation"][0])
