"""What every peer of ours is to the code that judges it, and what all of them read.

Enters: the opened prepared folder. Leaves: windows of it, the scale of its training readings, and, from the modules
`peer_*.py`, a `Fitted`.

Glossary: N sensors; context = the windows a day and a week ago, as `Batch.past` and `Batch.anchors` hold them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from headway.data.prepared import Prepared
from headway.data.windows import Windows
from headway.types import Batch, Forecast

SMALLEST_STD = 1e-3  # of a sensor; one that hardly moves is scaled as all together are


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A peer that is ready to forecast.

    Attributes:
        forecaster: physical units in and out. windows: what its batches are gathered by.
        parameters: numbers that were fitted.
        steps: of an optimizer, 0 where there is none.
        curve: (seconds since it began to learn, validation MAE) at each look.
    """

    forecaster: Callable[[Batch], Forecast]
    windows: Windows
    parameters: int
    steps: int = 0
    curve: tuple[tuple[float, float], ...] = ()


def peer_windows(prepared: Prepared, device: torch.device, *, context: bool) -> Windows:
    """Windows with the context or without it, and without the trailing climatology, which is ours."""
    lags = prepared.meta.context if context else ()
    meta = replace(prepared.meta, context=lags, trailing=(), trailing_days=())
    return Windows(replace(prepared, meta=meta), device)


def training_readings(prepared: Prepared) -> np.ndarray:
    """The target in the rows that histories of training cover, [row, N], NaN where not observed."""
    rows = slice(prepared.meta.training_rows)
    return np.where(prepared.observed[rows, :, 0], prepared.values[rows, :, 0], np.float32(np.nan))


def training_scale(prepared: Prepared, *, per_sensor: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the observed training readings, both [N]: of each sensor, or those of all together."""
    seen = training_readings(prepared)
    everywhere = np.full(seen.shape[1], np.nanmean(seen, dtype=np.float64))
    spread = np.full(seen.shape[1], np.nanstd(seen, dtype=np.float64))
    if not per_sensor:
        return everywhere.astype(np.float32), spread.astype(np.float32)
    count = (~np.isnan(seen)).sum(0)
    mean = np.where(count > 0, np.nansum(seen, 0, dtype=np.float64) / np.maximum(count, 1), everywhere)
    square = np.nansum((seen - mean) ** 2, 0, dtype=np.float64) / np.maximum(count, 1)
    std = np.where(np.sqrt(square) > SMALLEST_STD, np.sqrt(square), spread)
    return mean.astype(np.float32), std.astype(np.float32)
