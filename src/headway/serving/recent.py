"""Recent readings as people have them, onto the last rows of a grid like the one a model was trained on.

Enter: tables in the raw contract's shape (a column `timestamp` or a DatetimeIndex, one numeric column a sensor)
and what the model's folder says of its data. Leaves: `Recent`, from which `Windows` gathers the one window that
ends with the newest row. The grid, the rules and the calendar are those of preprocess.

Glossary: reach = steps before the origin that a forecast reads; the grid has just so many (more, where forecasts of
the past are wanted), then `horizon` empty ones: older rows change nothing, rows that are not given are unobserved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int16

from headway.data.calendar import civil_calendar
from headway.data.grid import Grid, choose_grid, choose_step, iso
from headway.data.holidays import holiday_flags
from headway.data.parquet import Times
from headway.data.prepared import PreparedMeta
from headway.data.rules import NO_BOUNDS, Bounds, Rules
from headway.data.series import hold, look_ahead, place_variable, standardize_covariates
from headway.data.split import describe_seconds
from headway.data.windows import anchor_lags
from headway.errors import InputError
from headway.models.folder import ModelFolder
from headway.serving.table import Table, read_table

READINGS, COVARIATES = "the readings", "the covariates"
SPARSE = 3  # steps a row; data that are rounded to a grid leave some of its steps empty in training, too


@dataclass(frozen=True, slots=True, kw_only=True)
class Recent:
    """What `Windows` gathers from: steps up to now, then `horizon` steps of which only the time is known.

    Attributes:
        origin: row of the first step to be forecast.
        first_target: its time, UTC seconds.
    """

    meta: PreparedMeta
    values: Float[np.ndarray, "step node channel"]
    observed: Bool[np.ndarray, "step node channel"]
    calendar: Int16[np.ndarray, "step 2"]
    covariates: Float[np.ndarray, "step covariate"]
    climatology: Float[np.ndarray, "time_of_week node"]
    origin: int
    first_target: int

    def first_origin(self) -> int:
        """Where the first window may be whose history begins with rows that were given."""
        return int(np.argmax(self.observed.any((1, 2)))) + self.meta.history


def lay_out(
    found: ModelFolder,
    readings: pd.DataFrame,
    inputs: Mapping[str, pd.DataFrame],
    covariates: pd.DataFrame,
    further: int = 0,
) -> Recent:
    """Check the tables and put them onto the grid whose last step before the origin is the newest row of `readings`.

    Args:
        inputs: further variables by name. covariates: no columns where the model has none.
        further: steps before those that the newest forecast reads, for forecasts of the past.
    Raises: InputError saying what the tables lack.
    """
    meta, ids = found.meta, found.sensors["sensor_id"].tolist()
    _check_names(meta, inputs, covariates)
    table = read_table(readings, ids, meta.time_zone, READINGS, further="refuse")
    grid = _grid(table, meta, reach(meta) + further)
    channels = [_channel(table, grid, meta, meta.bounds[0])]
    _check_newest(channels[0], grid, meta, table.name)
    for name, bounds in zip(meta.channels[1:], meta.bounds[1:], strict=True):
        table = read_table(inputs[name], ids, meta.time_zone, _input(name), further="ignore")
        channels.append(_channel(table, grid, meta, bounds))
        _check_overlap(channels[-1], table, grid, grid.steps)
    stacked = np.stack(channels, axis=-1)
    observed = ~np.isnan(stacked)
    time = Grid(first=grid.first, step=grid.step, steps=grid.steps + meta.horizon).time()
    return Recent(
        meta=meta,
        values=_with_future(np.where(observed, stacked, np.float32(0)), meta.horizon),
        observed=_with_future(observed, meta.horizon),
        calendar=civil_calendar(time, meta.time_zone, meta.step_seconds),
        covariates=_with_future(_covariates(found, covariates, grid), meta.horizon),
        climatology=found.climatology,
        origin=grid.steps,
        first_target=int(time[grid.steps]),
    )


def reach(meta: PreparedMeta) -> int:
    """Steps before the origin that a forecast reads, at most."""
    lagged = meta.history + max(anchor_lags(meta), default=0)
    held = meta.history + meta.covariate_steps - 1
    before = max(0, meta.rules.stuck_steps - 1)  # what tells that a reading is stuck
    return before + max(lagged, held)


def _check_names(meta: PreparedMeta, inputs: Mapping[str, pd.DataFrame], covariates: pd.DataFrame) -> None:
    wanted = meta.channels[1:]
    problems = [f"needs the input {name}" for name in wanted if name not in inputs]
    problems += [f"knows no input {name}" for name in inputs if name not in wanted]
    if meta.given_covariates() and not len(covariates.columns):
        problems.append(f"needs the covariates {', '.join(meta.given_covariates())}")
    if not meta.given_covariates() and len(covariates.columns):
        problems.append("knows no covariates")
    if problems:
        raise InputError(f"the model {', '.join(problems)}")


def _grid(table: Table, meta: PreparedMeta, steps: int) -> Grid:
    """The last so many steps up to the newest row."""
    step, times = meta.step_seconds, table.times
    if meta.rules.off_grid == "error":
        _check_step(times, step, table.name)
    else:
        _check_density(times, step, meta.history, table.name)
    given = choose_grid(times.utc, step, table.name)
    if given.steps < meta.history:
        raise InputError(
            f"{table.name} span {given.steps} steps of {describe_seconds(step)}, the model reads {meta.history}; "
            f"bring rows from {iso(given.first - (meta.history - given.steps) * step)} or earlier"
        )
    return Grid(first=given.first + (given.steps - steps) * step, step=step, steps=steps)


def _check_step(times: Times, step: int, name: str) -> None:
    """Refuse rows of another step; some seconds early or late are for the grid to judge."""
    differences = np.diff(np.unique(times.utc))
    if not len(differences):
        return
    common = choose_step(times.utc, name)
    # where no difference comes twice, the most common one is the shortest, such as that of a row sent again
    found = common if (differences == common).sum() > 1 else int(np.median(differences))
    if round(found / step) != 1:
        raise InputError(
            f"{name} are {describe_seconds(found)} apart, the model reads steps of "
            f"{describe_seconds(step)}; bring rows of its step"
        )


def _check_density(times: Times, step: int, history: int, name: str) -> None:
    """Refuse rows so far apart that most of the history would be unobserved; an outage in closer rows is none."""
    utc = np.unique(times.utc)
    apart = float(np.median(np.diff(utc))) if len(utc) > 1 else 0.0
    before = np.floor((utc[-1] - utc) / step + 0.5)
    filled = len(np.unique(before[before < history]))
    if apart > SPARSE * step and SPARSE * filled < history:
        raise InputError(
            f"{name} are mostly {describe_seconds(round(apart))} apart, the model reads {history} steps of "
            f"{describe_seconds(step)}: with rows at {filled} of the newest {history}, most of the history would be "
            "unobserved; bring rows of its step"
        )


def _channel(
    table: Table, grid: Grid, meta: PreparedMeta, bounds: Bounds, *, of_sensors: bool = True
) -> Float[np.ndarray, "step column"]:
    """The table on the grid, NaN where not observed, by the rules of training."""
    # what these rules refuse is refused here: the messages of preprocess speak of params.yaml
    merge = "mean" if meta.rules.duplicates == "error" else meta.rules.duplicates
    rules = Rules(duplicates=merge, off_grid="round", stuck_steps=meta.rules.stuck_steps if of_sensors else 0)
    stray = (table.times.utc - grid.first) % grid.step != 0
    if stray.any() and meta.rules.off_grid == "error":
        raise InputError(
            f"{table.name}: {stray.sum()} of {len(stray)} timestamps lie between two steps of "
            f"{describe_seconds(grid.step)} from {iso(grid.first)}, the first at "
            f"{iso(int(table.times.utc[stray][0]))}; the model's data had none"
        )
    variable = place_variable(table.readings, table.columns, table.times, grid, rules, bounds, table.name)
    disputed = [name for name, count in zip(table.columns, variable.conflicts, strict=True) if count]
    if disputed and meta.rules.duplicates == "error":
        raise InputError(f"{table.name}: different readings at one time, of {', '.join(disputed)}; keep one")
    return variable.readings


def _check_newest(
    readings: Float[np.ndarray, "step node"], grid: Grid, meta: PreparedMeta, name: str
) -> None:
    """Refuse when no sensor was read within the history."""
    seen = np.flatnonzero(~np.isnan(readings).all(axis=1))
    if not len(seen):
        raise InputError(
            f"{name} are all missing in the {grid.steps} steps that the model looks at, up to "
            f"{iso(grid.first + (grid.steps - 1) * grid.step)}: empty, null values, or outside the plausible range"
        )
    empty = grid.steps - 1 - int(seen[-1])
    if empty >= meta.history:
        raise InputError(
            f"{name} are all missing in the newest {empty} steps, and the model reads {meta.history}; "
            f"the newest reading is of {iso(grid.first + int(seen[-1]) * grid.step)}: leave out the rows after "
            "it to forecast from there, or bring newer ones"
        )


def _check_overlap(readings: Float[np.ndarray, "step column"], table: Table, grid: Grid, steps: int) -> None:
    if readings.size and np.isnan(readings).all():
        last = grid.first + (steps - 1) * grid.step
        raise InputError(f"{table.name}: nothing was read in the {steps} steps up to {iso(last)}")


def _covariates(found: ModelFolder, frame: pd.DataFrame, grid: Grid) -> Float[np.ndarray, "step covariate"]:
    meta = found.meta
    longer = Grid(first=grid.first, step=grid.step, steps=grid.steps + meta.horizon)
    given = _given_covariates(meta, frame, longer)
    if meta.holidays:
        given = np.column_stack([given, holiday_flags(longer.time(), meta.time_zone, meta.holidays)])
    standard = standardize_covariates(given, *found.covariate_scale)
    return look_ahead(standard, len(meta.past_covariates()), meta.horizon)


def _given_covariates(
    meta: PreparedMeta, frame: pd.DataFrame, grid: Grid
) -> Float[np.ndarray, "step covariate"]:
    """Columns of the table, past ones first, on a grid that ends with the last step to be forecast."""
    names, past = meta.given_covariates(), meta.past_covariates()
    if not names:
        return np.zeros((grid.steps, 0), np.float32)
    table = read_table(frame, names, meta.time_zone, COVARIATES, further="ignore")
    readings = hold(_channel(table, grid, meta, NO_BOUNDS, of_sensors=False), meta.covariate_steps)
    now = grid.steps - meta.horizon
    _check_overlap(readings[:now, : len(past)], table, grid, now)
    unknown = [name for name in meta.future_covariates if np.isnan(readings[now:, names.index(name)]).all()]
    if unknown:
        raise InputError(
            f"{table.name}: {', '.join(unknown)}: no value between {iso(grid.first + now * grid.step)} and "
            f"{iso(grid.first + (grid.steps - 1) * grid.step)}, the steps to be forecast; the model reads them ahead"
        )
    return readings[:, [names.index(name) for name in (*past, *meta.future_covariates)]]


def _with_future(rows: np.ndarray, horizon: int) -> np.ndarray:
    """The rows, then as many of nothing as are forecast."""
    return np.concatenate([rows, np.zeros((horizon, *rows.shape[1:]), rows.dtype)])


def _input(name: str) -> str:
    return f"the input {name}"
