"""Mean and standard deviation of observed training readings.

Enters: readings [step, column] of the training rows, NaN where not observed. Leaves: one mean and deviation a
channel ("global") or a column ("per_sensor").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64, Int64

from headway.data.store import each_column

Scaling = Literal["global", "per_sensor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Count, mean and population variance of each column; mean and variance are 0 without a reading."""

    count: Int64[np.ndarray, " column"]
    mean: Float64[np.ndarray, " column"]
    variance: Float64[np.ndarray, " column"]


def column_moments(readings: Float[np.ndarray, "step column"]) -> Moments:
    """Moments of the observed readings, column by column in float64 (no copy of the whole)."""
    columns = readings.shape[1]
    count = np.zeros(columns, dtype=np.int64)
    mean, variance = np.zeros(columns), np.zeros(columns)
    for index, column in each_column(readings):
        seen = column[~np.isnan(column)].astype(np.float64)
        count[index] = len(seen)
        if len(seen):
            mean[index], variance[index] = seen.mean(), seen.var()
    return Moments(count=count, mean=mean, variance=variance)


def scale_of(moments: Moments, scaling: Scaling) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation, float32 of shape [] or [column].

    A column without readings or spread gets the global numbers; without any spread the deviation is 1.
    """
    total = max(1, int(moments.count.sum()))
    mean = float((moments.count * moments.mean).sum() / total)
    spread = moments.variance + (moments.mean - mean) ** 2  # law of total variance
    std = float(np.sqrt((moments.count * spread).sum() / total))
    std = std if std > 1e-6 * max(1.0, abs(mean)) else 1.0
    if scaling == "global":
        return np.asarray(mean, np.float32), np.asarray(std, np.float32)
    own = np.sqrt(moments.variance)
    usable = (moments.count > 0) & (own > 1e-6 * np.maximum(1.0, np.abs(moments.mean)))
    return (
        np.where(usable, moments.mean, mean).astype(np.float32),
        np.where(usable, own, std).astype(np.float32),
    )
