"""The losses of GT-SSL against oracles: scipy's Wasserstein distance, a search round the circle, pairs by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from headway.objectives.gt_ssl import (
    best_constant,
    circle_distance,
    growth_losses,
    line_distance,
    order_losses,
    violation,
    wrong_side,
)

BINS = 7


def histograms(rows: int, seed: int, bins: int = BINS) -> Tensor:
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.dirichlet(np.full(bins, 0.4), rows))


def test_the_distance_on_a_line_is_that_of_scipy() -> None:
    said, real, step = histograms(20, 0), histograms(20, 1), 0.3
    at = step * np.arange(BINS)
    wanted = [wasserstein_distance(at, at, p, q) for p, q in zip(said.numpy(), real.numpy(), strict=True)]
    assert line_distance(said, real, step).numpy() == pytest.approx(np.array(wanted))


@pytest.mark.parametrize("bins", [6, 7])
def test_the_distance_round_a_circle_is_the_shortest_of_all_places_to_cut_it(bins: int) -> None:
    said, real, step = histograms(30, 2, bins), histograms(30, 3, bins), 0.5
    ahead = (said - real).cumsum(1)
    flows = torch.stack([(ahead - ahead[:, [cut]]).abs().sum(1) for cut in range(bins)]) * step
    torch.testing.assert_close(circle_distance(said, real, step), flows.amin(0))


def test_the_distance_round_a_circle_is_the_cheapest_transport() -> None:
    from scipy.optimize import linprog

    bins, step = 5, 1.0
    apart = np.abs(np.subtract.outer(np.arange(bins), np.arange(bins)))
    cost = step * np.minimum(apart, bins - apart)
    said, real = histograms(4, 4, bins), histograms(4, 5, bins)
    for p, q in zip(said.numpy(), real.numpy(), strict=True):
        rows, columns = np.kron(np.eye(bins), np.ones(bins)), np.kron(np.ones(bins), np.eye(bins))
        plan = linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([p, q]))
        ours = circle_distance(torch.from_numpy(p[None]), torch.from_numpy(q[None]), step).item()
        assert ours == pytest.approx(plan.fun, abs=1e-9)


def test_the_last_bin_is_next_to_the_first_on_a_circle_only() -> None:
    first, last = torch.eye(8)[[0]], torch.eye(8)[[7]]
    assert circle_distance(first, last, 1.0).item() == 1 and line_distance(first, last, 1.0).item() == 7


def test_order_losses_of_pairs_by_hand() -> None:
    h = torch.tensor([[3.0, 3], [1, 2], [0, 5]])
    assert violation(h[[0]], h[[1]]).item() == 0 and violation(h[[0]], h[[2]]).item() == 2
    pairs, related = torch.tensor([[0, 0, 1, 0], [1, 2, 2, 1]]), torch.tensor([True, True, False, False])
    for_related, for_unrelated = order_losses(h, pairs, related, 1.0)
    assert for_related.item() == 2, "the second ancestor is stuck out of by 2 in one of two channels"
    assert for_unrelated.item() == 1, "the first unrelated pair is far enough, the second not at all"
    assert wrong_side(h, pairs, related, 1.0) == (1, 1)


def test_embeddings_that_fall_together_are_wrong_on_every_unrelated_pair() -> None:
    pairs, related = torch.tensor([[0, 1], [1, 2]]), torch.tensor([True, False])
    assert wrong_side(torch.ones(3, 4), pairs, related, 1.0) == (0, 1)


@pytest.mark.parametrize("planar", [True, False])
def test_a_perfect_forecast_of_growth_costs_nothing_and_a_gradient_leads_there(planar: bool) -> None:
    real = torch.cat([histograms(5, 6), histograms(5, 7)], 1).float() + 1e-4
    real = torch.cat([half / half.sum(1, keepdim=True) for half in real.chunk(2, 1)], 1)
    assert growth_losses(real.log(), real, 3.0, planar=planar).max() < 1e-5
    logits = torch.zeros_like(real, requires_grad=True)
    loss = growth_losses(logits, real, 3.0, planar=planar).mean()
    loss.backward()
    assert logits.grad is not None
    better = growth_losses(logits - 0.1 * logits.grad, real, 3.0, planar=planar).mean()
    assert better < loss


@pytest.mark.parametrize("planar", [True, False])
def test_no_row_of_the_data_is_a_better_constant_than_the_best_one(planar: bool) -> None:
    real = torch.cat([histograms(40, 8), histograms(40, 9)], 1).float()
    best = best_constant(real, 2.0, planar=planar)
    for row in [*real[:10], real.mean(0)]:
        logits = (row.clamp(min=1e-6).log()).expand(len(real), -1)
        assert best <= growth_losses(logits, real, 2.0, planar=planar).mean() + 1e-4
    assert 0 < best < math.inf
