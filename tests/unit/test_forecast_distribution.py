"""Forecasts of a model that says a distribution, from raw rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import headway
from headway.__main__ import main
from headway.data.windows import Windows
from headway.errors import InputError
from headway.evaluation import recalibration
from headway.evaluation.predict import QUANTILES, forecast_split, forecast_windows
from headway.evaluation.recalibration import Recalibration
from headway.models.calibration import Intervals
from tiny_run import MIXTURE
from tiny_serving import Served, by_origin, serve

NOW = 150  # rows of the table that is given


@pytest.fixture(scope="module")
def unsure(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """Served by a model that says a distribution."""
    return serve(tmp_path_factory.mktemp("mixture"), sections=MIXTURE)


def tables(unsure: Served) -> dict[str, Any]:
    return {"inputs": {"flow": unsure.flow}, "covariates": unsure.rain}


def test_forecasts_and_quantiles_from_raw_rows_are_those_of_the_evaluate_stage_to_the_bit(
    unsure: Served,
) -> None:
    forecaster, columns, compared = headway.load(unsure.model), ["forecast", *QUANTILES], 0
    for past, expected in by_origin(unsure):
        found = forecaster.predict(
            unsure.readings[past], inputs={"flow": unsure.flow[past]}, covariates=unsure.rain
        )
        assert found[columns].to_numpy().tobytes() == expected[columns].to_numpy().tobytes()
        compared += 1
    assert compared > 30


def test_a_forecaster_that_is_recalibrated_has_the_quantiles_of_that_day_of_the_evaluation(
    unsure: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recalibration, "LESSONS", 36)  # a week of this world would reach into its training
    meta, prepared = unsure.prepared.meta, unsure.prepared
    shipped = headway.load(unsure.model)
    assert shipped.found.calibrator is not None
    evaluated = Recalibration(meta, shipped.found.calibrator)
    gather, model = Windows(prepared).gather, {"model": shipped.found.model}
    for said in forecast_windows(model, gather, evaluated.earlier_origins(), 7):
        evaluated.learn(said.batch, Intervals.of(said.mixtures["model"]))
    compared = 0
    for said in forecast_split(model, gather, meta.splits["test"], 5):
        quantiles = evaluated.quantiles(said.batch, Intervals.of(said.mixtures["model"]))
        for row, origin in enumerate(said.batch.origin.tolist()):
            if (origin - meta.splits["test"][0]) % 24:  # no day begins here
                continue
            past = np.asarray(unsure.utc < pd.Timestamp(int(prepared.time[origin]), unit="s", tz="UTC"))
            recent: dict[str, Any] = {"inputs": {"flow": unsure.flow[past]}, "covariates": unsure.rain}
            found = shipped.recalibrate(unsure.readings[past], **recent).predict(
                unsure.readings[past], **recent
            )
            assert found[list(QUANTILES)].to_numpy().tobytes() == quantiles[row].numpy().tobytes()
            compared += 1
    assert compared > 3


def test_the_command_recalibrates_as_the_forecaster_does(
    unsure: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    frames = {"recent": unsure.readings, "flow": unsure.flow, "rain": unsure.rain}
    for name, frame in frames.items():
        frame.to_parquet(f"{name}.parquet", index=False)
    further = ["--input", "flow=flow.parquet", "--covariates", "rain.parquet"]
    command = ["predict", str(unsure.model), "recent.parquet", *further, "--out"]
    assert main([*command, "plain.csv"]) == 0
    assert main([*command, "moved.csv", "--recalibrate"]) == 0
    plain, moved = (pd.read_csv(name, float_precision="round_trip") for name in ("plain.csv", "moved.csv"))
    assert plain["forecast"].equals(moved["forecast"]) and not plain["q0.9"].equals(moved["q0.9"])
    recalibrated = headway.load(unsure.model).recalibrate(unsure.readings, **tables(unsure))
    expected = recalibrated.predict(unsure.readings, **tables(unsure))
    assert np.array_equal(moved["q0.9"].astype(np.float32), expected["q0.9"])


def test_few_rows_and_a_model_of_single_numbers_cannot_be_recalibrated(unsure: Served) -> None:
    shipped = headway.load(unsure.model)
    short: dict[str, Any] = {"inputs": {"flow": unsure.flow[:29]}, "covariates": unsure.rain}
    with pytest.raises(
        InputError, match="show the outcome of 23 forecasts 1 h apart, calibration needs 24; bring 1 steps"
    ):
        shipped.recalibrate(unsure.readings[:29], **short)
    single = replace(shipped, found=replace(shipped.found, calibrator=None))
    with pytest.raises(InputError, match="single numbers"):
        single.recalibrate(unsure.readings[:NOW], **tables(unsure))


def test_quantiles_rise_around_the_forecast(unsure: Served) -> None:
    found = headway.load(unsure.model).predict(unsure.readings[:NOW], **tables(unsure))
    half = len(QUANTILES) // 2
    ordered = found[[*QUANTILES[:half], "forecast", *QUANTILES[half:]]].to_numpy()
    assert (np.diff(ordered, axis=1) >= 0).all() and (ordered[:, -1] > ordered[:, 0]).all()


def test_the_report_of_a_distribution_stands_beside_that_of_the_point(unsure: Served) -> None:
    metrics = json.loads((unsure.project / "metrics/evaluate/metrics.json").read_text())
    scores = metrics["distribution"]
    assert scores["crps"] > 0 and scores["count"] == metrics["count"]
    assert set(scores["calibrated"]["coverage"]) == {"95%", "90%", "80%", "50%"}
    assert scores["crps_climatology"] > 0 and scores["crps_persistence"] > 0


def test_forecasts_without_units_are_those_with_units_standardized(unsure: Served) -> None:
    forecaster = headway.load(unsure.model)
    plain = forecaster.predict(unsure.readings[:NOW], **tables(unsure))
    bare = forecaster.predict(unsure.readings[:NOW], denormalize=False, **tables(unsure))
    mean, std = (unsure.prepared.scaler[name][0] for name in ("mean", "std"))
    for column in ("forecast", *QUANTILES):
        np.testing.assert_allclose(bare[column] * std + mean, plain[column], rtol=1e-5)
    assert (bare.attrs["unit"], plain.attrs["unit"]) == ("standardized", "km/h")
    assert np.abs(bare["forecast"].to_numpy()).max() < 4
    assert np.abs(plain["forecast"].to_numpy() - 65).max() < 35
