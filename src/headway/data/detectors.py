"""What imperfect detectors report of the true traffic: noise, bias, and outages in bursts.

Enters: true speed and flow. Leaves: readings, NaN where nothing was reported.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float32

from headway.data.road_plan import Stream, generator

_SINGLE = 0.1  # share of the losses that are single readings
_SHORTEST, _LONGEST = 30.0, 720.0  # minutes an outage lasts
_WORST = 0.9  # a sensor that would lose more than this share loses nothing


def read_speed(
    true: Float32[np.ndarray, "step sensor"], seed: int, noise: float
) -> Float32[np.ndarray, "step sensor"]:
    """Speed in km/h to one decimal: a calibration error per sensor, noise, worse at one in sixteen."""
    rng = generator(seed, Stream.NOISE, 0)
    sensors = true.shape[1]
    gain = rng.normal(1.0, 0.01, sensors).astype(np.float32)
    spread = (noise * np.where(rng.random(sensors) < 1 / 16, 2.5, 1.0)).astype(np.float32)
    seen = true * gain + rng.standard_normal(true.shape, dtype=np.float32) * spread
    return np.round(np.clip(seen, 1.0, 160.0), 1)


def read_flow(
    true: Float32[np.ndarray, "step sensor"], seed: int, step_minutes: int
) -> Float32[np.ndarray, "step sensor"]:
    """Flow in vehicles an hour: whole vehicles counted in a step, two in a hundred missed or doubled."""
    rng = generator(seed, Stream.NOISE, 1)
    steps_per_hour = np.float32(60 / step_minutes)
    count = true / steps_per_hour
    count = count + rng.standard_normal(true.shape, dtype=np.float32) * np.sqrt(0.02 * count)
    return np.round(np.maximum(count, 0.0)) * steps_per_hour


def draw_outages(
    steps: int, sensors: int, seed: int, share: float, minutes: int
) -> Bool[np.ndarray, "step sensor"]:
    """True where a reading is lost: mostly bursts of half an hour to twelve hours.

    Burst lengths are log-uniform. Sensors differ (a few lose five times as much as the others).
    Bursts may overlap: their number is chosen so that the expected share of losses is `share`.
    """
    rng = generator(seed, Stream.OUTAGES)
    lost = np.zeros((steps, sensors), dtype=bool)
    weight = rng.gamma(4.0, 0.25, sensors) * np.where(rng.random(sensors) < 1 / 16, 5.0, 1.0)
    burst_share = np.minimum((1.0 - _SINGLE) * share * weight / weight.mean(), 0.7)
    low, high = np.log(_SHORTEST / minutes), np.log(_LONGEST / minutes)
    mean_length = (np.exp(high) - np.exp(low)) / (high - low)
    # n bursts of mean length m, thrown at random on T steps, leave exp(-n m / T) of them uncovered
    bursts = rng.poisson(-np.log1p(-burst_share) * steps / mean_length)
    for sensor, count in enumerate(bursts):
        length = np.maximum(1, np.rint(np.exp(rng.uniform(low, high, count)))).astype(np.int64)
        start = rng.integers(-length + 1, steps, count)
        for first, size in zip(start, length, strict=True):
            lost[max(first, 0) : first + size, sensor] = True
    lost |= rng.random((steps, sensors), dtype=np.float32) < _SINGLE * share
    lost[:, lost.mean(axis=0) > _WORST] = False
    return lost
