"""The usual reading of each time of week, by means with fallback."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.data.calendar import civil_calendar, time_of_week
from headway.data.climatology import weekly_climatology

STEP, SLOTS = 6 * 3600, 4  # four steps a day, 28 a week
MONDAY = 4 * 86_400  # 1970-01-05


def calendar_of(steps: int) -> np.ndarray:
    return civil_calendar(MONDAY + STEP * np.arange(steps), "UTC", STEP)


def climatology(readings: np.ndarray, knows_weeks: bool = True) -> np.ndarray:
    return weekly_climatology(readings.astype(np.float32), calendar_of(len(readings)), SLOTS, knows_weeks)


def test_each_time_of_week_has_the_mean_of_its_readings() -> None:
    weeks = np.array([1.0, 2.0, 6.0])[:, None] + np.zeros(28)
    table = climatology((weeks + np.arange(28)).reshape(-1, 1))
    np.testing.assert_array_equal(table[:, 0], 3 + np.arange(28))


def test_days_count_alike_where_each_time_of_week_was_seen_once() -> None:
    readings = np.arange(7.0).repeat(SLOTS) + 10 * np.tile(np.arange(4.0), 7)
    table = climatology(readings[:, None], knows_weeks=False)
    np.testing.assert_array_equal(table[:, 0], np.tile(3 + 10 * np.arange(4), 7))


def test_what_was_never_read_falls_back_step_by_step() -> None:
    readings = np.full((56, 3), np.nan)
    calendar = calendar_of(56)
    readings[:, 0] = calendar[:, 0] * 10
    readings[(calendar[:, 1] == 2), 0] = np.nan  # no Wednesday: time of day
    readings[(calendar[:, 0] == 3), 0] = np.nan  # never the last slot: the sensor
    readings[0, 1] = 99.0  # one reading: the sensor everywhere; sensor 2 has none: the mean sensor
    table = climatology(readings)
    np.testing.assert_array_equal(table[2 * SLOTS : 2 * SLOTS + 3, 0], [0, 10, 20])
    np.testing.assert_array_equal(table[3::SLOTS, 0], np.full(7, 10))
    np.testing.assert_array_equal(table[:, 1], np.full(28, 99))
    np.testing.assert_array_equal(table[:, 2], np.full(28, (10 + 99) / 2))


def test_without_any_reading_the_climatology_is_zero() -> None:
    np.testing.assert_array_equal(climatology(np.full((3, 2), np.nan)), np.zeros((28, 2)))


@settings(max_examples=25, deadline=None)
@given(st.integers(30, 120), st.integers(0, 10_000))
def test_means_equal_numpy(steps: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    readings = random.normal(size=(steps, 2)).astype(np.float32)
    readings[random.random(readings.shape) < 0.3] = np.nan
    table, rows = climatology(readings), time_of_week(calendar_of(steps), SLOTS)
    for row in np.unique(rows):
        for sensor in range(2):
            seen = readings[rows == row, sensor]
            if not np.isnan(seen).all():
                mean = np.nanmean(seen, dtype=np.float64)
                np.testing.assert_allclose(table[row, sensor], mean, rtol=1e-5, atol=1e-6)
