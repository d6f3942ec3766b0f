"""The preprocess stage: a raw data set to the prepared folder.

Enters: data/raw/<name>/ and sections `preprocess` and `windows`. Leaves: the prepared folder (prepared.py)
and the quality report: what was found and what was done about it.

Glossary: training rows = rows before the last training origin; every statistic comes from them alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from annotated_types import Ge, Interval

from headway.data.calendar import civil_calendar, covers_two_weeks, slots_per_day, time_of_week
from headway.data.climatology import weekly_climatology
from headway.data.granger import Deviations, seat_foretelling
from headway.data.grid import Grid, choose_grid, choose_step
from headway.data.holidays import NONE, require_place
from headway.data.parquet import Times, listing, read_times
from headway.data.prepared import PreparedMeta
from headway.data.prepared_writer import Channel, write_prepared
from headway.data.quality import Unusable, find_repeated, find_unusable
from headway.data.quality_splits import count_read
from headway.data.raw import RawFolder, read_raw
from headway.data.report import Plan, describe_input, quality_report
from headway.data.rules import Duplicates, OffGrid, Rules
from headway.data.scale import Scaling, column_moments, scale_of
from headway.data.series import Variable, keep_columns, read_covariates, read_variable
from headway.data.split import WindowsParams, describe_seconds, resolve_lags, split_origins
from headway.errors import InputError
from headway.graph.neighbors import MAX_NEIGHBORS, GraphChoice, build_neighbors
from headway.graph.roads import build_roads

MOST_SLOTS = 2**15 - 1  # of a day: calendar.npy holds int16


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessParams:
    """Section `preprocess` of params.yaml."""

    split: Literal["auto", "7-1-2", "6-2-2"]
    purge: bool
    scaling: Scaling
    graph: GraphChoice
    max_neighbors: Annotated[int, Interval(ge=1, le=MAX_NEIGHBORS)]
    granger_neighbors: Annotated[int, Interval(ge=0, le=MAX_NEIGHBORS)]
    paths_per_sensor: Annotated[int, Ge(1)]
    duplicates: Duplicates
    off_grid: OffGrid
    stuck_steps: Annotated[int, Ge(0)]
    unusable_sensors: Literal["error", "drop", "keep"]
    identical_sensors: Literal["keep", "drop"]

    def rules(self) -> Rules:
        """How rows are brought onto the grid."""
        return Rules(duplicates=self.duplicates, off_grid=self.off_grid, stuck_steps=self.stuck_steps)


def prepare(raw: Path, out: Path, preprocess: PreprocessParams, windows: WindowsParams) -> dict[str, Any]:
    """Read `raw`, write `out` whole or not at all.

    Returns: the quality report, ready for JSON.
    Raises: InputError naming file, column, sensor, row or key.
    """
    folder = _read_folder(raw, preprocess, windows)
    times = read_times(folder.target.path, folder.zone)
    plan = _plan(folder, times, preprocess, windows)
    scratch = out.parent
    scratch.mkdir(parents=True, exist_ok=True)
    target = _read_target(folder, times, plan.grid, preprocess.rules(), scratch)
    unusable = find_unusable(target.readings, plan.training_rows)
    target, sensors = _settle_sensors(folder, target, unusable, preprocess, scratch)
    read = count_read(target, plan.grid, plan.splits, windows.horizon, folder.target.path)

    training, slots = slice(0, plan.training_rows), slots_per_day(plan.grid.step)
    calendar = civil_calendar(plan.grid.time(), folder.zone, plan.grid.step)
    knows_weeks = covers_two_weeks(plan.training_rows, plan.grid.step)
    usual = weekly_climatology(target.readings[training], calendar[training], slots, knows_weeks)
    limit = preprocess.max_neighbors
    nearest = build_neighbors(
        choice=preprocess.graph, sensors=sensors, edges=folder.edges, max_neighbors=limit
    )
    times = time_of_week(calendar[training], slots)
    deviations = _deviations(target.readings[training], usual, times, plan, windows)
    table = seat_foretelling(nearest, deviations, preprocess.granger_neighbors)
    covariates = read_covariates(folder, windows, plan.grid, preprocess.rules(), plan.training_rows)
    inputs: dict[str, dict[str, Any]] = {}
    meta = write_prepared(
        out,
        meta=_meta(folder, sensors, plan, preprocess, windows, covariates.held),
        channels=_channels(folder, sensors, target, plan, preprocess, inputs, scratch),
        time=plan.grid.time(),
        calendar=calendar,
        covariates=covariates.values,
        climatology=usual,
        graph=table.arrays(),
        geometry=build_roads(nearest, sensors, folder.edges, preprocess.paths_per_sensor).arrays(),
        sensors=sensors,
        covariate_scale=(covariates.mean, covariates.std),
    )
    nearest = replace(nearest, found=table.found)
    report = quality_report(folder, target, plan, unusable, nearest, meta, list(sensors["sensor_id"]), read)
    return report | {"inputs": inputs, "covariates": covariates.found}


def _read_folder(raw: Path, preprocess: PreprocessParams, windows: WindowsParams) -> RawFolder:
    require_place(windows.holidays)
    return read_raw(
        raw,
        windows.inputs,
        windows.covariates,
        drop=preprocess.unusable_sensors == "drop",
        target=windows.target,
        ahead=windows.future_covariates,
    )


def _plan(folder: RawFolder, times: Times, preprocess: PreprocessParams, windows: WindowsParams) -> Plan:
    path, minutes = folder.target.path, folder.facts.step_minutes
    step = choose_step(times.utc, path) if minutes is None else int(minutes * 60)
    if slots_per_day(step) > MOST_SLOTS:
        raise InputError(
            f"{path}: steps of {describe_seconds(step)} are too short, a day has at most {MOST_SLOTS:,} of them; "
            "bring longer ones, or state step_minutes in dataset.yaml"
        )
    grid = choose_grid(times.utc, step, path)
    ratio = folder.facts.split if preprocess.split == "auto" else preprocess.split
    splits = split_origins(grid.steps, windows.history, windows.horizon, ratio, preprocess.purge)
    training_rows = splits["train"][1] - 1  # the last training origin: no history reaches further
    lags = resolve_lags(windows, step, training_rows)
    return Plan(grid=grid, splits=splits, training_rows=training_rows, lags=lags)


def _read_target(folder: RawFolder, times: Times, grid: Grid, rules: Rules, scratch: Path) -> Variable:
    ids = list(folder.sensors["sensor_id"])
    return read_variable(folder.target.path, ids, times, grid, rules, folder.target.bounds, scratch)


def _settle_sensors(
    folder: RawFolder, target: Variable, unusable: Unusable, rules: PreprocessParams, scratch: Path
) -> tuple[Variable, pd.DataFrame]:
    """Refuse, leave out or keep the sensors that cannot be learned from, or that repeat another."""
    bad, ids = unusable.any(), list(folder.sensors["sensor_id"])
    if rules.unusable_sensors == "error" and bad.any():
        raise InputError.from_problems(
            f"{folder.target.path} has {bad.sum()} unusable sensors; "
            "preprocess.unusable_sensors: drop leaves them out, keep goes on with global statistics:",
            [f"{fault}: {listing(names)}" for fault, names in unusable.named(ids).items()],
        )
    gone = bad if rules.unusable_sensors == "drop" else np.zeros(len(bad), dtype=bool)
    if unusable.untrained.all() or gone.all():
        raise InputError(f"{folder.target.path}: no sensor has usable training readings")
    if rules.identical_sensors == "drop":
        gone = gone | find_repeated(target.readings)
    if not gone.any():
        return target, folder.sensors
    return keep_columns(target, ~gone, scratch), folder.sensors.loc[~gone].reset_index(drop=True)


def _deviations(
    readings: np.ndarray, usual: np.ndarray, times: np.ndarray, plan: Plan, windows: WindowsParams
) -> Deviations:
    return Deviations(
        readings=readings,
        usual=usual,
        times=times,
        step_seconds=plan.grid.step,
        history=windows.history,
        horizon=windows.horizon,
    )


def _channels(
    folder: RawFolder,
    sensors: pd.DataFrame,
    target: Variable,
    plan: Plan,
    preprocess: PreprocessParams,
    found: dict[str, dict[str, Any]],
    scratch: Path,
) -> Iterator[Channel]:
    """The target, then each input as it is asked for; `found` is filled along the way."""
    yield _channel(target, plan.training_rows, preprocess.scaling)
    ids = list(sensors["sensor_id"])
    for file in folder.inputs:
        times = read_times(file.path, folder.zone)
        variable = read_variable(file.path, ids, times, plan.grid, preprocess.rules(), file.bounds, scratch)
        if find_unusable(variable.readings, plan.training_rows).untrained.all():
            raise InputError(
                f"{file.path} has no reading in the {plan.training_rows} training rows of {folder.target.path.name}"
            )
        found[file.name] = describe_input(variable, plan.grid, ids)
        yield _channel(variable, plan.training_rows, preprocess.scaling)


def _channel(variable: Variable, training_rows: int, scaling: Scaling) -> Channel:
    mean, std = scale_of(column_moments(variable.readings[:training_rows]), scaling)
    return Channel(readings=variable.readings, mean=mean, std=std)


def _meta(
    folder: RawFolder,
    sensors: pd.DataFrame,
    plan: Plan,
    preprocess: PreprocessParams,
    windows: WindowsParams,
    covariate_steps: int,
) -> PreparedMeta:
    return PreparedMeta(
        dataset=folder.path.name,
        variable=folder.target.name,
        unit=folder.target.unit or "units",
        time_zone=folder.zone,
        source=folder.facts.source,
        licence=folder.facts.licence,
        description=folder.facts.description,
        steps=plan.grid.steps,
        sensors=len(sensors),
        channels=(folder.target.name, *windows.inputs),
        covariates=windows.covariate_columns(),
        future_covariates=windows.future_covariates,
        holidays="" if windows.holidays == NONE else windows.holidays,
        step_seconds=plan.grid.step,
        slots_per_day=slots_per_day(plan.grid.step),
        history=windows.history,
        horizon=windows.horizon,
        context=plan.lags.context,
        trailing=plan.lags.trailing,
        trailing_days=plan.lags.trailing_days,
        splits=plan.splits,
        training_rows=plan.training_rows,
        scaling=preprocess.scaling,
        rules=preprocess.rules(),
        bounds=tuple(file.bounds for file in (folder.target, *folder.inputs)),
        covariate_steps=covariate_steps,
        files={},
    )
