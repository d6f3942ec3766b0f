"""A hand-made prepared data set, small enough to check by eye, for the tests of evaluation."""

from __future__ import annotations

import numpy as np
import pandas as pd

from headway.data.prepared import Prepared, PreparedMeta
from headway.data.rules import NO_BOUNDS, Rules

STEP = 3600  # hourly: a week is 168 steps
HISTORY, HORIZON = 4, 3
FIRST_MOMENT = 1_388_966_400  # Monday 2014-01-06 00:00 UTC


def tiny_prepared(
    *,
    steps: int = 400,
    sensors: int = 3,
    step_seconds: int = STEP,
    time_zone: str = "UTC",
    test: tuple[int, int] | None = None,
    missing: float = 0.2,
) -> Prepared:
    """Random readings near 50 km/h, a share of them missing; every window that fits is in the test split
    from two thirds on."""
    random = np.random.default_rng(0)
    observed = random.random((steps, sensors, 1)) >= missing
    values = np.where(observed, random.normal(50, 8, observed.shape), 0).astype(np.float32)
    time = FIRST_MOMENT + step_seconds * np.arange(steps, dtype=np.int64)
    windows = test or (2 * steps // 3, steps - HORIZON + 1)
    meta = _meta(steps, sensors, step_seconds, time_zone, windows)
    return Prepared(
        meta=meta,
        values=values,
        observed=observed,
        time=time,
        calendar=_calendar(time, step_seconds, time_zone),
        covariates=np.zeros((steps, 0), np.float32),
        climatology=random.normal(50, 3, (7 * meta.slots_per_day, sensors)).astype(np.float32),
        neighbors=np.zeros((sensors, 0), np.int32),
        valid=np.zeros((sensors, 0), np.bool_),
        features=np.zeros((sensors, 0, 2), np.float32),
        positions=np.zeros((0, 3), np.float32),
        roads=np.zeros((2, 0), np.int32),
        lengths=np.zeros(0, np.float32),
        paths=np.zeros((4, 0), np.int32),
        sensors=pd.DataFrame({"sensor_id": [f"s{index}" for index in range(sensors)]}),
        scaler={},
        manifest="0" * 64,
    )


def _meta(steps: int, sensors: int, step_seconds: int, time_zone: str, test: tuple[int, int]) -> PreparedMeta:
    return PreparedMeta(
        dataset="tiny",
        variable="speed",
        unit="km/h",
        time_zone=time_zone,
        source="",
        licence="",
        steps=steps,
        sensors=sensors,
        channels=("speed",),
        covariates=(),
        future_covariates=(),
        holidays="",
        step_seconds=step_seconds,
        slots_per_day=-(-86_400 // step_seconds),
        history=HISTORY,
        horizon=HORIZON,
        context=(),
        trailing=(),
        trailing_days=(),
        splits={
            "train": (HISTORY, steps // 2),
            "validation": (steps // 2, 2 * steps // 3),
            "test": test,
        },
        training_rows=steps // 2,
        scaling="global",
        rules=Rules(duplicates="mean", off_grid="error", stuck_steps=0),
        bounds=(NO_BOUNDS,),
        covariate_steps=1,
        files={},
    )


def _calendar(time: np.ndarray, step_seconds: int, time_zone: str) -> np.ndarray:
    local = pd.DatetimeIndex(pd.to_datetime(time, unit="s", utc=True)).tz_convert(time_zone)
    seconds = local.hour * 3600 + local.minute * 60 + local.second
    slots_and_days = np.stack([np.asarray(seconds // step_seconds), np.asarray(local.dayofweek)], axis=1)
    return slots_and_days.astype(np.int16)
