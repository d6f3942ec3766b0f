"""One file of readings, or of covariates, from the raw folder onto the grid of the target.

Enters: a raw folder, the grid, the rules of section `preprocess`. Leaves: `Variable` (physical units, NaN
where not observed) and `Covariates` (z-scored, 0 where missing), each with what was found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64

from headway.data.grid import (
    Duplicates,
    Grid,
    OffGrid,
    Placement,
    choose_step,
    mask_readings,
    place_rows,
    to_grid,
)
from headway.data.parquet import Times, listing, read_readings, read_times
from headway.data.raw import RawFolder
from headway.data.scale import column_moments
from headway.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How rows are brought onto the grid."""

    duplicates: Duplicates
    off_grid: OffGrid


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Which readings are none: equal to `null`, or outside minimum..maximum; None for no such rule."""

    null: float | None
    minimum: float | None
    maximum: float | None


NO_BOUNDS = Bounds(null=None, minimum=None, maximum=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """Readings on the grid, NaN where not observed; conflicts, nulls, implausible readings of each sensor."""

    readings: Float[np.ndarray, "step node"]
    placement: Placement
    repeated: int
    conflicts: Int64[np.ndarray, " node"]
    nulls: Int64[np.ndarray, " node"]
    implausible: Int64[np.ndarray, " node"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Covariates:
    """Z-scored by observed training rows, 0 where missing; `found` is for the quality report."""

    values: Float[np.ndarray, "step covariate"]
    mean: Float[np.ndarray, " covariate"]
    std: Float[np.ndarray, " covariate"]
    found: dict[str, Any]


def read_variable(
    path: Path, names: Sequence[str], times: Times, grid: Grid, rules: Rules, bounds: Bounds
) -> Variable:
    """Read, mask, place; nulls are masked before duplicates are merged, so that no mean counts them.

    Raises: InputError as read_readings, place_rows and to_grid do.
    """
    placement = place_rows(times.utc, grid, rules.off_grid, path)
    readings = read_readings(path, names)
    nulls, implausible = mask_readings(readings, bounds.null, bounds.minimum, bounds.maximum)
    readings, conflicts = to_grid(readings, placement, grid, rules.duplicates, names, path)
    return Variable(
        readings=readings,
        placement=placement,
        repeated=times.repeated,
        conflicts=conflicts,
        nulls=nulls,
        implausible=implausible,
    )


def read_covariates(
    folder: RawFolder, names: Sequence[str], grid: Grid, rules: Rules, training_rows: int
) -> Covariates:
    """Covariates on the grid; one of a coarser step holds until its next reading (the past only).

    Raises: InputError, also for a covariate without a reading in the training rows.
    """
    if not names:
        none = np.zeros(0, dtype=np.float32)
        return Covariates(values=np.zeros((grid.steps, 0), np.float32), mean=none, std=none, found={})
    path = folder.path / "covariates.parquet"
    times = read_times(path, folder.zone)
    variable = read_variable(path, names, times, grid, rules, NO_BOUNDS)
    held = max(1, choose_step(times.utc, path) // grid.step)
    frame = pd.DataFrame(variable.readings)
    readings = frame.ffill(limit=held - 1).to_numpy() if held > 1 else variable.readings
    moments = column_moments(readings[:training_rows])
    if not moments.count.all():
        absent = [name for name, count in zip(names, moments.count, strict=True) if not count]
        raise InputError(
            f"{path}: no reading in the training rows of {listing(absent)}; leave it out of "
            "windows.covariates or mend the file"
        )
    std = np.sqrt(moments.variance)
    std = np.where(std > 1e-6 * np.maximum(1, np.abs(moments.mean)), std, 1).astype(np.float32)
    mean = moments.mean.astype(np.float32)
    missing = np.isnan(readings)
    shares = {name: round(float(share), 6) for name, share in zip(names, missing.mean(axis=0), strict=True)}
    values = np.where(missing, np.float32(0), (readings - mean) / std).astype(np.float32)
    found = {"held_steps": held, "missing_share": shares}
    return Covariates(values=values, mean=mean, std=std, found=found)
