"""Evaluate a model on the test split beside the naive forecasts, and write what DVC compares and plots.

Enter: the prepared data, a gather of windows, a model (a Batch in, a Forecast out, physical units). Leave:
  metrics.json     the model, over all steps and at the named minutes, and its skill
  forecasts.json   every forecast at every step
  horizon.csv      MAE of every forecast by horizon          hour.csv     ... by local hour of the target
  week.csv         a week of one sensor                      sensors.csv  the model by sensor
what its distribution is worth, where it says one (distribution_tables.py), and the forecasts themselves.
No file holds a clock time of the run: the same model writes the same bytes.
Glossary: skill = 1 - MAE / MAE of a naive forecast; 0 is no better, 1 is without error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt
from jaxtyping import Float, Int
from torch import Tensor

from headway.data.calendar import HOUR, HOURS
from headway.data.prepared import Prepared, PreparedMeta
from headway.errors import InputError
from headway.evaluation.distribution import DistributionSums
from headway.evaluation.distribution_tables import write_distribution
from headway.evaluation.evidence import Evidence
from headway.evaluation.horizons import horizon_minutes
from headway.evaluation.metrics import Errors, ErrorSums, measure
from headway.evaluation.predict import ForecastBatch, PredictionWriter, forecast_split, forecast_windows
from headway.evaluation.recalibration import Recalibration
from headway.evaluation.sensor_week import SensorWeek
from headway.evaluation.tables import (
    ALL,
    forecast_scores,
    rounded,
    write_csv,
    write_json,
)
from headway.models.baselines import NAIVE, naive_forecasts
from headway.models.calibration import Calibrator, Intervals
from headway.models.naive_distributions import naive_distributions
from headway.types import Batch, Forecast

MODEL = "headway"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateParams:
    """Section `evaluate` of params.yaml.

    Attributes:
        minutes: horizons named in metrics.json besides the mean over all, where they exist.
        mape_floor: MAPE skips targets of at most this size, in the unit of the target.
        prediction_stride: every so many test windows are written to data/predictions; 0: none.
    """

    minutes: tuple[Annotated[int, Gt(0)], ...]
    mape_floor: Annotated[float, Ge(0)]
    prediction_stride: Annotated[int, Ge(0)]


def evaluate(
    prepared: Prepared,
    gather: Callable[[Tensor], Batch],
    model: Callable[[Batch], Forecast],
    params: EvaluateParams,
    batch_size: int,
    *,
    calibrator: Calibrator | None = None,
    metrics: Path,
    predictions: Path,
) -> dict[str, Errors]:
    """Forecast the test split once and write the report.

    Args:
        gather: `Windows.gather`, on the device of the model.
        model: in evaluation mode.
        batch_size: windows in memory at once; no result depends on it.
        calibrator: there if, and only if, the model says a distribution.
        metrics: folder of the small files.
        predictions: the Parquet file of forecasts.
    Returns: the errors of every forecast, the model first.
    Raises: InputError where the test split is empty or a forecast is not finite.
    """
    origins = _test_origins(prepared.meta)
    forecasters = {MODEL: model, **naive_forecasts(prepared)}
    week, evidence, errors = SensorWeek(prepared), Evidence(prepared.meta), dict[str, Errors]()
    distribution = _Distribution(prepared, calibrator) if calibrator else None
    quantiles = None
    if distribution:
        earlier = distribution.recalibration.earlier_origins()
        for forecasts in forecast_windows({MODEL: model}, gather, earlier, batch_size):
            distribution.learn(forecasts)
    with PredictionWriter(
        predictions, prepared, stride=params.prediction_stride, quantiles=distribution is not None
    ) as file:
        for forecasts in forecast_split(forecasters, gather, origins, batch_size):
            _add_errors(errors, forecasts, prepared, params.mape_floor)
            evidence.add(forecasts.batch, forecasts.points)
            week.add(forecasts.batch, forecasts.points[MODEL])
            if distribution:
                quantiles = distribution.add(forecasts)
            file.write(forecasts.batch, forecasts.points[MODEL], quantiles)
    step_seconds = prepared.meta.step_seconds
    sums = distribution.sums if distribution else None
    said = write_distribution(metrics, sums, prepared.meta.horizon, step_seconds)
    _write_scores(metrics, errors, params.minutes, step_seconds, said)
    _write_plots(metrics, errors, week, step_seconds)
    _write_sensors(metrics, errors[MODEL], prepared.sensors["sensor_id"].tolist())
    if warning := evidence.warning(MODEL):
        log.warning(warning)
    return errors


def model_scores(forecasts: Mapping[str, Mapping[str, Any]], minutes: Sequence[int]) -> dict[str, Any]:
    """metrics.json: the model over all steps, at the minutes that are a step of it, and its skill."""
    own = forecasts[MODEL]
    labels = [f"{value}min" for value in minutes if f"{value}min" in own]
    skill = {
        name: _skill(own[ALL]["mae"], table[ALL]["mae"]) for name, table in forecasts.items() if name != MODEL
    }
    return {**own[ALL], **{label: own[label] for label in labels}, "skill": skill}


def _test_origins(meta: PreparedMeta) -> tuple[int, int]:
    first, last = meta.splits["test"]
    if last <= first:
        raise InputError(
            f"{meta.dataset} has no test window: history {meta.history} + horizon {meta.horizon} steps do "
            f"not fit into the test share of {meta.steps} steps; shorten windows.history or bring more data"
        )
    return first, last


def _add_errors(
    errors: dict[str, Errors], forecasts: ForecastBatch, prepared: Prepared, mape_floor: float
) -> None:
    batch = forecasts.batch
    hour = hour_of_day(batch.target_calendar, prepared.meta.step_seconds)
    center = float(np.mean(prepared.climatology, dtype=np.float64))  # any constant near the data will do
    for name, point in forecasts.points.items():
        added = measure(
            point, batch.target, batch.target_observed, hour, mape_floor=mape_floor, center=center
        )
        errors[name] = errors[name] + added if name in errors else added


def hour_of_day(
    calendar: Int[Tensor, "batch horizon 2"], step_seconds: int
) -> Int[np.ndarray, "batch horizon"]:
    """The local civil hour, 0..23, in which each slot begins."""
    hour = calendar[..., 0].cpu().numpy().astype(np.int64) * step_seconds // HOUR
    return hour.clip(0, HOURS - 1)


def _skill(own: float | None, naive: float | None) -> float | None:
    return None if own is None or not naive else rounded(1 - own / naive)


class _Distribution:
    """Scores what the model says of every batch beside the naive distributions."""

    def __init__(self, prepared: Prepared, calibrator: Calibrator) -> None:
        self.sums = DistributionSums.empty(prepared.meta.horizon)
        self.recalibration = Recalibration(prepared.meta, calibrator)
        self._calibrator, self._naive = calibrator, naive_distributions(prepared)
        self._step_seconds = prepared.meta.step_seconds

    def learn(self, forecasts: ForecastBatch) -> None:
        """See what came of forecasts before the test split."""
        self.recalibration.learn(forecasts.batch, Intervals.of(forecasts.mixtures[MODEL]))

    def add(self, forecasts: ForecastBatch) -> Float[Tensor, "batch horizon node level"]:
        """Returns: the calibrated quantiles."""
        batch, mixture = forecasts.batch, forecasts.mixtures[MODEL]
        intervals = Intervals.of(mixture)
        said = {
            "raw": intervals.quantiles(),
            "calibrated": self._calibrator.quantiles(intervals),
            "recalibrated": self.recalibration.quantiles(batch, intervals),
        }
        hour = hour_of_day(batch.target_calendar, self._step_seconds)
        self.sums.add(mixture, said, batch.target, batch.target_observed, hour)
        naive = {name: forecast(batch) for name, forecast in self._naive.items()}
        self.sums.add_naive(naive, batch.target, batch.target_observed)
        return said["calibrated"]


def _write_scores(
    folder: Path,
    errors: Mapping[str, Errors],
    minutes: Sequence[int],
    step_seconds: int,
    distribution: Mapping[str, Any] | None,
) -> None:
    forecasts = forecast_scores(errors, step_seconds)
    own = model_scores(forecasts, minutes)
    write_json(folder / "metrics.json", {**own, "distribution": distribution} if distribution else own)
    write_json(folder / "forecasts.json", forecasts)


def _write_plots(folder: Path, errors: Mapping[str, Errors], week: SensorWeek, step_seconds: int) -> None:
    # a forecast that does not exist keeps its column, empty: dvc.yaml names all of them
    names = [MODEL, *NAIVE]
    by_step = _mae_rows({name: found.by_horizon for name, found in errors.items()})
    steps = [[horizon_minutes(step, step_seconds), *row] for step, row in enumerate(by_step, start=1)]
    write_csv(folder / "horizon.csv", ["horizon_minutes", *names], steps)
    by_hour = _mae_rows({name: found.by_hour for name, found in errors.items()})
    hours = [[hour, *row] for hour, row in enumerate(by_hour) if row[0] is not None]
    write_csv(folder / "hour.csv", ["hour", *names], hours)
    write_csv(folder / "week.csv", ["time", "sensor_id", "observed", "forecast"], week.rows())


def _mae_rows(sums: Mapping[str, ErrorSums]) -> list[tuple[float | None, ...]]:
    """A row a group: the MAE of the model and of each naive forecast, None for one that does not exist."""
    groups = len(sums[MODEL].count)
    columns = [
        [rounded(scores.mae) for scores in sums[name].scores()] if name in sums else [None] * groups
        for name in (MODEL, *NAIVE)
    ]
    return list(zip(*columns, strict=True))


def _write_sensors(folder: Path, errors: Errors, sensor_ids: Sequence[str]) -> None:
    scores = zip(sensor_ids, errors.by_sensor.scores(), strict=True)
    rows = [[sensor, rounded(score.mae), rounded(score.rmse), score.count] for sensor, score in scores]
    write_csv(folder / "sensors.csv", ["sensor_id", "mae", "rmse", "count"], sorted(rows, key=itemgetter(0)))
