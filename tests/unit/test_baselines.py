"""The naive forecasts against their definitions, reading by reading."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import torch

from headway.data.prepared import Prepared
from headway.data.windows import Windows
from headway.models.baselines import NAIVE, naive_forecasts
from tiny_prepared import HISTORY, HORIZON, tiny_prepared

WEEK = 168  # hours


def usual(prepared: Prepared, row: int | np.integer, sensor: int) -> np.float32:
    slot, day = prepared.calendar[row]
    return prepared.climatology[day * prepared.meta.slots_per_day + slot, sensor]


def test_persistence_is_the_last_observed_reading_and_else_the_historical_average() -> None:
    prepared = tiny_prepared(missing=0.6)
    origins = np.arange(*prepared.meta.splits["test"])
    point = naive_forecasts(prepared)["persistence"](Windows(prepared).gather(origins)).point.numpy()
    without_any = 0
    for window, origin in enumerate(origins):
        for sensor in range(prepared.meta.sensors):
            rows = [row for row in range(origin - HISTORY, origin) if prepared.observed[row, sensor, 0]]
            without_any += not rows
            for step in range(HORIZON):
                expected = (
                    prepared.values[rows[-1], sensor, 0] if rows else usual(prepared, origin + step, sensor)
                )
                assert point[window, step, sensor] == expected
    assert without_any > 10


def test_historical_average_is_the_training_climatology_of_the_time_of_week() -> None:
    prepared = tiny_prepared()
    origins = np.array([300, 350])
    point = naive_forecasts(prepared)["historical_average"](Windows(prepared).gather(origins)).point
    expected = [
        [[usual(prepared, origin + step, sensor) for sensor in range(3)] for step in range(HORIZON)]
        for origin in origins
    ]
    assert np.array_equal(point.numpy(), np.array(expected))


def test_same_time_last_week_reads_exactly_one_week_before_and_else_the_historical_average() -> None:
    prepared = tiny_prepared(missing=0.4)
    origins = np.array([WEEK - 2, WEEK, 300, 397])  # the first window begins before there is a last week
    point = naive_forecasts(prepared)["same_time_last_week"](Windows(prepared).gather(origins)).point.numpy()
    for window, origin in enumerate(origins):
        for step, sensor in product(range(HORIZON), range(3)):
            row = origin + step - WEEK
            known = row >= 0 and prepared.observed[row, sensor, 0]
            expected = prepared.values[row, sensor, 0] if known else usual(prepared, origin + step, sensor)
            assert point[window, step, sensor] == expected


def test_no_naive_forecast_reads_the_origin_or_later() -> None:
    prepared, origin = tiny_prepared(), 350
    blind = replace(prepared, values=prepared.values.copy(), observed=prepared.observed.copy())
    blind.values[origin:] = 7777.0
    blind.observed[origin:] = True
    for name in NAIVE:
        seen, unseen = (
            naive_forecasts(data)[name](Windows(data).gather(np.array([origin])))
            for data in (prepared, blind)
        )
        assert torch.equal(seen.point, unseen.point)


def test_last_week_does_not_exist_where_a_week_is_no_whole_number_of_steps() -> None:
    assert list(naive_forecasts(tiny_prepared(step_seconds=3600))) == list(NAIVE)
    assert list(naive_forecasts(tiny_prepared(step_seconds=1700))) == ["persistence", "historical_average"]


def test_last_week_does_not_exist_for_a_horizon_longer_than_a_week() -> None:
    prepared = tiny_prepared()
    week_long = replace(prepared, meta=replace(prepared.meta, horizon=WEEK))
    longer = replace(prepared, meta=replace(prepared.meta, horizon=WEEK + 1))
    assert "same_time_last_week" in naive_forecasts(week_long)
    assert "same_time_last_week" not in naive_forecasts(longer)
