"""What is usual: the mean reading of each sensor at each time of week, the "historical average" of the field.

Enters: training readings [step, node], NaN where not observed, and the calendar. Leaves: climatology
[time of week, node].

Glossary: time of week = day of week * slots per day + slot of day.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int16, Int64

from headway.data.calendar import time_of_week
from headway.data.store import release

BLOCK = 64  # sensors at once: their training rows stay within the processor's cache lines


def weekly_climatology(
    readings: Float[np.ndarray, "step node"],
    calendar: Int16[np.ndarray, "step 2"],
    slots: int,
    knows_weeks: bool,
) -> Float[np.ndarray, "time_of_week node"]:
    """Means with fallback: time of week, time of day, the sensor, the mean sensor, 0.

    Args:
        knows_weeks: whether each time of the week was seen twice. The mean of one reading is that reading: where it
            stands for a silent sensor it would be the very target in training, and never again. Days count alike
            then.
    """
    week = _groups(time_of_week(calendar, slots), 7 * slots) if knows_weeks else []
    day = _groups(calendar[:, 0].astype(np.int64), slots)
    always = _groups(np.zeros(len(readings), dtype=np.int64), 1)
    table = np.empty((7 * slots, readings.shape[1]), dtype=np.float32)
    own = np.empty((1, readings.shape[1]), dtype=np.float32)
    for first in range(0, readings.shape[1], BLOCK):
        block = np.ascontiguousarray(readings[:, first : first + BLOCK])
        own[:, first : first + BLOCK] = _means(block, always)
        usual = np.tile(_means(block, day), (7, 1))
        exact = _means(block, week) if knows_weeks else usual
        table[:, first : first + BLOCK] = np.where(np.isnan(exact), usual, exact)
        release(readings)
    anywhere = np.nanmean(own) if not np.isnan(own).all() else np.float32(0)
    own = np.where(np.isnan(own), anywhere, own)
    return np.where(np.isnan(table), own, table).astype(np.float32)


def _groups(keys: Int64[np.ndarray, " step"], count: int) -> list[np.ndarray]:
    order = np.argsort(keys, kind="stable")
    return np.split(order, np.searchsorted(keys[order], np.arange(1, count)))


def _means(
    readings: Float[np.ndarray, "step node"], groups: list[np.ndarray]
) -> Float[np.ndarray, "group node"]:
    """Mean of the observed readings of each group of rows, NaN where there is none."""
    means = np.full((len(groups), readings.shape[1]), np.nan, dtype=np.float32)
    for index, rows in enumerate(groups):
        group = readings[rows]
        count = (~np.isnan(group)).sum(axis=0)
        total = np.nansum(group, axis=0, dtype=np.float64)
        means[index] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return means
