"""Conformal calibration on laws that are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from headway.errors import InputError
from headway.mixture import Mixture
from headway.models.calibration import (
    INTERVALS,
    LEAST_READINGS,
    LEVELS,
    MOST_GROUPS,
    Calibrator,
    Intervals,
    Misses,
    fit_calibrator,
)
from headway.types import Batch
from tiny_model import tiny_batch

NODES, HORIZON = 4, 3
RESTLESS = torch.tensor([1.0, 2.0, 4.0, 8.0])  # true deviation of each sensor


def said(windows: int, claimed: float, seed: int) -> tuple[Batch, Mixture]:
    """Readings of a known law, and a Gaussian that claims `claimed` times its deviation."""
    random = torch.Generator().manual_seed(seed)
    batch = tiny_batch(batch=windows, horizon=HORIZON, nodes=NODES, missing=0.1, seed=seed)
    noise = torch.randn(windows, HORIZON, NODES, generator=random)
    target = (50 + RESTLESS * noise) * batch.target_observed
    mixture = Mixture(
        log_weights=torch.zeros(windows, HORIZON, NODES, 1),
        means=torch.full((windows, HORIZON, NODES, 1), 50.0),
        deviations=(claimed * RESTLESS).expand(windows, HORIZON, NODES).unsqueeze(-1),
    )
    return replace(batch, target=target), mixture


def came_of(batch: Batch, mixture: Mixture) -> Misses:
    return Misses.of(Intervals.of(mixture), batch.target, batch.target_observed)


def coverage(y: torch.Tensor, seen: torch.Tensor, quantiles: torch.Tensor) -> list[float]:
    found = []
    for index in range(len(INTERVALS)):
        inside = (y >= quantiles[..., index]) & (y <= quantiles[..., -1 - index])
        found.append(inside[seen].float().mean().item())
    return found


@pytest.mark.parametrize("claimed", [0.5, 1.0, 3.0])
def test_calibrated_intervals_cover_what_they_promise_whatever_the_model_claimed(claimed: float) -> None:
    calibrator = fit_calibrator(came_of(*said(4000, claimed, seed)) for seed in (1, 2))
    batch, mixture = said(8000, claimed, seed=3)
    y, seen = batch.target, batch.target_observed
    assert coverage(y, seen, calibrator.quantiles(Intervals.of(mixture))) == pytest.approx(
        INTERVALS, abs=0.01
    )
    if claimed != 1.0:
        assert abs(coverage(y, seen, Intervals.of(mixture).quantiles())[2] - 0.8) > 0.1


def test_groups_keep_a_quiet_sensor_from_being_widened_for_a_restless_one() -> None:
    calibrator = fit_calibrator([came_of(*said(9000, 0.5, seed=1))])
    assert len(calibrator.group.unique()) == NODES
    batch, mixture = said(9000, 0.5, seed=3)
    quantiles = calibrator.quantiles(Intervals.of(mixture))
    for node in range(NODES):
        y, seen = batch.target[..., node], batch.target_observed[..., node]
        assert coverage(y, seen, quantiles[:, :, node])[2] == pytest.approx(0.8, abs=0.015)


def test_few_readings_make_one_group() -> None:
    calibrator = fit_calibrator([came_of(*said(30, 1.0, seed=1))])
    assert calibrator.group.tolist() == [0] * NODES and calibrator.widen.shape == (len(INTERVALS), 1, HORIZON)
    assert calibrator.readings <= 30 * NODES


def test_groups_are_so_few_that_the_smallest_has_enough_readings() -> None:
    windows, nodes = 4000, 16  # the wider half is silent in validation
    random = np.random.default_rng(0)
    misses = Misses(
        outside=random.normal(size=(windows, 2, nodes, len(INTERVALS))).astype(np.float32),
        observed=np.broadcast_to(np.arange(nodes) < nodes // 2, (windows, 2, nodes)),
        width=np.broadcast_to(np.arange(1.0, 1 + nodes), (windows, nodes)),
    )
    silent = fit_calibrator([misses])
    assert silent.readings == windows * nodes // 2 and silent.group.eq(0).all() and silent.widen.ne(0).all()
    rarely = misses.observed | (
        random.random((windows, 2, nodes)) < 0.2
    )  # 2,400 readings of three such sensors
    some = fit_calibrator([replace(misses, observed=rarely)])
    assert len(some.group.unique()) == 5 and some.readings >= LEAST_READINGS
    heard = fit_calibrator([replace(misses, observed=np.ones_like(misses.observed))])
    assert len(heard.group.unique()) == MOST_GROUPS


def test_calibrated_quantiles_rise_and_stay_around_the_median() -> None:
    _, mixture = said(5, 1.0, seed=1)
    narrow = Calibrator(
        group=torch.zeros(NODES, dtype=torch.int64),
        widen=torch.tensor([-50.0, 3.0, -1.0, 0.5]).view(-1, 1, 1).expand(-1, 1, HORIZON).contiguous(),
        readings=1,
    )
    found = narrow.quantiles(Intervals.of(mixture))
    assert found.shape[-1] == len(LEVELS) and (found.diff(dim=-1) >= 0).all()
    assert (found[..., :4] <= 50).all() and (found[..., 4:] >= 50).all()


def test_nothing_observed_is_an_error() -> None:
    batch, mixture = said(3, 1.0, seed=1)
    with pytest.raises(InputError, match="no target is observed"):
        fit_calibrator(
            [came_of(replace(batch, target_observed=torch.zeros_like(batch.target_observed)), mixture)]
        )


def test_a_calibrator_comes_back_from_its_file_and_that_of_another_model_does_not(tmp_path: Path) -> None:
    calibrator = fit_calibrator([came_of(*said(300, 1.0, seed=1))])
    path = tmp_path / "calibration.json"
    calibrator.write(path)
    back = Calibrator.read(path, NODES, HORIZON)
    assert torch.equal(back.widen, calibrator.widen) and torch.equal(back.group, calibrator.group)
    for nodes, horizon in ((NODES + 1, HORIZON), (NODES, HORIZON + 1)):
        with pytest.raises(InputError, match="another model"):
            Calibrator.read(path, nodes, horizon)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(InputError, match=r"calibration\.json cannot be used"):
        Calibrator.read(path, NODES, HORIZON)
