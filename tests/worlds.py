"""Tiny raw data sets on disk, and the parameter records that read them, for tests of every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from headway.data.prepare import PreprocessParams
from headway.data.split import WindowsParams

PREPROCESS = PreprocessParams(
    split="auto",
    purge=False,
    scaling="global",
    graph="auto",
    max_neighbors=3,
    granger_neighbors=0,
    paths_per_sensor=8,
    duplicates="mean",
    off_grid="error",
    stuck_steps=0,
    unusable_sensors="error",
    identical_sensors="keep",
)
WINDOWS = WindowsParams(
    history=4,
    horizon=3,
    context=(),
    trailing_weeks=0,
    target="auto",
    inputs=(),
    covariates=(),
    future_covariates=(),
    holidays="none",
)


def preprocess_params(**changes: Any) -> PreprocessParams:
    """A valid section `preprocess` with some values changed."""
    return replace(PREPROCESS, **changes)


def windows_params(**changes: Any) -> WindowsParams:
    """A valid section `windows` with some values changed."""
    return replace(WINDOWS, **changes)


def daily_readings(steps: int, sensors: int, step_minutes: float, seed: int = 0) -> np.ndarray:
    """Speeds with a daily wave and noise, [steps, sensors], all different and none 0."""
    random = np.random.default_rng(seed)
    day = 2 * np.pi * np.arange(steps)[:, None] * step_minutes / 1440
    return (60 + 5 * np.arange(sensors) + 15 * np.sin(day) + random.normal(0, 2, (steps, sensors))).astype(
        np.float32
    )


def write_raw_world(
    folder: Path,
    *,
    steps: int = 200,
    sensors: int = 4,
    step_minutes: float = 60,
    start: str = "2024-01-01",
    ids: Sequence[str] = (),
    timestamps: Any = None,
    readings: np.ndarray | None = None,
    variables: Mapping[str, np.ndarray] | None = None,
    covariates: Mapping[str, np.ndarray] | None = None,
    edges: pd.DataFrame | None = None,
    coordinates: bool = True,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write data/raw/<name>/ as `folder`.

    Args:
        ids: sensor ids in file order; "a", "b", ... when empty.
        timestamps, readings: replace the regular ones; readings are [row, sensor].
        variables: name -> readings of series_<name>.parquet, at the same timestamps.
        covariates: name -> readings of a column of covariates.parquet, at the same timestamps.
        edges: edges.parquet; by default no such file, the sensors stand on a line 1 km apart.
        facts: dataset.yaml; by default no such file.
    Returns: `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = list(ids) or [chr(ord("a") + index) for index in range(sensors)]
    if readings is None:
        rows = steps if timestamps is None else len(timestamps)
        readings = daily_readings(rows, len(names), step_minutes)
    if timestamps is None:
        timestamps = pd.date_range(start, periods=len(readings), freq=pd.Timedelta(minutes=step_minutes))
    write_series(folder / "series.parquet", timestamps, dict(zip(names, readings.T, strict=True)))
    for name, further in (variables or {}).items():
        columns = dict(zip(names, further.T, strict=True))
        write_series(folder / f"series_{name}.parquet", timestamps, columns)
    if covariates:
        write_series(folder / "covariates.parquet", timestamps, covariates)
    table = pd.DataFrame({"sensor_id": names})
    if coordinates:
        table["latitude"] = 52.0 + np.arange(len(names)) / 111.195  # one km further north each
        table["longitude"] = 4.0
    table.to_parquet(folder / "sensors.parquet", index=False)
    if edges is not None:
        edges.to_parquet(folder / "edges.parquet", index=False)
    if facts is not None:
        with (folder / "dataset.yaml").open("w", encoding="utf-8") as file:
            YAML(typ="safe", pure=True).dump(dict(facts), file)
    return folder


def write_series(path: Path, timestamps: Any, columns: Mapping[str, Any]) -> None:
    """A Parquet file of a timestamp column and further columns."""
    pd.DataFrame({"timestamp": timestamps, **columns}).to_parquet(path, index=False, write_page_checksum=True)
