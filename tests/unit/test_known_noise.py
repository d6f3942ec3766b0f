"""Coverage of a trained model on a world whose noise is known: from raw readings through training to the report.

Each sensor has a daily wave and independent Gaussian noise of its own deviation, so that validation and test readings
are exchangeable given the time of day: what conformal calibration promises must then hold.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from headway.data.prepare import prepare
from headway.data.prepared import open_prepared
from headway.data.windows import Windows
from headway.evaluation.report import EvaluateParams, evaluate
from headway.models.folder import read_model_folder
from tiny_run import MIXTURE, train_params, train_tiny
from worlds import preprocess_params, windows_params, write_raw_world

DEVIATIONS = np.tile([1.0, 2.0, 3.0, 4.0, 1.5, 2.5, 3.5, 1.2], 3)  # km/h
NORMAL_80 = 2 * 1.2815516  # width of the central 80 % of a standard normal law


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trained and evaluated model."""
    folder = tmp_path_factory.mktemp("known")
    hours = np.arange(3500)[:, None]
    wave = 60 + 15 * np.sin(2 * np.pi * hours / 24 + np.arange(len(DEVIATIONS)))
    readings = wave + np.random.default_rng(0).normal(0, DEVIATIONS, wave.shape)
    write_raw_world(folder / "raw", sensors=len(DEVIATIONS), readings=readings.astype(np.float32))
    prepare(
        folder / "raw",
        folder / "prepared",
        preprocess_params(split="6-2-2"),
        windows_params(trailing_weeks=4),
    )
    prepared = open_prepared(folder / "prepared")
    train = train_params(epochs=4, epoch_steps=40, validation_windows=64)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train_tiny(folder, prepared, train=train, sections=MIXTURE, checkpoint_steps=1000, micro_batch=16)
    found = read_model_folder(folder / "models/train", torch.device("cpu"))
    evaluate(
        prepared,
        Windows(prepared).gather,
        found.model,
        EvaluateParams(minutes=(60,), mape_floor=0.001, prediction_stride=1),
        64,
        calibrator=found.calibrator,
        metrics=folder / "metrics",
        predictions=folder / "test.parquet",
    )
    return folder


@pytest.fixture(scope="module")
def scores(evaluated: Path) -> dict[str, Any]:
    """distribution.json over all steps."""
    return json.loads((evaluated / "metrics/distribution.json").read_text())["all"]


def test_raw_intervals_of_a_trained_model_are_near_what_they_promise(scores: dict[str, Any]) -> None:
    assert 0.70 <= scores["raw"]["coverage"]["80%"] <= 0.90


def test_calibrated_intervals_hold_their_promise_where_readings_are_exchangeable(
    scores: dict[str, Any],
) -> None:
    assert 0.79 <= scores["calibrated"]["coverage"]["80%"] <= 0.81
    for interval, promised in (("95%", 0.95), ("90%", 0.9), ("50%", 0.5)):
        assert scores["calibrated"]["coverage"][interval] == pytest.approx(promised, abs=0.015)


def test_the_distribution_comes_close_to_the_law_itself(scores: dict[str, Any]) -> None:
    """No forecast can have a lower CRPS than the law, sigma / sqrt(pi), nor narrower honest intervals."""
    best = (DEVIATIONS / np.sqrt(np.pi)).mean()
    assert best * 0.98 < scores["crps"] < best * 1.15
    assert scores["calibrated"]["width"]["80%"] < 1.4 * (NORMAL_80 * DEVIATIONS).mean()


def test_forecasts_are_speeds_of_the_world_and_center_on_zero_inside_the_model(evaluated: Path) -> None:
    forecasts = pd.read_parquet(evaluated / "test.parquet")["forecast"]
    scaler = open_prepared(evaluated / "prepared").scaler
    inside = (forecasts - scaler["mean"][0]) / scaler["std"][0]
    assert abs(inside.mean()) < 0.2 and inside.std() < 1.5
    assert forecasts.between(60 - 15 - 10, 60 + 15 + 10).all()
