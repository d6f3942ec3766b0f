"""Losses of a forecast: sums over observed targets, never means, so that a group divides once."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from headway.mixture import Mixture
from headway.types import Batch, Forecast


def absolute_error(forecast: Forecast, batch: Batch) -> Float[Tensor, ""]:
    """Sum over observed targets of |forecast - target|, in the units of both."""
    point = forecast.point
    _check_shape(point, batch)
    return torch.where(batch.target_observed, (point - batch.target).abs(), 0.0).sum()


def mixture_loss(
    forecast: Forecast, batch: Batch, *, mean_square: float, spread: float, entropy: float
) -> Float[Tensor, ""]:
    """Sum over observed targets of what a mixture is trained by, in z-units:

        -log p(y) + mean_square (mean - y)^2 - spread std_k(m_k) - entropy H(w)

    The last two terms keep components from falling together, where that is seen (brief B; models.md 5).
    """
    assert isinstance(forecast, Mixture)
    mean = forecast.mean()
    _check_shape(mean, batch)
    # an unobserved target is 0, so every term is finite there, and where() keeps its gradient out
    loss = mean_square * (mean - batch.target).square() - forecast.log_density(batch.target)
    if spread:
        loss = loss - spread * forecast.means.std(-1, correction=0)
    if entropy:
        loss = loss + entropy * (forecast.log_weights.exp() * forecast.log_weights).sum(-1)
    return torch.where(batch.target_observed, loss, 0.0).sum()


def _check_shape(said: Tensor, batch: Batch) -> None:
    assert said.shape == batch.target.shape, (
        f"forecast {tuple(said.shape)} against target {tuple(batch.target.shape)}: broadcasting hides it"
    )
