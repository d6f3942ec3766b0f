"""One piece of a group of windows, forward and backward: what training repeats, and what the planner traces."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from headway.models.standardized import Standardized
from headway.training.precision import Precision
from headway.types import Batch


def backward_piece(
    model: Standardized, batch: Batch, observed: int, precision: Precision, scaler: torch.amp.GradScaler
) -> Float[Tensor, ""]:
    """Add the gradient of the summed loss of these windows, divided by the targets of the whole group.

    Args: batch: in physical units. observed: observed targets of the group the piece is of.
    Returns: the summed loss, in z-units, without a graph.
    """
    batch = model.standardize(batch)
    with precision.autocast():
        forecast = model.forecast_standard(batch)
    summed = model.summed_loss(forecast, batch)
    scaler.scale(summed / observed).backward()
    return summed.detach()
