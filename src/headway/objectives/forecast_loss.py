"""Losses of a forecast: sums over observed targets, never means, so that a group divides once."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from headway.types import Batch, Forecast


def absolute_error(forecast: Forecast, batch: Batch) -> Float[Tensor, ""]:
    """Sum over observed targets of |forecast - target|, in the units of both."""
    shape, expected = forecast.point.shape, batch.target.shape
    assert shape == expected, (
        f"forecast {tuple(shape)} against target {tuple(expected)}: broadcasting hides it"
    )
    return torch.where(batch.target_observed, (forecast.point - batch.target).abs(), 0.0).sum()
