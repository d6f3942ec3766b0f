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

from headway.data.grid import Grid, Placement, choose_step, mask_readings, place_rows, to_grid
from headway.data.parquet import Times, listing, read_readings, read_times
from headway.data.raw import RawFolder
from headway.data.rules import NO_BOUNDS, Bounds, Rules
from headway.data.scale import column_moments
from headway.errors import InputError


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
    """Z-scored by observed training rows, 0 where missing; `found` is for the quality report.

    `held` is the number of steps for which a reading holds.
    """

    values: Float[np.ndarray, "step covariate"]
    mean: Float[np.ndarray, " covariate"]
    std: Float[np.ndarray, " covariate"]
    held: int
    found: dict[str, Any]


def read_variable(
    path: Path, names: Sequence[str], times: Times, grid: Grid, rules: Rules, bounds: Bounds
) -> Variable:
    """The named columns of a file on the grid.

    Raises: InputError as read_readings, place_rows and to_grid do.
    """
    return place_variable(read_readings(path, names), names, times, grid, rules, bounds, path)


def place_variable(
    readings: Float[np.ndarray, "row column"],
    names: Sequence[str],
    times: Times,
    grid: Grid,
    rules: Rules,
    bounds: Bounds,
    path: Path | str,
) -> Variable:
    """Mask (in place), then put onto the grid: nulls go before duplicates are merged, so no mean counts them.

    Args: path: where the readings come from, for messages.
    Raises: InputError as place_rows and to_grid do.
    """
    placement = place_rows(times.utc, grid, rules.off_grid, path)
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
        empty = np.zeros((grid.steps, 0), np.float32)
        return Covariates(values=empty, mean=none, std=none, held=1, found={})
    path = folder.path / "covariates.parquet"
    times = read_times(path, folder.zone)
    variable = read_variable(path, names, times, grid, rules, NO_BOUNDS)
    held = max(1, choose_step(times.utc, path) // grid.step)
    readings = hold(variable.readings, held)
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
    values = standardize_covariates(readings, mean, std)
    found = {"held_steps": held, "missing_share": shares}
    return Covariates(values=values, mean=mean, std=std, held=held, found=found)


def hold(readings: Float[np.ndarray, "step column"], steps: int) -> Float[np.ndarray, "step column"]:
    """Each reading stands for `steps` steps, its own included, or until the next one."""
    if steps <= 1:
        return readings
    return pd.DataFrame(readings).ffill(limit=steps - 1).to_numpy()


def standardize_covariates(
    readings: Float[np.ndarray, "step covariate"],
    mean: Float[np.ndarray, " covariate"],
    std: Float[np.ndarray, " covariate"],
) -> Float[np.ndarray, "step covariate"]:
    """Z-scores, 0 where missing."""
    return np.where(np.isnan(readings), np.float32(0), (readings - mean) / std).astype(np.float32)
