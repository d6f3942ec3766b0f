"""Scores of distributions against their definitions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from headway.evaluation.distribution import BINS, DistributionSums
from headway.evaluation.distribution_tables import write_distribution
from headway.mixture import Mixture
from headway.models.calibration import INTERVALS, LEVELS, Calibrator, Intervals
from headway.models.naive_distributions import Ensemble

WINDOWS, HORIZON, NODES = 600, 2, 3


def honest(scale: float = 1.0) -> tuple[Mixture, torch.Tensor, torch.Tensor]:
    """Readings drawn from a two-humped law, and a forecast of just that law (or one `scale` times as wide)."""
    random = torch.Generator().manual_seed(0)
    shape = (WINDOWS, HORIZON, NODES)
    hump = torch.rand(shape, generator=random) < 0.3
    y = torch.where(hump, 20.0, 60.0) + 3 * torch.randn(shape, generator=random)
    mixture = Mixture(
        log_weights=torch.tensor([0.3, 0.7]).log().expand(*shape, 2),
        means=torch.tensor([20.0, 60.0]).expand(*shape, 2),
        deviations=torch.full((*shape, 2), 3.0 * scale),
    )
    return mixture, y, torch.rand(shape, generator=random) < 0.9


def sums_of(scale: float = 1.0, parts: int = 1) -> DistributionSums:
    mixture, y, observed = honest(scale)
    sums = DistributionSums.empty(HORIZON)
    shift = Calibrator(
        group=torch.zeros(NODES, dtype=torch.int64), widen=torch.full((4, 1, HORIZON), 1.0), readings=1
    )
    hour = np.arange(WINDOWS)[:, None] % 24 + np.zeros((1, HORIZON), np.int64)
    members = torch.linspace(10, 70, 20).expand(WINDOWS, HORIZON, NODES, 20)
    for rows in torch.arange(WINDOWS).chunk(parts):
        part = Mixture(
            log_weights=mixture.log_weights[rows],
            means=mixture.means[rows],
            deviations=mixture.deviations[rows],
        )
        intervals = Intervals.of(part)
        moved = shift.quantiles(intervals)
        said = {"raw": intervals.quantiles(), "calibrated": moved, "recalibrated": moved}
        sums.add(part, said, y[rows], observed[rows], hour[rows.numpy()])
        naive = Ensemble(members=members[rows])
        sums.add_naive({"persistence": naive, "climatology": naive}, y[rows], observed[rows])
    return sums


def scores(tmp_path: Path, sums: DistributionSums) -> dict[str, dict[str, object]]:
    write_distribution(tmp_path, sums, HORIZON, 3600)
    return json.loads((tmp_path / "distribution.json").read_text())


def test_an_honest_forecast_covers_what_it_promises_and_has_a_flat_pit(tmp_path: Path) -> None:
    found = scores(tmp_path, sums_of())["all"]["raw"]["coverage"]  # pyright: ignore[reportIndexIssue]
    assert [found[f"{a:.0%}"] for a in INTERVALS] == pytest.approx(INTERVALS, abs=0.03)
    pit = pd.read_csv(tmp_path / "pit.csv")["density"].to_numpy()
    assert len(pit) == BINS and pit.mean() == pytest.approx(1, abs=1e-4) and np.abs(pit - 1).max() < 0.4
    reliability = pd.read_csv(tmp_path / "reliability.csv")
    assert reliability["raw"].to_numpy() == pytest.approx(np.array(LEVELS), abs=0.03)
    assert np.abs((reliability["calibrated"] - reliability["raw"]).to_numpy()).max() > 0.005


def test_too_wide_a_forecast_covers_too_much_and_has_a_hump_in_its_pit(tmp_path: Path) -> None:
    wide = scores(tmp_path, sums_of(scale=3.0))["all"]
    assert wide["raw"]["coverage"]["50%"] > 0.55  # pyright: ignore[reportIndexIssue]
    assert wide["crps"] > scores(tmp_path, sums_of())["all"]["crps"]  # pyright: ignore[reportOperatorIssue]


def test_scores_are_means_over_observed_targets_of_each_horizon(tmp_path: Path) -> None:
    mixture, y, observed = honest()
    found = scores(tmp_path, sums_of())
    for step in range(HORIZON):
        seen = observed[:, step]
        entry = found[f"{60 * (step + 1)}min"]
        assert entry["count"] == int(seen.sum())
        crps = mixture.double().crps(y.double())[:, step][seen].mean().item()
        assert entry["crps"] == pytest.approx(crps, rel=1e-5)
        nll = -mixture.double().log_density(y.double())[:, step][seen].mean().item()
        assert entry["nll"] == pytest.approx(nll, rel=1e-5)
        quantiles = Intervals.of(mixture).quantiles()[:, step][seen]
        errors = y[:, step][seen].unsqueeze(-1) - quantiles
        levels = torch.tensor(LEVELS)
        pinball = torch.maximum(levels * errors, (levels - 1) * errors).mean().item()
        assert entry["raw"]["pinball"] == pytest.approx(pinball, rel=1e-4)  # pyright: ignore
        width = (quantiles[:, -1] - quantiles[:, 0]).mean().item()
        assert entry["raw"]["width"]["95%"] == pytest.approx(width, rel=1e-4)  # pyright: ignore


def test_scores_do_not_depend_on_the_size_of_a_batch(tmp_path: Path) -> None:
    whole, parts = scores(tmp_path, sums_of()), scores(tmp_path, sums_of(parts=7))
    assert whole == parts


def test_sharpness_is_the_width_by_hour(tmp_path: Path) -> None:
    write_distribution(tmp_path, sums_of(), HORIZON, 3600)
    table = pd.read_csv(tmp_path / "sharpness.csv")
    assert table["hour"].tolist() == list(range(24))
    assert (table["calibrated"] - table["raw"]).to_numpy() == pytest.approx(2, abs=0.01)


def test_without_a_distribution_the_tables_have_columns_and_no_rows(tmp_path: Path) -> None:
    assert write_distribution(tmp_path, None, HORIZON, 3600) is None
    assert json.loads((tmp_path / "distribution.json").read_text()) == {}
    for name, columns in {"crps": 4, "reliability": 5, "pit": 2, "sharpness": 4}.items():
        table = pd.read_csv(tmp_path / f"{name}.csv")
        assert len(table.columns) == columns and table.empty
