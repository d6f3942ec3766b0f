"""A data set's folder as it came: data/raw/<name>/.

Enters: the folder with series.parquet (column `timestamp`, one numeric column a sensor), sensors.parquet, and
where they exist series_<variable>.parquet, edges.parquet, covariates.parquet, dataset.yaml. Leaves:
`RawFolder`: the small tables, checked against each other and the columns of the large ones (parquet.py reads
those).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from headway.data.facts import DatasetFacts, is_zone, read_facts
from headway.data.parquet import TIME, describe_rows, listing, open_parquet, read_parquet
from headway.data.variables import AUTO, VariableFile, find_variables
from headway.errors import InputError

Names = Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFolder:
    """The checked small tables.

    Attributes:
        zone: the civil time of naive timestamps and of the calendar.
        sensors: rows sorted by sensor_id (text); the target's file has these sensors too.
        edges: source and target (ids of `sensors`), distance_m and/or weight; None without edges.parquet.
        left_out: under `unusable_sensors: drop`, what one file names and another does not.
    """

    path: Path
    facts: DatasetFacts
    zone: str
    sensors: pd.DataFrame
    edges: pd.DataFrame | None
    target: VariableFile
    inputs: tuple[VariableFile, ...]
    left_out: dict[str, list[str]]


def read_raw(
    path: Path, inputs: Names, covariates: Names, *, drop: bool, target: str = AUTO, ahead: Names = ()
) -> RawFolder:
    """Read what is small and check what can be checked before the readings are read.

    Args: drop: what not all files know is left out instead of refused. ahead: windows.future_covariates.
    Raises: InputError listing everything found in the folder.
    """
    _require_folder(path)
    facts = read_facts(path / "dataset.yaml")
    variables, problems = find_variables(path, facts, target, inputs)
    series = variables[0].path
    schema = open_parquet(series).schema_arrow
    zone, found = _zone(series, schema, facts)
    problems += found + _column_problems(series, schema)
    sensors, problems_there = _read_sensors(path / "sensors.parquet")
    edges, problems_here = _read_edges(path / "edges.parquet")
    problems += problems_there + problems_here
    known = set(_sensor_columns(schema)) & set(sensors["sensor_id"])
    left_out = _differences(series.name, set(_sensor_columns(schema)), set(sensors["sensor_id"]), edges)
    if not drop:
        problems += [_mismatch(where, ids) for where, ids in left_out.items()]
    problems += _input_problems(variables, known)
    problems += _covariate_problems(path / "covariates.parquet", "windows.covariates", covariates)
    problems += _covariate_problems(path / "covariates.parquet", "windows.future_covariates", ahead)
    if not problems and not known:
        problems.append(f"{series.name} and sensors.parquet have no sensor in common")
    if problems:
        raise InputError.from_problems(f"{path} cannot be used:", problems)
    return RawFolder(
        path=path,
        facts=facts,
        zone=zone,
        sensors=sensors.set_index("sensor_id").loc[sorted(known)].reset_index(),
        edges=edges,
        target=variables[0],
        inputs=variables[1:],
        left_out=left_out,
    )


def _require_folder(path: Path) -> None:
    if path.is_dir():
        return
    there = (
        sorted(entry.name for entry in path.parent.glob("[!.]*") if entry.is_dir())
        if path.parent.is_dir()
        else []
    )
    raise InputError(
        f"{path}: no such data set; {path.parent} has {listing(there, 20) or 'none'}. Set `dataset` in "
        "params.yaml to one of them, or put its folder there (docs/data.md)"
    )


def _zone(path: Path, schema: pa.Schema, facts: DatasetFacts) -> tuple[str, list[str]]:
    if TIME not in schema.names:
        return "UTC", []
    own = getattr(schema.field(TIME).type, "tz", None)
    if facts.time_zone or not own:
        return facts.time_zone or "UTC", []
    if is_zone(own):
        return own, []
    return "UTC", [f"{path.name}: timestamps carry the offset {own}; name their time_zone in dataset.yaml"]


def _sensor_columns(schema: pa.Schema) -> list[str]:
    index = (schema.pandas_metadata or {}).get("index_columns", [])  # what pandas adds when told nothing
    return [name for name in schema.names if name != TIME and name not in index]


def _column_problems(path: Path, schema: pa.Schema) -> list[str]:
    problems = []
    if TIME not in schema.names:
        return [f"{path.name} has no column {TIME}; its columns are {listing(schema.names)}"]
    twice = (
        sorted({name for name in schema.names if schema.names.count(name) > 1})
        if (len(set(schema.names)) < len(schema.names))
        else []
    )
    if twice:
        return [f"{path.name} has columns of the same name: {listing(twice)}"]
    kind = schema.field(TIME).type
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        problems.append(f"{path.name}: column {TIME} is of type {kind}; write timestamps")
    text = [
        f"{field.name} ({field.type})" for field in schema if field.name != TIME and not _numeric(field.type)
    ]
    if text:
        problems.append(f"{path.name}: columns that are not numbers: {listing(text)}")
    return problems


def _numeric(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)


def _differences(
    name: str, series: set[str], table: set[str], edges: pd.DataFrame | None
) -> dict[str, list[str]]:
    ends = set() if edges is None else set(edges["source"]) | set(edges["target"])
    differences = {
        f"in {name}, not in sensors.parquet": series - table,
        f"in sensors.parquet, not in {name}": table - series,
        f"in edges.parquet, not in {name}": ends - series,
    }
    return {where: sorted(ids) for where, ids in differences.items() if ids}


def _mismatch(where: str, ids: list[str]) -> str:
    return f"sensors {where}: {listing(ids)}; mend the files, or set preprocess.unusable_sensors: drop"


def _input_problems(variables: Sequence[VariableFile], known: set[str]) -> list[str]:
    problems = []
    target, *inputs = (variable.path for variable in variables)
    for file in inputs:
        schema = open_parquet(file).schema_arrow
        absent = sorted(known - set(schema.names))
        problems += _column_problems(file, schema)
        problems += [f"{file.name} lacks sensors of {target.name}: {listing(absent)}"] if absent else []
    return problems


def _covariate_problems(path: Path, key: str, covariates: Sequence[str]) -> list[str]:
    if not covariates:
        return []
    if not path.exists():
        return [f"{key}: {listing(covariates)} asked for, but there is no {path.name}"]
    schema = open_parquet(path).schema_arrow
    there = _sensor_columns(schema)
    problems = [
        f"{key}: no column {name!r} in {path.name}; there are: {listing(there) or 'none'}"
        for name in covariates
        if name not in there
    ]
    problems += [
        f"{key}: {name} is listed twice" for name in sorted(set(covariates)) if covariates.count(name) > 1
    ]
    wanted = [field for field in schema if field.name == TIME or field.name in covariates]
    return problems + _column_problems(path, pa.schema(wanted))


def _read_sensors(path: Path) -> tuple[pd.DataFrame, list[str]]:
    table: pd.DataFrame = read_parquet(path).to_pandas(ignore_metadata=True)
    if "sensor_id" not in table:
        raise InputError(f"{path} has no column sensor_id; its columns are {listing(table.columns)}")
    problems = []
    empty = np.asarray(table["sensor_id"].isna())
    if empty.any():
        problems.append(f"{path.name}: sensor_id is empty in {describe_rows(empty)}")
    table["sensor_id"] = table["sensor_id"].astype(str)
    ids, counts = np.unique(np.asarray(table["sensor_id"], dtype=str), return_counts=True)
    if (counts > 1).any():
        problems.append(f"{path.name}: sensor_id more than once: {listing(ids[counts > 1])}")
    for name, limit in (("latitude", 90), ("longitude", 180)):
        if name in table:
            problems += _degree_problems(path, table, name, limit)
    return table, problems


def _degree_problems(path: Path, table: pd.DataFrame, name: str, limit: int) -> list[str]:
    if not pd.api.types.is_numeric_dtype(table[name]) and np.asarray(table[name].notna()).any():
        return [f"{path.name}: column {name} is of type {table[name].dtype}; write degrees"]
    degrees = np.asarray(table[name], dtype=float)
    outside = np.flatnonzero(np.abs(degrees) > limit)
    places = [f"{table['sensor_id'][row]} ({degrees[row]})" for row in outside]
    return [f"{path.name}: {name} outside -{limit}..{limit} degrees: {listing(places)}"] if places else []


def _read_edges(path: Path) -> tuple[pd.DataFrame | None, list[str]]:
    if not path.exists():
        return None, []
    table: pd.DataFrame = read_parquet(path).to_pandas(ignore_metadata=True)
    absent = [name for name in ("source", "target") if name not in table]
    if absent or not {"distance_m", "weight"} & set(table.columns):
        return None, [
            f"{path.name} needs source, target and distance_m or weight; it has {listing(table.columns)}"
        ]
    problems = []
    for name in ("source", "target"):
        empty = table[name].isna().to_numpy()
        if empty.any():
            problems.append(f"{path.name}: {name} is empty in {describe_rows(empty)}")
        table[name] = table[name].astype(str)
    for name in {"distance_m", "weight"} & set(table.columns):
        problems += _measure_problems(path, table, name)
    return table, problems


def _measure_problems(path: Path, table: pd.DataFrame, name: str) -> list[str]:
    if not pd.api.types.is_numeric_dtype(table[name]):
        return [f"{path.name}: column {name} is of type {table[name].dtype}; write numbers"]
    numbers: Any = table[name].to_numpy(dtype=float)
    wrong = ~(np.isfinite(numbers) & (numbers >= 0))
    rows = [
        f"row {row} ({table['source'][row]} -> {table['target'][row]}: {numbers[row]})"
        for row in np.flatnonzero(wrong)
    ]
    return [f"{path.name}: {name} must be 0 or more, found {listing(rows, 4)}"] if rows else []
