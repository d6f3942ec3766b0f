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


def look(count: CollapseCount, mixture: Mixture, reading: float = 0.0) -> None:
    target = torch.full_like(mixture.point, reading)
    assert count.look(mixture, target, torch.ones_like(target, dtype=torch.bool)) is mixture


@pytest.mark.parametrize(
    ("deviations", "weights", "heavy"),
    [
        ([[0.505, 4.0], [1.01, 4.0]], [0.5, 0.5], 2),
        ([[0.505, 4.0], [0.505, 4.0]], [0.5, 0.5], 2),
        ([[0.7, 4.0], [1.01, 4.0]], [0.5, 0.5], 1),  # each sensor has its own floor
        ([[0.505, 4.0], [1.01, 4.0]], [0.05, 0.95], 0),  # too light to matter
        ([[0.505, 0.505], [4.0, 4.0]], [0.05, 0.95], 1),
    ],
)
def test_a_forecast_is_heavy_where_weight_is_on_the_floor(
    deviations: list[list[float]], weights: list[float], heavy: int
) -> None:
    count = CollapseCount(FLOOR)
    look(count, forecasts(deviations, weights))
    assert (count.heavy, count.forecasts) == (heavy, 2)


def test_a_rare_spike_is_no_warning_and_a_common_one_names_the_keys() -> None:
    count = CollapseCount(FLOOR)
    for _ in range(100):
        look(count, forecasts([[3.0, 4.0], [3.0, 4.0]], [0.5, 0.5]))
    look(count, forecasts([[0.5, 4.0], [3.0, 4.0]], [0.5, 0.5]), 9.0)
    assert count.told() == []
    look(count, forecasts([[0.5, 4.0], [1.0, 4.0]], [0.5, 0.5]), 9.0)
    (told,) = count.told()
    assert "1.5% of the validation forecasts" in told and "mixture.smallest" in told
    assert "50% of their weight" in told and "where 0% of the readings fall" in told


def test_narrow_components_that_readings_fall_into_are_no_collapse() -> None:
    """A quiet night: what the forecast says of itself is what comes."""
    random, count = torch.Generator().manual_seed(0), CollapseCount(FLOOR)
    mixture = forecasts([[0.5, 4.0], [1.0, 4.0]], [0.6, 0.4])
    for _ in range(400):
        chosen = torch.rand((1, 1, 2), generator=random) < 0.6
        drawn = torch.randn((1, 1, 2), generator=random)
        target = drawn * torch.where(chosen, mixture.deviations[..., 0], mixture.deviations[..., 1])
        count.look(mixture, target, torch.ones_like(chosen))
    assert count.found == pytest.approx(count.said, rel=0.05)
    assert count.told() == []


def test_what_was_not_observed_does_not_count() -> None:
    count = CollapseCount(FLOOR)
    mixture = forecasts([[0.5, 4.0], [1.0, 4.0]], [0.5, 0.5])
    count.look(mixture, torch.zeros(1, 1, 2), torch.tensor([[[True, False]]]))
    assert (count.heavy, count.forecasts) == (1, 1)


@pytest.mark.parametrize("standing", [0.0, 0.5])
def test_training_on_readings_that_stood_still_warns_of_spikes_in_log_and_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, standing: float
) -> None:
    """Until it was repaired a detector said exactly 60 half of the time. Where none did, nothing is told."""
    random = np.random.default_rng(0)
    readings = 60 + random.normal(0, 8, (1200, 4))
    readings[:720][random.random((720, 4)) < standing] = 60.0  # the 60 % that are trained on
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
