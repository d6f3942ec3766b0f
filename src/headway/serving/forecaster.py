"""From recent readings to forecasts, with nothing but a model folder.

    import headway

    forecaster = headway.load("models/train")
    forecasts = forecaster.predict(readings)

Enters: a model folder (models/folder.py) and data frames. Leaves: a data frame of forecasts. The window is gathered
and forecast by the code that evaluates, so that what was measured there holds here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from headway.data.split import describe_seconds
from headway.data.windows import Windows
from headway.errors import InputError
from headway.evaluation.predict import QUANTILES, forecast_split, forecast_windows
from headway.evaluation.recalibration import FEWEST, LESSONS, lesson_origins, steps_apart
from headway.models.calibration import Intervals, Misses, fit_calibrator
from headway.models.folder import ModelFolder, read_model_folder
from headway.serving.recent import READINGS, Recent, lay_out

NAME = "the model"
AT_ONCE = 32  # windows
NOTHING = pd.DataFrame()
NO_INPUTS: Mapping[str, pd.DataFrame] = MappingProxyType({})


def load(folder: Path | str, device: torch.device | str = "cpu") -> Forecaster:
    """Read a model folder, such as models/train of a project, or what `dvc get` fetched of one.

    Example:
        >>> forecaster = headway.load("models/train")
        >>> forecaster.predict(readings)  # a column `timestamp`, then one column a sensor
    Raises: InputError naming the file that is absent, damaged or of another version.
    """
    device = torch.device(device)
    return Forecaster(found=read_model_folder(Path(folder), device), device=device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecaster:
    """A trained model that reads and writes data frames.

    Attributes:
        found: the model, and what its folder says of sensors, steps and units.
    """

    found: ModelFolder
    device: torch.device

    def predict(
        self,
        readings: pd.DataFrame,
        *,
        inputs: Mapping[str, pd.DataFrame] = NO_INPUTS,
        covariates: pd.DataFrame = NOTHING,
        denormalize: bool = True,
    ) -> pd.DataFrame:
        """Forecast the `horizon` steps after the newest row.

        Args:
            readings: of the target variable. A column `timestamp` or a DatetimeIndex (naive ones are civil time
                in the model's time zone), one numeric column for each sensor of the model in any order, NaN where
                nothing was read. At least the model's `history` steps; what is given beyond them, up to a month,
                makes the forecast better where the model has context.
            inputs: the further variables the model was trained with, by name, in the same shape.
            covariates: the covariates it was trained with.
            denormalize: False gives forecasts in the standardized units of the model: mean 0, deviation 1.
        Returns: a row a step and sensor: sensor_id, target_time (UTC), target_time_local, horizon (1 is the first
            step after the newest row), forecast (float32, in `attrs["unit"]`), and, of a model that says a
            distribution, its calibrated quantiles q0.025 to q0.975; `attrs` names variable, unit,
            time_zone and step_seconds. On a CPU the forecasts are, to the bit, those that evaluation makes at this
            origin from the same past.
        Raises: InputError saying what of the tables cannot be used.
        """
        recent = lay_out(self.found, readings, inputs, covariates)
        gather = Windows(recent, self.device).gather
        origins = (recent.origin, recent.origin + 1)
        only = next(forecast_split({NAME: self.found.model}, gather, origins, 1))
        forecasts = {"forecast": only.points[NAME]}
        if self.found.calibrator is not None:
            quantiles = self.found.calibrator.quantiles(Intervals.of(only.mixtures[NAME]))
            forecasts |= dict(zip(QUANTILES, quantiles.unbind(-1), strict=True))
        if not denormalize:
            to_standard = self.found.model.to_standard
            forecasts = {name: to_standard(values) for name, values in forecasts.items()}
        return self._table(forecasts, recent, self.found.meta.unit if denormalize else "standardized")

    def recalibrate(
        self,
        readings: pd.DataFrame,
        *,
        inputs: Mapping[str, pd.DataFrame] = NO_INPUTS,
        covariates: pd.DataFrame = NOTHING,
    ) -> Forecaster:
        """The same model, its intervals calibrated on its newest forecasts of which these readings show the outcome.

        It takes as many forecasts as a week has hours, each made from what was known an hour after the one before;
        use it every day, since what validation asked for may not hold in another season.

        Args: as of `predict`, with a week of rows more than that; days that training has seen would tell too little.
        Returns: a forecaster with other quantiles and the same forecasts. On a CPU they are, to the bit, those that
            evaluation calls recalibrated on a day that begins after the newest row.
        Raises: InputError saying what of the tables cannot be used; where the model says single numbers.
        """
        if self.found.calibrator is None:
            raise InputError(
                "the model says single numbers, so it has no intervals to calibrate; "
                "one trained with model.head: mixture says how sure it is"
            )
        meta = self.found.meta
        apart = steps_apart(meta.step_seconds)
        lessons = LESSONS * apart + meta.horizon
        recent = lay_out(self.found, readings, inputs, covariates, lessons)
        origins = lesson_origins(recent.origin, meta, recent.first_origin())
        if len(origins) < FEWEST:
            spacing, missing = describe_seconds(apart * meta.step_seconds), (FEWEST - len(origins)) * apart
            raise InputError(
                f"{READINGS} show the outcome of {len(origins)} forecasts {spacing} apart, calibration needs "
                f"{FEWEST}; bring {missing} steps more of the past"
            )
        gather = Windows(recent, self.device).gather
        forecasts = forecast_windows({NAME: self.found.model}, gather, torch.from_numpy(origins), AT_ONCE)
        calibrator = fit_calibrator(
            Misses.of(Intervals.of(said.mixtures[NAME]), said.batch.target, said.batch.target_observed)
            for said in forecasts
        )
        return replace(self, found=replace(self.found, calibrator=calibrator))

    def _table(self, forecasts: Mapping[str, Tensor], recent: Recent, unit: str) -> pd.DataFrame:
        meta, ids = self.found.meta, self.found.sensors["sensor_id"].tolist()
        steps = np.arange(meta.horizon)
        seconds = np.repeat(recent.first_target + meta.step_seconds * steps, len(ids))
        time = pd.DatetimeIndex(seconds.astype("datetime64[s]"), tz="UTC")
        table = pd.DataFrame(
            {
                "sensor_id": ids * meta.horizon,
                "target_time": time,
                "target_time_local": time.tz_convert(meta.time_zone),
                "horizon": np.repeat(steps + 1, len(ids)).astype(np.int16),
                **{name: values.cpu().numpy().ravel() for name, values in forecasts.items()},
            }
        )
        table.attrs = {
            "variable": meta.variable,
            "unit": unit,
            "time_zone": meta.time_zone,
            "step_seconds": meta.step_seconds,
        }
        return table
