"""Dropout with one mask for all steps of a window (Gal & Ghahramani 2016, "variational dropout").

Besides regularizing a sequence as a whole it draws a twelfth of the random numbers, which on a CPU are drawn one
by one and cost more than the layer they are for.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class StepDropout(nn.Module):
    """Drops entries with probability `p`, the same ones at every step of dimension 2 (time)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Float[Tensor, "batch node time ..."]) -> Float[Tensor, "batch node time ..."]:
        if not self.training or not self.p:
            return x
        return x * F.dropout(torch.ones_like(x[:, :, :1]), self.p)
