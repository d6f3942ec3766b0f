"""Mixtures against Monte Carlo, finite differences, closed forms and scoringrules."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import scoringrules
import torch
from scipy import integrate, stats
from torch import Tensor

from headway.mixture import Mixture

SHAPE = (2, 3, 4)


def random_mixture(components: int = 5, seed: int = 0) -> Mixture:
    random = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(*SHAPE, components, generator=random, dtype=torch.float64)  # noqa: E731
    return Mixture(log_weights=draw().log_softmax(-1), means=50 + 3 * draw(), deviations=0.2 + draw().abs())


def readings(seed: int = 1) -> Tensor:
    return 50 + 4 * torch.randn(*SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("sensors", [1, 3, 5, 16, 207])
def test_no_bit_depends_on_the_windows_beside_it(sensors: int) -> None:
    random = torch.Generator().manual_seed(0)
    log_weights, means, deviations = torch.randn(3, 7, 12, sensors, 5, generator=random)
    whole = (log_weights.log_softmax(-1), 50 + 30 * means, 0.2 + deviations.abs())
    y = 50 + 30 * torch.randn(7, 12, sensors, generator=random)

    def said(row: slice) -> list[Tensor]:
        parts = [part[row] for part in whole]
        one = Mixture(log_weights=parts[0], means=parts[1], deviations=parts[2])
        return [one.quantiles((0.025, 0.5, 0.9)), one.crps(y[row]), one.log_density(y[row])]

    for row in range(7):
        for alone, beside in zip(said(slice(row, row + 1)), said(slice(None)), strict=True):
            assert torch.equal(alone[0], beside[row])


@pytest.mark.parametrize("row", range(6))
def test_the_crps_is_the_integral_of_the_squared_distance_of_distributions(row: int) -> None:
    mixture, y = random_mixture(), readings()
    parts = (mixture.log_weights.exp(), mixture.means, mixture.deviations)
    weights, means, deviations = (part.flatten(0, 2)[row].numpy() for part in parts)
    at = y.flatten()[row].item()

    def squared(x: float, side: float) -> float:
        return (float(weights @ stats.norm.cdf(x, means, deviations)) - side) ** 2

    low, high = min(*means, at) - 20, max(*means, at) + 20
    exact = integrate.quad(squared, low, at, args=(0.0,), limit=200)[0]
    exact += integrate.quad(squared, at, high, args=(1.0,), limit=200)[0]
    assert mixture.crps(y).flatten()[row].item() == pytest.approx(exact, rel=1e-6)


def test_the_crps_is_that_of_scoringrules() -> None:
    mixture, y = random_mixture(), readings()
    expected = scoringrules.crps_mixnorm(
        y.numpy(), mixture.means.numpy(), mixture.deviations.numpy(), mixture.log_weights.exp().numpy()
    )
    torch.testing.assert_close(mixture.crps(y), torch.from_numpy(expected))


def test_the_crps_is_that_of_draws_and_not_of_a_gaussian_with_the_same_moments() -> None:
    mixture, y = random_mixture(), readings()
    random = torch.Generator().manual_seed(2)
    chosen = torch.multinomial(mixture.log_weights.exp().flatten(0, 2), 200_000, True, generator=random)
    noise = torch.randn(chosen.shape, generator=random, dtype=torch.float64)
    means, deviations = mixture.means.flatten(0, 2), mixture.deviations.flatten(0, 2)
    draws = means.gather(1, chosen) + deviations.gather(1, chosen) * noise
    half = draws.shape[1] // 2
    distance = (draws - y.flatten()[:, None]).abs().mean(1)
    sampled = (distance - (draws[:, :half] - draws[:, half:]).abs().mean(1) / 2).view(SHAPE)
    torch.testing.assert_close(mixture.crps(y), sampled, rtol=0.02, atol=0.02)
    spread = draws.var(1).sqrt().view(SHAPE)
    z = (y - mixture.mean()) / spread
    normal = torch.distributions.Normal(0.0, 1.0)
    moments = spread * (z * (2 * normal.cdf(z) - 1) + 2 * normal.log_prob(z).exp() - 1 / math.sqrt(math.pi))
    assert (moments - mixture.crps(y)).abs().max() > 0.05


def test_one_component_is_a_gaussian() -> None:
    mixture, y = random_mixture(components=1), readings()
    mean, deviation = mixture.means[..., 0], mixture.deviations[..., 0]
    normal = torch.distributions.Normal(mean, deviation)
    torch.testing.assert_close(mixture.log_density(y), normal.log_prob(y))
    torch.testing.assert_close(mixture.distribution(y), normal.cdf(y))
    torch.testing.assert_close(mixture.point, mean)
    torch.testing.assert_close(mixture.quantile(0.9), normal.icdf(torch.full_like(mean, 0.9)))
    z = (y - mean) / deviation
    unit = torch.distributions.Normal(0.0, 1.0)
    closed = deviation * (z * (2 * unit.cdf(z) - 1) + 2 * unit.log_prob(z).exp() - 1 / math.sqrt(math.pi))
    torch.testing.assert_close(mixture.crps(y), closed)


def test_a_component_s_share_of_a_reading_is_its_density_s() -> None:
    mixture, y = random_mixture(), readings()
    normal = torch.distributions.Normal(mixture.means, mixture.deviations)
    densities = mixture.log_weights.exp() * normal.log_prob(y.unsqueeze(-1)).exp()
    torch.testing.assert_close(mixture.shares(y), densities / densities.sum(-1, keepdim=True))


@pytest.mark.parametrize("level", [0.025, 0.1, 0.5, 0.75, 0.975])
def test_quantiles_invert_the_distribution(level: float) -> None:
    mixture = random_mixture()
    torch.testing.assert_close(
        mixture.distribution(mixture.quantile(level)), torch.full(SHAPE, level, dtype=torch.float64)
    )


def test_quantiles_hold_in_float32_where_components_lie_far_apart() -> None:
    far = Mixture(
        log_weights=torch.tensor([0.5, 0.5]).log().expand(*SHAPE, 2),
        means=torch.tensor([0.0, 1000.0]).expand(*SHAPE, 2),
        deviations=torch.tensor([0.05, 0.05]).expand(*SHAPE, 2),
    )
    torch.testing.assert_close(far.quantile(0.25), torch.zeros(SHAPE), rtol=0, atol=1e-3)
    torch.testing.assert_close(far.quantile(0.75), torch.full(SHAPE, 1000.0), rtol=0, atol=1e-3)


def test_quantiles_rise_with_their_level() -> None:
    found = random_mixture().quantiles((0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975))
    assert found.shape == (*SHAPE, 7) and (found.diff(dim=-1) > 0).all()


def test_the_density_integrates_to_the_distribution() -> None:
    mixture = random_mixture()
    grid = torch.linspace(20, 80, 20_001, dtype=torch.float64)
    one = Mixture(
        log_weights=mixture.log_weights[:1, :1, :1].expand(1, 1, len(grid), -1),
        means=mixture.means[:1, :1, :1].expand(1, 1, len(grid), -1),
        deviations=mixture.deviations[:1, :1, :1].expand(1, 1, len(grid), -1),
    )
    density, reached = one.log_density(grid.view(1, 1, -1)).exp(), one.distribution(grid.view(1, 1, -1))
    area = torch.cumulative_trapezoid(density[0, 0], grid)
    torch.testing.assert_close(area, reached[0, 0, 1:], rtol=0, atol=1e-4)


def test_gradients_of_density_and_crps_equal_finite_differences() -> None:
    parts = [
        part.clone().requires_grad_()
        for part in (random_mixture().log_weights, random_mixture().means, random_mixture().deviations)
    ]
    y = readings()

    def score(name: str, log_weights: Tensor, means: Tensor, deviations: Tensor) -> Tensor:
        mixture = Mixture(log_weights=log_weights.log_softmax(-1), means=means, deviations=deviations)
        return getattr(mixture, name)(y)

    for name in ("log_density", "crps"):
        assert torch.autograd.gradcheck(lambda *p, n=name: score(n, *p), tuple(parts))


def test_a_change_of_units_changes_every_number_as_the_unit_does() -> None:
    mixture, y = random_mixture(), readings()
    miles = mixture.scaled(torch.tensor(1 / 1.609344, dtype=torch.float64))
    z = y / 1.609344
    torch.testing.assert_close(miles.crps(z), mixture.crps(y) / 1.609344)
    torch.testing.assert_close(miles.log_density(z), mixture.log_density(y) + math.log(1.609344))
    torch.testing.assert_close(miles.quantile(0.1), mixture.quantile(0.1) / 1.609344)
    above = mixture.shifted(torch.full(SHAPE, 7.0, dtype=torch.float64))
    torch.testing.assert_close(above.point, mixture.point + 7)
    torch.testing.assert_close(above.crps(y + 7), mixture.crps(y))


def test_the_order_of_components_does_not_matter() -> None:
    mixture, y = random_mixture(), readings()
    turned = replace(
        mixture,
        log_weights=mixture.log_weights.flip(-1),
        means=mixture.means.flip(-1),
        deviations=mixture.deviations.flip(-1),
    )
    torch.testing.assert_close(turned.crps(y), mixture.crps(y))
    torch.testing.assert_close(turned.point, mixture.point)
