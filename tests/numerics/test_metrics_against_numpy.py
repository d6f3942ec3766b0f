"""The accumulated metrics against numpy on the whole arrays at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.data.calendar import HOURS
from headway.evaluation.metrics import Errors, Scores, measure

WINDOWS, HORIZON, SENSORS = 23, 5, 4
FLOOR = 1.0


def data(seed: int, level: float = 40.0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    shape = (WINDOWS, HORIZON, SENSORS)
    target = random.normal(level, 12, shape).astype(np.float32)
    target[random.random(shape) < 0.1] = 0  # a true zero: it counts, but not in MAPE
    return {
        "point": (target + random.normal(0, 5, shape)).astype(np.float32),
        "target": target,
        "observed": random.random(shape) > 0.3,
        "hour": random.integers(0, HOURS, (WINDOWS, HORIZON)),
    }


def accumulate(arrays: dict[str, np.ndarray], batch_size: int, center: float = 40.0) -> Errors:
    parts = [
        measure(
            torch.from_numpy(arrays["point"][rows]),
            torch.from_numpy(arrays["target"][rows]),
            torch.from_numpy(arrays["observed"][rows]),
            arrays["hour"][rows],
            mape_floor=FLOOR,
            center=center,
        )
        for rows in (slice(start, start + batch_size) for start in range(0, WINDOWS, batch_size))
    ]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def expected(arrays: dict[str, np.ndarray], chosen: np.ndarray) -> list[float]:
    keep = arrays["observed"] & chosen
    y = arrays["target"][keep].astype(np.float64)
    error = arrays["point"][keep].astype(np.float64) - y
    large = np.abs(y) > FLOOR
    return [
        np.abs(error).mean(),
        np.sqrt((error**2).mean()),
        100 * (np.abs(error[large]) / np.abs(y[large])).mean(),
        100 * np.abs(error).sum() / np.abs(y).sum(),
        1 - (error**2).sum() / ((y - y.mean()) ** 2).sum(),
        keep.sum(),
    ]


def numbers(scores: Scores) -> list[float | int | None]:
    return [scores.mae, scores.rmse, scores.mape, scores.wape, scores.r2, scores.count]


@pytest.mark.parametrize("batch_size", [1, 7, WINDOWS])
def test_every_group_agrees_with_numpy_whatever_the_batches(batch_size: int) -> None:
    arrays = data(seed=1)
    errors = accumulate(arrays, batch_size)
    step, sensor = np.indices(arrays["target"].shape)[1:]
    hour = np.broadcast_to(arrays["hour"][..., None], step.shape)
    everything = np.ones(step.shape, bool)
    assert numbers(errors.by_horizon.total().scores()[0]) == pytest.approx(
        expected(arrays, everything), rel=1e-12
    )
    for groups, sums in ((step, errors.by_horizon), (hour, errors.by_hour), (sensor, errors.by_sensor)):
        for group, scores in enumerate(sums.scores()):
            assert numbers(scores) == pytest.approx(expected(arrays, groups == group), rel=1e-11)


def test_sums_of_the_three_groupings_are_the_same_total() -> None:
    errors = accumulate(data(seed=2), 5)
    totals = [
        numbers(sums.total().scores()[0]) for sums in (errors.by_horizon, errors.by_hour, errors.by_sensor)
    ]
    assert totals[1] == pytest.approx(totals[0], rel=1e-13)
    assert totals[2] == pytest.approx(totals[0], rel=1e-13)


def test_r2_keeps_its_digits_when_the_level_dwarfs_the_spread() -> None:
    arrays = data(seed=3, level=40.0)
    arrays["target"] = (1e6 + arrays["target"]).astype(np.float32)
    arrays["point"] = (1e6 + arrays["point"]).astype(np.float32)
    # both in float32, so take what it kept of them; the center is only near the mean
    r2 = accumulate(arrays, 4, center=1e6).by_horizon.total().scores()[0].r2
    assert r2 == pytest.approx(expected(arrays, np.ones(arrays["target"].shape, bool))[4], rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), noise=st.sampled_from([np.nan, np.inf, -np.inf, 1e30]))
def test_what_stands_where_nothing_was_observed_has_no_effect(seed: int, noise: float) -> None:
    arrays = data(seed)
    clean = accumulate(arrays, 9)
    for name in ("point", "target"):
        arrays[name] = np.where(arrays["observed"], arrays[name], np.float32(noise))
    assert accumulate(arrays, 9).by_horizon.scores() == clean.by_horizon.scores()
    assert accumulate(arrays, 9).by_sensor.scores() == clean.by_sensor.scores()
