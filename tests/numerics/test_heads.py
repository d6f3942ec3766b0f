"""Heads and the loss of a mixture."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from headway.mixture import Mixture
from headway.nn.heads import MixtureHead, MixtureParams
from headway.objectives.forecast_loss import mixture_loss
from headway.types import Batch
from tiny_model import HISTORY, HORIZON, tiny_batch

PARAMS = MixtureParams(
    hidden_dim=16,
    layers=2,
    dropout=0.0,
    components=3,
    smallest=0.05,
    largest=10.0,
    mean_square=0.4,
    spread=0.0,
    entropy=0.0,
)
PLAIN = partial(mixture_loss, mean_square=0.0, spread=0.0, entropy=0.0)
WIDTH = 8
READINGS = HISTORY * (1 + 3) + HORIZON * 4  # of a sensor's window


def head(params: MixtureParams = PARAMS) -> MixtureHead:
    torch.manual_seed(0)
    return MixtureHead(params, WIDTH, HORIZON, READINGS)


def said(batch: Batch, module: MixtureHead | None = None) -> Mixture:
    state = torch.randn(*batch.target.shape[::2], WIDTH, generator=torch.Generator().manual_seed(1))
    return (module or head())(state, batch)


@pytest.mark.parametrize("components", [1, 2, 5])
def test_an_untrained_mixture_lies_evenly_around_the_anchor_mix(components: int) -> None:
    mixture = said(tiny_batch(), head(replace(PARAMS, components=components)))
    torch.testing.assert_close(mixture.point, torch.zeros_like(mixture.point), rtol=0, atol=1e-5)
    assert components == 1 or mixture.means.unique().numel() == components


def test_weights_sum_to_one_and_deviations_stay_within_their_bounds() -> None:
    module = head()
    with torch.no_grad():
        module.out.weight.normal_(0, 30.0)
    mixture = said(tiny_batch(), module)
    torch.testing.assert_close(mixture.log_weights.exp().sum(-1), torch.ones_like(mixture.point))
    assert mixture.deviations.min() >= PARAMS.smallest
    assert mixture.deviations.max() <= PARAMS.smallest + PARAMS.largest
    assert mixture.log_density(tiny_batch().target).isfinite().all()


def test_the_loss_is_the_sum_over_observed_targets_of_its_terms() -> None:
    batch = tiny_batch()
    z = replace(batch, target=(batch.target - 50) / 8 * batch.target_observed)
    mixture, seen = said(z), z.target_observed
    loss = mixture_loss(mixture, z, mean_square=0.4, spread=0.1, entropy=0.01)
    weights = mixture.log_weights.exp()
    terms = -mixture.log_density(z.target) + 0.4 * (mixture.mean() - z.target) ** 2
    terms = terms - 0.1 * mixture.means.std(-1, correction=0) - 0.01 * -(weights * weights.log()).sum(-1)
    torch.testing.assert_close(loss, terms[seen].sum())


def test_a_batch_without_any_target_adds_nothing_and_pulls_at_nothing() -> None:
    batch = tiny_batch()
    empty = replace(batch, target_observed=torch.zeros_like(batch.target_observed), target=0 * batch.target)
    module = head()
    loss = PLAIN(said(empty, module), empty)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and p.grad.eq(0).all() for p in module.parameters())


def test_a_mixture_fitted_to_a_law_of_two_humps_recovers_it() -> None:
    random = torch.Generator().manual_seed(0)
    windows = 400
    batch = tiny_batch(batch=windows, missing=0.0)
    shape = batch.target.shape
    high = torch.rand(shape, generator=random) < 0.25
    y = torch.where(high, 2.0, -1.0) + torch.where(high, 0.2, 0.5) * torch.randn(shape, generator=random)
    batch = replace(batch, target=y)
    module = MixtureHead(replace(PARAMS, components=2), WIDTH, HORIZON, READINGS)
    optimizer = torch.optim.Adam([module.out.bias], lr=0.05)
    state = torch.zeros(windows, shape[2], WIDTH)
    for _ in range(200):
        optimizer.zero_grad()
        (PLAIN(module(state, batch), batch) / y.numel()).backward()
        optimizer.step()
    found = module(state, batch)
    order = found.means[0, 0, 0].argsort()
    assert found.means[0, 0, 0][order].tolist() == pytest.approx([-1, 2], abs=0.1)
    assert found.deviations[0, 0, 0][order].tolist() == pytest.approx([0.5, 0.2], abs=0.05)
    assert found.log_weights[0, 0, 0].exp()[order].tolist() == pytest.approx([0.75, 0.25], abs=0.03)


def test_a_reading_far_off_leaves_gradients_finite() -> None:
    batch = tiny_batch(missing=0.0)
    far = replace(batch, target=torch.full_like(batch.target, 1e4))
    module: nn.Module = head()
    PLAIN(said(far, head()), far)
    loss = PLAIN(said(far, module), far)  # pyright: ignore[reportArgumentType]
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
