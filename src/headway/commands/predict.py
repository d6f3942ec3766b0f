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
from headway.data.parquet import TIME, describe_rows
from headway.data.split import describe_seconds
from headway.errors import InputError
from headway.serving.forecaster import NOTHING, load

SHOWN = 10
OFFSET = r"(?:Z|[+-]\d\d:?\d\d)$"  # at the end of an ISO time: it says its zone


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
    readings = read_file(recent)
    further: Any = {
        "inputs": {name: read_file(path) for name, path in files.items()},
        "covariates": NOTHING if covariates is None else read_file(covariates),
    }
    if recalibrate:
        forecaster = forecaster.recalibrate(readings, **further)
    return forecaster.predict(readings, **further)


def read_file(path: Path) -> pd.DataFrame:
    """A CSV or Parquet file; a CSV's column `timestamp` becomes timestamps.

    Raises: InputError naming the file.
    """
    kind = _kind(path)
    try:
        if kind == "parquet":
            return pd.read_parquet(path, page_checksum_verification=True)
        frame = pd.read_csv(path, float_precision="round_trip")  # the default is off by the last bit
    except FileNotFoundError:
        raise InputError(f"{path} not found") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path} is no readable {kind} file: {error}") from None
    if TIME in frame.columns and not pd.api.types.is_numeric_dtype(frame[TIME]):
        frame[TIME] = _times(path, pd.Series(frame[TIME]))
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


def _times(path: Path, column: pd.Series) -> Any:
    text = column.astype("str")
    aware = text.str.contains(OFFSET)
    if aware.any() and not aware.all():
        raise InputError(
            f"{path}: column {TIME} has a zone in some rows, and none in {describe_rows((~aware).to_numpy())}"
        )
    times = pd.to_datetime(text, format="ISO8601", utc=bool(aware.any()), errors="coerce")
    if times.isna().any():
        raise InputError(
            f"{path}: column {TIME} is no time in {describe_rows(times.isna().to_numpy(), text.to_numpy())}; "
            "write e.g. 2024-05-01 08:05 or 2024-05-01T06:05Z"
        )
    return times
