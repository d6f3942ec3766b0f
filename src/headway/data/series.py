"""One file of readings, or of covariates, from the raw folder onto the grid of the target.

Enters: a raw folder, the grid, the rules of section `preprocess`. Leaves: `Variable` (physical units, NaN
where not observed) and `Covariates` (z-scored, 0 where missing), each with what was found.

Glossary: ahead = at a step, the value `horizon` steps later, which is known beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int64

from headway.data.grid import Grid, Placement, choose_step, mask_readings, place_rows, to_grid
from headway.data.holidays import NONE, holiday_flags
from headway.data.parquet import Times, columns_at_once, listing, read_readings, read_times
from headway.data.raw import RawFolder
from headway.data.rules import NO_BOUNDS, Bounds, Rules
from headway.data.scale import column_moments
from headway.data.split import WindowsParams
from headway.data.store import BLOCK, allocate, release
from headway.data.symptoms import stuck_steps
from headway.errors import InputError

COVARIATES = "covariates.parquet"
COUNTS = ("conflicts", "nulls", "implausible", "stuck")  # of a Variable, for each sensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """Readings on the grid, NaN where not observed; conflicts, nulls, implausible, stuck readings of each sensor."""

    readings: Float[np.ndarray, "step node"]
    placement: Placement
    repeated: int
    conflicts: Int64[np.ndarray, " node"]
    nulls: Int64[np.ndarray, " node"]
    implausible: Int64[np.ndarray, " node"]
    stuck: Int64[np.ndarray, " node"]


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
    path: Path, names: Sequence[str], times: Times, grid: Grid, rules: Rules, bounds: Bounds, scratch: Path
) -> Variable:
    """The named columns of a file on the grid, some columns at a time.

    Args: scratch: a folder with room for the readings, where they are many.
    Raises: InputError as read_readings, place_rows and to_grid do.
    """
    readings = allocate(grid.steps, len(names), scratch)
    width, parts = columns_at_once(len(times.utc)), []
    for first in range(0, len(names), width):
        batch = names[first : first + width]
        part = place_variable(read_readings(path, batch), batch, times, grid, rules, bounds, path)
        readings[:, first : first + width] = part.readings
        release(readings)
        parts.append(replace(part, readings=part.readings[:0].copy()))  # the counts are wanted
    counts = {name: np.concatenate([getattr(part, name) for part in parts]) for name in COUNTS}
    return replace(parts[0], readings=readings, **counts)


def keep_columns(variable: Variable, kept: Bool[np.ndarray, " node"], scratch: Path) -> Variable:
    """The variable of the sensors that are marked."""
    readings = allocate(len(variable.readings), int(kept.sum()), scratch)
    for index, source in enumerate(np.flatnonzero(kept).tolist()):
        readings[:, index] = variable.readings[:, source]
        if index % BLOCK == 0:
            release(readings)
            release(variable.readings)
    return replace(variable, readings=readings, **{name: getattr(variable, name)[kept] for name in COUNTS})


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

    Stuck readings go last: what is stuck is seen on the grid.

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
        stuck=_mask_stuck(readings, rules.stuck_steps),
    )


def _mask_stuck(readings: Float[np.ndarray, "step column"], least: int) -> Int64[np.ndarray, " column"]:
    """Set stuck readings to NaN, in place; how many of each column."""
    masked = np.zeros(readings.shape[1], dtype=np.int64)
    for index, column in enumerate(readings.T if least else ()):
        stuck = stuck_steps(column, least)
        masked[index] = stuck.sum()
        column[stuck] = np.nan
    return masked


def read_covariates(
    folder: RawFolder, windows: WindowsParams, grid: Grid, rules: Rules, training_rows: int
) -> Covariates:
    """The columns of `windows.covariate_columns()`; one of a coarser step holds until its next reading.

    Raises: InputError, also for a covariate without a reading in the training rows.
    """
    names = windows.covariate_columns()
    longer = Grid(first=grid.first, step=grid.step, steps=grid.steps + windows.horizon)
    given, held = _given_covariates(folder, windows, longer, rules)
    if windows.holidays != NONE:
        flags = holiday_flags(longer.time(), folder.zone, windows.holidays)
        given = np.column_stack([given, flags])
        if not flags[:training_rows].any():
            raise InputError(
                f"windows.holidays: no holiday of {windows.holidays} lies in the {training_rows} training steps, "
                "so nothing can be learned of them; set none"
            )
    moments = column_moments(given[:training_rows])
    if not moments.count.all():
        absent = [name for name, count in zip(names, moments.count, strict=True) if not count]
        raise InputError(
            f"{folder.path / COVARIATES}: no reading in the training rows of {listing(absent)}; leave it out of "
            "windows.covariates or mend the file"
        )
    std = np.sqrt(moments.variance)
    std = np.where(std > 1e-6 * np.maximum(1, np.abs(moments.mean)), std, 1).astype(np.float32)
    mean = moments.mean.astype(np.float32)
    values = look_ahead(standardize_covariates(given, mean, std), len(windows.covariates), windows.horizon)
    missing = np.isnan(look_ahead(given, len(windows.covariates), windows.horizon))
    shares = {name: round(float(share), 6) for name, share in zip(names, missing.mean(axis=0), strict=True)}
    found = {"held_steps": held, "missing_share": shares} if names else {}
    return Covariates(values=values, mean=mean, std=std, held=held, found=found)


def _given_covariates(
    folder: RawFolder, windows: WindowsParams, grid: Grid, rules: Rules
) -> tuple[Float[np.ndarray, "step column"], int]:
    """Columns of covariates.parquet, past ones first, and the steps for which a reading holds."""
    columns = [*windows.covariates, *windows.future_covariates]
    if not columns:
        return np.zeros((grid.steps, 0), np.float32), 1
    path = folder.path / COVARIATES
    names = list(dict.fromkeys(columns))
    times = read_times(path, folder.zone)
    moving = replace(rules, stuck_steps=0)  # a temperature may stay what it is
    variable = place_variable(read_readings(path, names), names, times, grid, moving, NO_BOUNDS, path)
    held = max(1, choose_step(times.utc, path) // grid.step)
    return hold(variable.readings, held)[:, [names.index(name) for name in columns]], held


def look_ahead(
    readings: Float[np.ndarray, "longer column"], past: int, horizon: int
) -> Float[np.ndarray, "step column"]:
    """The first `past` columns as they are, the others ahead; the last `horizon` rows are cut off."""
    return np.concatenate([readings[: len(readings) - horizon, :past], readings[horizon:, past:]], axis=1)


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
