"""A tiny trained and evaluated model of a world in which everything occurs that readings can have.

Hourly readings of four sensors in London around the night when the clocks go forward: nulls, implausible readings,
a row missing, a row twice; a further variable; rain every three hours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest

from headway.data.prepare import prepare
from headway.data.prepared import Prepared, open_prepared
from headway.data.windows import Windows
from headway.evaluation.report import EvaluateParams, evaluate
from headway.models.folder import read_model_folder
from tiny_run import SECTIONS, train_params, train_tiny
from worlds import daily_readings, preprocess_params, windows_params, write_raw_world, write_series

ZONE = "Europe/London"
IDS = ("101", "102", "11", "9")  # text, as files have them, in the order of the model
STEPS, GAP, TWICE = 490, 445, 454
EVALUATE = EvaluateParams(minutes=(60,), mape_floor=0.001, prediction_stride=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The project's folder, its raw tables (data frames), the times of their rows in UTC, and what was prepared."""

    project: Path
    prepared: Prepared
    utc: Any  # the type checker does not know what a slice of an index or a frame is
    readings: Any
    flow: Any
    rain: Any

    @property
    def model(self) -> Path:
        return self.project / "models/train"

    def predictions(self) -> pd.DataFrame:
        """What the evaluate stage wrote."""
        return pd.read_parquet(self.project / "data/predictions/test.parquet")


def serve(
    project: Path,
    scaling: Literal["global", "per_sensor"] = "global",
    stuck_steps: int = 0,
    sections: dict[str, Any] = SECTIONS,
    **windows: Any,
) -> Served:
    """Make the world, train and evaluate, all in `project`.

    Args: stuck_steps: of section `preprocess`; with it the flow of one sensor is stuck for six days, in every split.
        windows: keys of that section that are changed.
    """
    raw, times = project / "raw", _times()
    values, flow = daily_readings(len(times), len(IDS), 60), daily_readings(len(times), len(IDS), 60, seed=1)
    flow[296:449, 1] = 60 if stuck_steps else flow[296:449, 1]
    random = np.random.default_rng(2)
    values[random.random(values.shape) < 0.05] = np.nan
    values[random.random(values.shape) < 0.03] = -1  # null
    values[random.random(values.shape) < 0.02] = 900  # implausible
    local = times.tz_convert(ZONE).tz_localize(None)
    facts = {"unit": "km/h", "variable": "speed", "time_zone": ZONE, "null_value": -1, "maximum": 300}
    write_raw_world(
        raw, timestamps=local, readings=values, ids=IDS[::-1], variables={"flow": flow}, facts=facts
    )
    write_series(raw / "covariates.parquet", local[::3], {"rain": random.random(len(local[::3]))})
    keys = {"context": ("1d",), "trailing_weeks": 1, "inputs": ("flow",), "covariates": ("rain",)}
    section = windows_params(**(keys | windows))
    prepare(raw, project / "prepared", preprocess_params(scaling=scaling, stuck_steps=stuck_steps), section)
    prepared = open_prepared(project / "prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        train_tiny(project, prepared, train=train_params(epochs=1), sections=sections)
    found = read_model_folder(project / "models/train")
    outputs = {
        "metrics": project / "metrics/evaluate",
        "predictions": project / "data/predictions/test.parquet",
    }
    evaluate(
        prepared, Windows(prepared).gather, found.model, EVALUATE, 5, calibrator=found.calibrator, **outputs
    )
    tables = {
        name: pd.read_parquet(raw / f"{name}.parquet") for name in ("series", "series_flow", "covariates")
    }
    return Served(
        project=project,
        prepared=prepared,
        utc=times,
        readings=tables["series"],
        flow=tables["series_flow"],
        rain=tables["covariates"],
    )


def by_origin(served: Served) -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
    """For each origin that the evaluate stage wrote: which raw rows lie before it, and its forecasts."""
    for origin, rows in served.predictions().groupby("origin"):
        past = np.asarray(served.utc <= origin)
        if served.utc[past][-1] == origin:  # not in a gap
            yield past, rows


def _times() -> Any:
    rows = np.sort(np.append(np.delete(np.arange(STEPS), GAP), TWICE))
    return pd.date_range("2024-03-12", periods=STEPS, freq="h", tz="UTC")[rows]
