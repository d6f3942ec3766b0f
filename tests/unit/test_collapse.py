"""Components of a mixture that have collapsed are counted, and told where they are common."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from headway.data.prepare import prepare
from headway.data.prepared import open_prepared
from headway.mixture import Mixture
from headway.models.collapse import CollapseCount
from tiny_run import MIXTURE, train_params, train_tiny
from worlds import preprocess_params, windows_params, write_raw_world

FLOOR = torch.tensor([0.5, 1.0])  # of two sensors


def forecasts(deviations: list[list[float]], weights: list[float]) -> Mixture:
    """One window and step; a row a sensor, a column a component."""
    wide = torch.tensor(deviations)[None, None]
    return Mixture(
        log_weights=torch.tensor(weights).log().expand_as(wide), means=torch.zeros_like(wide), deviations=wide
    )


@pytest.mark.parametrize(
    ("deviations", "weights", "collapsed"),
    [
        ([[0.505, 4.0], [1.01, 4.0]], [0.5, 0.5], 2),
        ([[0.505, 4.0], [0.505, 4.0]], [0.5, 0.5], 2),
        ([[0.7, 4.0], [1.01, 4.0]], [0.5, 0.5], 1),  # each sensor has its own floor
        ([[0.505, 4.0], [1.01, 4.0]], [0.05, 0.95], 0),  # too light to matter
        ([[0.505, 0.505], [4.0, 4.0]], [0.05, 0.95], 1),
    ],
)
def test_a_forecast_is_collapsed_where_weight_is_on_the_floor(
    deviations: list[list[float]], weights: list[float], collapsed: int
) -> None:
    count = CollapseCount(FLOOR)
    mixture = forecasts(deviations, weights)
    assert count.look(mixture) is mixture
    assert (count.collapsed, count.forecasts) == (collapsed, 2)


def test_a_rare_spike_is_no_warning_and_a_common_one_names_the_keys() -> None:
    count = CollapseCount(FLOOR)
    for _ in range(100):
        count.look(forecasts([[3.0, 4.0], [3.0, 4.0]], [0.5, 0.5]))
    count.look(forecasts([[0.5, 4.0], [3.0, 4.0]], [0.5, 0.5]))
    assert count.told() == []
    count.look(forecasts([[0.5, 4.0], [1.0, 4.0]], [0.5, 0.5]))
    (told,) = count.told()
    assert "1.5% of the validation forecasts" in told and "mixture.smallest" in told


@pytest.mark.parametrize("standing", [0.0, 0.5])
def test_training_on_readings_that_stand_still_warns_of_spikes_in_log_and_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, standing: float
) -> None:
    """Half of the readings are exactly 60: a detector that repeats itself. Where none do, nothing is told."""
    random = np.random.default_rng(0)
    readings = 60 + random.normal(0, 8, (1200, 4))
    readings[random.random(readings.shape) < standing] = 60.0
    write_raw_world(tmp_path / "raw", sensors=4, readings=readings.astype(np.float32))
    prepare(tmp_path / "raw", tmp_path / "prepared", preprocess_params(split="6-2-2"), windows_params())
    monkeypatch.chdir(tmp_path)
    train = train_params(epochs=3, epoch_steps=40, validation_windows=16, lr=0.02)
    sections = MIXTURE | {"mixture": replace(MIXTURE["mixture"], smallest=0.2, mean_square=0.0)}
    with caplog.at_level(logging.WARNING):
        trained = train_tiny(
            tmp_path,
            open_prepared(tmp_path / "prepared"),
            train=train,
            sections=sections,
            checkpoint_steps=1000,
            micro_batch=16,
        )
    told = [text for text in caplog.messages if "collapsed" in text]
    assert bool(told) == bool(standing)
    assert told == [note for note in trained.progress.notes if "collapsed" in note]
