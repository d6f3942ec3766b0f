"""Naive forecasts that say how sure they are: what a distribution has to beat.

    climatology   the readings of training at this hour of this kind of day (working day or weekend)
    persistence   the last observed reading plus the errors that this made in training at this horizon

Each is an ensemble: MEMBERS equally likely readings, the middles of as many equal slices of what training showed.
Enters: the prepared data, then batches in physical units. Leaves: ensembles that are scored as mixtures are.

Glossary: member m, hour of day type (0..47), origin t = row of the first target step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headway.data.calendar import HOUR, HOURS, SATURDAY
from headway.data.prepared import Prepared
from headway.data.usual import last_observed
from headway.types import Batch

MEMBERS = 20
MOST_ROWS = 8192  # of training that quantiles are taken of
BLOCK = 256  # sensors at once: the training readings of all would not fit in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """Equally likely readings of every batch, horizon step and node, rising.

    Attributes:
        members: in the unit of the target.
    """

    members: Float[Tensor, "batch horizon node member"]

    def crps(self, y: Float[Tensor, "batch horizon node"]) -> Float[Tensor, "batch horizon node"]:
        """E|X - y| - 1/2 E|X - X'|, exactly, by the members' ranks."""
        count = self.members.shape[-1]
        distance = (self.members - y.unsqueeze(-1)).abs().mean(-1)
        rank = torch.arange(1, count + 1, dtype=self.members.dtype, device=self.members.device)
        return distance - (self.members * (2 * rank - count - 1)).sum(-1) / count**2


def naive_distributions(prepared: Prepared) -> dict[str, Callable[[Batch], Ensemble]]:
    """The naive distributions, learned from the training rows."""
    return {"climatology": Climatology(prepared), "persistence": Persistence(prepared)}


class Climatology:
    """What training showed at this hour of this kind of day, for each sensor."""

    def __init__(self, prepared: Prepared) -> None:
        rows = _sampled_rows(prepared.meta.training_rows)
        self._step_seconds = prepared.meta.step_seconds
        hours = _hour_of_day_type(prepared.calendar[rows].astype(np.int64), self._step_seconds)
        table = np.empty((2 * HOURS, prepared.meta.sensors, MEMBERS), np.float32)
        for sensors, readings in _blocks(prepared, rows):
            usual = _quantiles(readings)  # for an hour that training never showed
            for hour in range(2 * HOURS):
                found = _quantiles(readings[hours == hour])
                table[hour, sensors] = np.where(np.isnan(found), usual, found)
        anywhere = np.nanmean(table, axis=(0, 1))  # for a sensor that training never showed
        self._table = torch.from_numpy(np.where(np.isnan(table), anywhere, table))  # hour node member

    def __call__(self, batch: Batch) -> Ensemble:
        hours = _hour_of_day_type(batch.target_calendar.cpu().numpy(), self._step_seconds)
        return Ensemble(members=self._table[torch.from_numpy(hours)].to(batch.fallback.device))


class Persistence:
    """The last reading, and how wrong it was in training after so many steps, for each sensor."""

    def __init__(self, prepared: Prepared) -> None:
        rows, horizon = _sampled_rows(prepared.meta.training_rows), prepared.meta.horizon
        errors = np.empty((horizon, prepared.meta.sensors, MEMBERS), np.float32)
        for sensors, readings in _blocks(prepared, slice(prepared.meta.training_rows)):
            last = _held(readings)
            for step in range(1, horizon + 1):
                before = rows[rows < len(readings) - step]
                errors[step - 1, sensors] = _quantiles(readings[before + step] - last[before])
        self._errors = torch.from_numpy(np.nan_to_num(errors))  # horizon node member

    def __call__(self, batch: Batch) -> Ensemble:
        last, known = last_observed(batch.history[..., 0], batch.history_observed[..., 0])
        held = torch.where(known.unsqueeze(1), last.unsqueeze(1), batch.fallback)
        return Ensemble(members=held.unsqueeze(-1) + self._errors.to(held))


def _sampled_rows(rows: int) -> Int[np.ndarray, " row"]:
    """Rows of training at random, not every so many: those would be of some hours of the day only."""
    if rows <= MOST_ROWS:
        return np.arange(rows)
    return np.sort(np.random.default_rng(0).choice(rows, MOST_ROWS, replace=False))


def _blocks(
    prepared: Prepared, rows: slice | Int[np.ndarray, " row"]
) -> Iterator[tuple[slice, Float[np.ndarray, "row node"]]]:
    """Some sensors at once, and their readings of these rows; NaN where not observed."""
    for first in range(0, prepared.meta.sensors, BLOCK):
        sensors = slice(first, first + BLOCK)
        observed, values = prepared.observed[rows, sensors, 0], prepared.values[rows, sensors, 0]
        yield sensors, np.where(observed, values, np.float32(np.nan))


def _held(readings: Float[np.ndarray, "row node"]) -> Float[np.ndarray, "row node"]:
    """The newest observed reading at each row."""
    newest = np.where(np.isnan(readings), 0, np.arange(len(readings))[:, None])
    return np.take_along_axis(readings, np.maximum.accumulate(newest, axis=0), axis=0)


def _hour_of_day_type(calendar: Int[np.ndarray, "... 2"], step_seconds: int) -> Int[np.ndarray, "..."]:
    """0..23 on working days, 24..47 on weekends."""
    hour = np.minimum(calendar[..., 0] * step_seconds // HOUR, HOURS - 1)
    return hour + HOURS * (calendar[..., 1] >= SATURDAY)


def _quantiles(readings: Float[np.ndarray, "row node"]) -> Float[np.ndarray, "node member"]:
    """The middles of MEMBERS equal slices of each sensor's observed readings; NaN where there are none.

    Sorted once for all levels: numpy's nanquantile goes sensor by sensor, a hundred times slower.
    """
    count = (~np.isnan(readings)).sum(0)
    if not len(readings):
        return np.full((readings.shape[1], MEMBERS), np.nan, np.float32)
    ordered = np.sort(readings, axis=0)  # NaN last
    place = (np.arange(MEMBERS) + 0.5) / MEMBERS * count[:, None] - 0.5  # node member
    place = np.clip(place, 0, np.maximum(count - 1, 0)[:, None])
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, np.maximum(count - 1, 0)[:, None])
    low, high = (np.take_along_axis(ordered, index.T, axis=0).T for index in (below, above))
    return (low + (place - below) * (high - low)).astype(np.float32)
