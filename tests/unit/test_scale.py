"""Mean and deviation of what was really read."""

from __future__ import annotations

import numpy as np
import pytest

from headway.data.scale import column_moments, scale_of

RANDOM = np.random.default_rng(1)
READINGS = RANDOM.normal([50, 70, 90], 9, (200, 3)).astype(np.float32)
READINGS[RANDOM.random(READINGS.shape) < 0.3] = np.nan


def test_global_statistics_are_those_of_all_observed_readings() -> None:
    mean, std = scale_of(column_moments(READINGS), "global")
    assert mean.shape == std.shape == ()
    assert mean == pytest.approx(np.nanmean(READINGS.astype(float)), rel=1e-6)
    assert std == pytest.approx(np.nanstd(READINGS.astype(float)), rel=1e-6)


def test_sensor_statistics_are_those_of_each_column() -> None:
    mean, std = scale_of(column_moments(READINGS), "per_sensor")
    np.testing.assert_allclose(mean, np.nanmean(READINGS, axis=0), rtol=1e-5)
    np.testing.assert_allclose(std, np.nanstd(READINGS, axis=0), rtol=1e-4)


def test_a_sensor_without_readings_or_spread_takes_the_global_statistics() -> None:
    readings = np.array([[1, np.nan, 5], [3, np.nan, 5], [5, np.nan, 5]], np.float32)
    mean, std = scale_of(column_moments(readings), "per_sensor")
    everyone = readings[:, [0, 2]]
    np.testing.assert_allclose(mean, [3, everyone.mean(), everyone.mean()])
    np.testing.assert_allclose(std, [readings[:, 0].std(), everyone.std(), everyone.std()])


def test_without_any_spread_the_scale_is_one() -> None:
    for scaling in ("global", "per_sensor"):
        mean, std = scale_of(column_moments(np.full((4, 2), 7, np.float32)), scaling)  # type: ignore[arg-type]
        assert (mean == 7).all() and (std == 1).all()


def test_a_large_mean_does_not_eat_a_small_spread() -> None:
    readings = (1e6 + np.array([[-1], [1], [-1], [1]])).astype(np.float32)
    _, std = scale_of(column_moments(readings), "per_sensor")
    assert std[0] == pytest.approx(1, rel=0.01) or std[0] == 1
