"""Naive distributions against numpy, and their CRPS against its definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from headway.data.windows import Windows
from headway.models.naive_distributions import MEMBERS, Ensemble, naive_distributions
from tiny_prepared import HORIZON, tiny_prepared


def test_the_crps_of_an_ensemble_is_its_definition() -> None:
    random = torch.Generator().manual_seed(0)
    members = torch.randn(2, 3, 4, MEMBERS, generator=random, dtype=torch.float64).sort(-1).values
    y = torch.randn(2, 3, 4, generator=random, dtype=torch.float64)
    pairs = (members.unsqueeze(-1) - members.unsqueeze(-2)).abs().mean((-1, -2))
    expected = (members - y.unsqueeze(-1)).abs().mean(-1) - pairs / 2
    torch.testing.assert_close(Ensemble(members=members).crps(y), expected)


def test_equal_members_have_the_absolute_error() -> None:
    y = torch.tensor([[[1.0, 5.0]]])
    certain = Ensemble(members=torch.full((1, 1, 2, MEMBERS), 3.0))
    torch.testing.assert_close(certain.crps(y), (y - 3).abs())


def test_climatology_is_what_training_showed_at_that_hour() -> None:
    prepared = tiny_prepared(missing=0.1)
    batch = Windows(prepared).gather(torch.tensor([280]))
    members = naive_distributions(prepared)["climatology"](batch).members
    assert members.shape == (1, HORIZON, 3, MEMBERS)
    slot, day = prepared.calendar[280]
    rows = np.arange(prepared.meta.training_rows)
    same = (prepared.calendar[rows, 0] == slot) & ((prepared.calendar[rows, 1] >= 5) == (day >= 5))
    rows = rows[same]
    readings = prepared.values[rows, 1, 0][prepared.observed[rows, 1, 0]]
    levels = (np.arange(MEMBERS) + 0.5) / MEMBERS
    expected = np.quantile(readings, levels, method="hazen")
    assert members[0, 0, 1].tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_persistence_adds_the_errors_it_made_in_training() -> None:
    prepared = tiny_prepared(missing=0.0)
    batch = Windows(prepared).gather(torch.tensor([280, 281]))
    members = naive_distributions(prepared)["persistence"](batch).members
    known = prepared.values[: prepared.meta.training_rows, 2, 0].astype(np.float64)
    errors = known[2:] - known[:-2]
    expected = prepared.values[279, 2, 0] + np.quantile(
        errors, (np.arange(MEMBERS) + 0.5) / MEMBERS, method="hazen"
    )
    assert members[0, 1, 2].tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_every_hour_of_a_long_hourly_series_is_learned() -> None:
    prepared = tiny_prepared(steps=26_000, sensors=1, missing=0.0)
    hour = prepared.calendar[:, 0]
    prepared.values[:, 0, 0] = hour
    batch = Windows(prepared).gather(torch.arange(20_000, 20_024))
    members = naive_distributions(prepared)["climatology"](batch).members
    assert torch.equal(members[..., 0, :], batch.target.expand_as(members[..., 0, :]))


def test_a_sensor_that_training_never_showed_has_finite_members() -> None:
    prepared = tiny_prepared(missing=0.0)
    prepared.observed[: prepared.meta.training_rows, 1] = False
    batch = Windows(prepared).gather(torch.arange(280, 310))
    for name, forecast in naive_distributions(prepared).items():
        assert forecast(batch).members.isfinite().all(), name


def test_a_horizon_longer_than_training_has_no_errors_to_show() -> None:
    prepared = tiny_prepared(missing=0.0)
    short = replace(prepared, meta=replace(prepared.meta, training_rows=2))
    batch = Windows(short).gather(torch.tensor([280]))
    members = naive_distributions(short)["persistence"](batch).members
    assert (members[0, 2] == batch.history[0, -1, :, 0].unsqueeze(-1)).all()


def test_no_reading_after_training_enters() -> None:
    prepared = tiny_prepared()
    changed = tiny_prepared()
    changed.values[changed.meta.training_rows + 20 :] = 500
    batch = Windows(prepared).gather(torch.tensor([prepared.meta.training_rows + 10]))
    for name, forecast in naive_distributions(prepared).items():
        assert torch.equal(forecast(batch).members, naive_distributions(changed)[name](batch).members), name


def test_members_are_finite_where_a_sensor_was_never_observed_at_an_hour() -> None:
    prepared = tiny_prepared(missing=0.0)
    prepared.observed[prepared.calendar[:, 0] == 5] = False
    batch = Windows(prepared).gather(torch.arange(280, 310))
    for forecast in naive_distributions(prepared).values():
        assert forecast(batch).members.isfinite().all()
