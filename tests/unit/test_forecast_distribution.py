"""Forecasts of a model that says a distribution, from raw rows."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import headway
from headway.evaluation.predict import QUANTILES
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
