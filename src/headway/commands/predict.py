"""`python -m headway predict`: files of recent readings in, a table of forecasts out.

It needs the model folder and the readings, and nothing else: no params.yaml, no data set, no DVC.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from headway.atomic import write_bytes
from headway.data.importers.tables import (
    OFFSET,
    TIME_NAMES,
    column_names,
    find_column,
    read_columns,
    refuse,
)
from headway.data.parquet import TIME
from headway.data.split import describe_seconds
from headway.errors import InputError
from headway.serving.forecaster import NOTHING, load
from headway.serving.table import FILE

SHOWN = 10
A_TIME = f"one of the names {', '.join(filter(None, TIME_NAMES))}"


def predict(
    model: Path, recent: Path, inputs: Sequence[str], covariates: Path | None, recalibrate: bool
) -> pd.DataFrame:
    """Forecasts from the newest row of a file.

    Args:
        inputs: further variables, each as NAME=FILE.
        recalibrate: calibrate the intervals on the newest week of these readings first.
    Raises: InputError naming the file, or what in the tables cannot be used.
    """
    files = _inputs(inputs)
    forecaster = load(model)
    ids, known = forecaster.found.sensors["sensor_id"].tolist(), forecaster.found.meta.given_covariates()
    readings = read_file(recent, ids)
    further: Any = {
        "inputs": {name: read_file(path, ids) for name, path in files.items()},
        "covariates": NOTHING if covariates is None else read_file(covariates, known),
    }
    if recalibrate:
        forecaster = forecaster.recalibrate(readings, **further)
    return forecaster.predict(readings, **further)


def read_file(path: Path, numbers: Sequence[str]) -> pd.DataFrame:
    """A CSV or Parquet file, its time column, under any of the names that `import` knows, as `timestamp`.

    Args: numbers: columns that hold numbers, where they are there; the others of a CSV stay text.
    Raises: InputError naming the file, and, of a CSV, the columns and lines that cannot be read.
    """
    kind = _kind(path)
    try:
        if kind == "parquet":
            frame = pd.read_parquet(path, page_checksum_verification=True)
        else:
            frame = _read_csv(path, numbers)
    except FileNotFoundError:
        raise InputError(f"{path} not found") from None
    except InputError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path} is no readable {kind} file: {error}") from None
    frame = _with_times(path, frame)
    frame.attrs[FILE] = str(path)
    return frame


def check_out(path: Path | None) -> None:
    """Refuse a name that says neither Parquet nor CSV, before anything is computed."""
    if path is not None:
        _kind(path)


def write_file(path: Path, forecasts: pd.DataFrame) -> None:
    """Write the forecasts, whole or not at all.

    Raises: InputError where the file cannot be written.
    """
    if _kind(path) == "csv":
        content = forecasts.to_csv(index=False).encode()
    else:
        buffer = io.BytesIO()
        forecasts.to_parquet(buffer, index=False, write_page_checksum=True)
        content = buffer.getvalue()
    try:
        write_bytes(path, content)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}") from None


def forecast_text(forecasts: pd.DataFrame, out: Path | None) -> str:
    """What the terminal shows: the first rows, or where all of them are."""
    facts, steps = forecasts.attrs, forecasts["horizon"].max()
    sensors, first = len(forecasts) // steps, forecasts["target_time_local"].iloc[0]
    heading = (
        f"{facts['variable']} ({facts['unit']}) of {sensors} sensors, {steps} steps of "
        f"{describe_seconds(facts['step_seconds'])} from {first:%Y-%m-%d %H:%M} {facts['time_zone']}"
    )
    if out is not None:
        return f"{heading}\n{len(forecasts)} rows written to {out}\n"
    shown = forecasts[["sensor_id", "target_time_local", "horizon", "forecast"]].head(SHOWN)
    rows = shown.assign(forecast=[f"{value:.2f}" for value in shown["forecast"]]).to_string(index=False)
    rest = "" if len(forecasts) <= SHOWN else "; --out FILE.parquet or FILE.csv writes all of them"
    return f"{heading}\n\n{rows}\n\n{len(shown)} of {len(forecasts)} rows{rest}\n"


def _kind(path: Path) -> str:
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("parquet", "csv"):
        raise InputError(f"{path}: the name must end in .parquet or .csv")
    return kind


def _inputs(texts: Sequence[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not (name and equals and path) or name in files:
            raise InputError(f"--input {text}: write NAME=FILE, each name once")
        files[name] = Path(path)
    return files


def _read_csv(path: Path, numbers: Sequence[str]) -> pd.DataFrame:
    names = column_names(path)
    time = find_column(path, names, "", TIME_NAMES, A_TIME)
    known = set(numbers) - {time}
    texts, there = ([name for name in names if (name in known) == wanted] for wanted in (False, True))
    return read_columns(path, texts, there, pa.float32()).to_pandas()


def _with_times(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """The table with its column of times called `timestamp`, and parsed where it is text."""
    if isinstance(frame.index, pd.DatetimeIndex) and TIME not in frame.columns:
        return frame
    time = find_column(path, [str(name) for name in frame.columns], "", TIME_NAMES, A_TIME)
    frame = frame.rename(columns={time: TIME})
    column: Any = frame[TIME]
    if isinstance(column, pd.Series) and isinstance(column.dtype, (pd.CategoricalDtype, pd.StringDtype)):
        frame[TIME] = _times(path, column.rename(time))
    return frame


def _times(path: Path, column: pd.Series) -> Any:
    name = str(column.name)
    refuse(path, name, column.isna().to_numpy(), [], "no time")
    text = column.astype("str").str.strip()
    aware = text.str.contains(OFFSET)
    if aware.any():
        refuse(path, name, (~aware).to_numpy(), text.tolist(), "a zone in other lines, and none")
    times = pd.to_datetime(text, format="ISO8601", utc=bool(aware.any()), errors="coerce")
    what = "no time such as 2024-05-01 08:05 or 2024-05-01T06:05Z"
    refuse(path, name, times.isna().to_numpy(), text.tolist(), what)
    return times
