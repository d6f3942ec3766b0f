"""A mixture of Gaussians as a forecast: density, distribution, quantiles and the exact CRPS.

    p(y) = sum_k w_k N(y; m_k, s_k)                            F(y) = sum_k w_k Phi((y - m_k) / s_k)
    CRPS = sum_k w_k A(y - m_k, s_k^2) - 1/2 sum_kl w_k w_l A(m_k - m_l, s_k^2 + s_l^2)
           with A(d, v) = E|N(d, v)| = d (2 Phi(d / sqrt v) - 1) + 2 sqrt(v) phi(d / sqrt v)

The CRPS is that of the mixture, not of a Gaussian of its moments (brief B's is, and is another number); the
quantiles invert F. Source: Grimit, Gneiting, Berrocal, Johnson 2006, "The continuous ranked probability score for
circular variables", eq. 5; evaluation.md, Distributions.

Glossary: component k, weight w (log_weights are normalized), mean m, deviation s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor
from torch.special import ndtr, ndtri

HALVINGS, NEWTON_STEPS = 16, 2  # towards a quantile: as near as 28 halvings, which is the grain of float32
SMALLEST_DENSITY = 1e-30  # between far components it underflows, and F is flat


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Gaussian components of every batch, horizon step and node.

    Attributes:
        log_weights: normalized: their exponentials sum to 1 over components.
        means, deviations: in the units of the batch; deviations are positive.
    """

    log_weights: Float[Tensor, "batch horizon node component"]
    means: Float[Tensor, "batch horizon node component"]
    deviations: Float[Tensor, "batch horizon node component"]

    @property
    def point(self) -> Float[Tensor, "batch horizon node"]:
        """The median: of all single numbers, the one of least expected absolute error."""
        return self.quantile(0.5)

    def shifted(self, by: Float[Tensor, "..."]) -> Mixture:
        """The forecast of y + by, where `by` broadcasts against batch, horizon and node."""
        return replace(self, means=self.means + by.unsqueeze(-1))

    def scaled(self, by: Float[Tensor, "..."]) -> Mixture:
        """The forecast of y * by, where `by` is positive and broadcasts against batch, horizon and node."""
        factor = by.unsqueeze(-1)
        return replace(self, means=self.means * factor, deviations=self.deviations * factor)

    def double(self) -> Mixture:
        """In float64, for sums that are reported."""
        return Mixture(
            log_weights=self.log_weights.double(),
            means=self.means.double(),
            deviations=self.deviations.double(),
        )

    def mean(self) -> Float[Tensor, "batch horizon node"]:
        """The expectation."""
        return (self.log_weights.exp() * self.means).sum(-1)

    def log_density(self, y: Float[Tensor, "batch horizon node"]) -> Float[Tensor, "batch horizon node"]:
        """log p(y), in nats per unit of y."""
        return self._log_densities(y).logsumexp(-1)

    def shares(self, y: Float[Tensor, "batch horizon node"]) -> Float[Tensor, "batch horizon node component"]:
        """How likely y came from each component: w_k N(y; m_k, s_k) / p(y)."""
        return self._log_densities(y).softmax(-1)

    def _log_densities(self, y: Tensor) -> Float[Tensor, "batch horizon node component"]:
        """log of w_k N(y; m_k, s_k)."""
        z = (y.unsqueeze(-1) - self.means) / self.deviations
        log_normal = -0.5 * z.square() - self.deviations.log() - 0.5 * math.log(2 * math.pi)
        return self.log_weights + log_normal

    def distribution(self, y: Float[Tensor, "batch horizon node"]) -> Float[Tensor, "batch horizon node"]:
        """F(y): the probability of at most y."""
        return (self.log_weights.exp() * ndtr((y.unsqueeze(-1) - self.means) / self.deviations)).sum(-1)

    @torch.no_grad()
    def quantile(self, level: float) -> Float[Tensor, "batch horizon node"]:
        """The y with F(y) = level, 0 < level < 1; it lies between those of the components.

        Bisection brings it within less than a component's width, where F is nearly straight and Newton's steps
        finish. Each number takes the same steps whatever stands beside it, to the same bits.
        """
        said = self.log_weights.exp(), self.means, self.deviations
        weights, means, deviations = (part.movedim(-1, 0).contiguous() for part in said)
        parts = means + deviations * ndtri(torch.tensor(level, dtype=torch.float64)).item()
        low, high = parts.amin(0), parts.amax(0)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            below = _in_turn(weights * ndtr((middle - means) / deviations)) < level
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        found, heights = (low + high) / 2, weights / deviations / math.sqrt(2 * math.pi)
        for _ in range(NEWTON_STEPS):
            z = (found - means) / deviations
            density = _in_turn(heights * torch.exp(-0.5 * z.square())).clamp(min=SMALLEST_DENSITY)
            over = _in_turn(weights * ndtr(z)) - level
            found = torch.minimum(torch.maximum(found - over / density, low), high)
        return found

    def quantiles(self, levels: Sequence[float]) -> Float[Tensor, "batch horizon node level"]:
        """The quantile of each level."""
        return torch.stack([self.quantile(level) for level in levels], -1)

    def crps(self, y: Float[Tensor, "batch horizon node"]) -> Float[Tensor, "batch horizon node"]:
        """The continuous ranked probability score of y, exactly, in the units of y; lower is better."""
        weights = self.log_weights.exp()
        distance = (weights * _mean_distance(y.unsqueeze(-1) - self.means, self.deviations.square())).sum(-1)
        spread = torch.zeros_like(distance)
        for k in range(weights.shape[-1]):  # pairs in rows: K x K of them at once would be the largest array
            row = _mean_distance(
                self.means[..., k, None] - self.means,
                self.deviations[..., k, None].square() + self.deviations.square(),
            )
            spread = spread + weights[..., k] * (weights * row).sum(-1)
        return distance - spread / 2


def _in_turn(parts: Float[Tensor, "component batch horizon node"]) -> Float[Tensor, "batch horizon node"]:
    """Sum over components, one after another: torch's sum groups them otherwise in the last columns of an array,
    so that the bits of a number would depend on how many stand before and behind it."""
    return reduce(torch.add, parts.unbind(0))


def _mean_distance(difference: Tensor, variance: Tensor) -> Tensor:
    """A(d, v): the mean of |x| where x is normal with mean d and variance v."""
    deviation = variance.sqrt()
    z = difference / deviation
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    return difference * (2 * ndtr(z) - 1) + 2 * deviation * density
