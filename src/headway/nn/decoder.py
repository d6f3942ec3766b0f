"""What a head knows of each sensor: what the network has made of its past, and the window as it was read.

    x = W state + V [readings ; lagged readings ; anchors ; which of them were observed]
    x = x + keep * B relu(A x)                   `layers` times; in training keep is 0 or 1 / (1 - dropout)

A state of a few dozen numbers cannot hold a day's and a week's readings at every target step. Beside them it does
not have to.

Source: the encoder of STID (Shao et al. 2022), a residual network on the readings of one sensor, here on those of a
day and a week ago too, and on the state of ST-Mamba, STMGT or ST-SepNet in place of STID's identities. Whole layers
are dropped at random, as in Huang et al. 2016 ("Deep networks with stochastic depth"), for each sensor of a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Interval
from jaxtyping import Float
from torch import Tensor, nn

from headway.types import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderParams:
    """Keys that every head has in its section of params.yaml.

    Attributes:
        hidden_dim: width of the decoder.
        layers: residual layers; 0 leaves the linear maps of state and window.
        dropout: how often in training a sensor of a window does without a layer.
    """

    hidden_dim: Annotated[int, Ge(1)]
    layers: Annotated[int, Ge(0)]
    dropout: Annotated[float, Interval(ge=0, lt=1)]


class Decoder(nn.Module):
    """From the state of each sensor and the readings of its window to what a head reads.

    Args:
        params: its widths. d: width of the state. readings: numbers of a window and sensor, masks not counted.
    """

    def __init__(self, params: DecoderParams, d: int, readings: int) -> None:
        super().__init__()
        self.state = nn.Linear(d, params.hidden_dim)
        self.window = nn.Linear(2 * readings, params.hidden_dim, bias=False)
        self.layers = nn.ModuleList(ResidualLayer(params) for _ in range(params.layers))

    def forward(
        self, state: Float[Tensor, "batch node d"], batch: Batch
    ) -> Float[Tensor, "batch node hidden"]:
        x = self.state(state) + self.window(_readings(batch))
        for layer in self.layers:
            x = layer(x)
        return x


class ResidualLayer(nn.Module):
    """x + keep * B relu(A x)."""

    def __init__(self, params: DecoderParams) -> None:
        super().__init__()
        self.widen = nn.Linear(params.hidden_dim, params.hidden_dim)
        self.narrow = nn.Linear(params.hidden_dim, params.hidden_dim)
        self.dropout = params.dropout

    def forward(self, x: Float[Tensor, "batch node hidden"]) -> Float[Tensor, "batch node hidden"]:
        more = self.narrow(torch.relu(self.widen(x)))
        if self.training and self.dropout:
            more = more * F.dropout(torch.ones_like(more[..., :1]), self.dropout)
        return x + more


def _readings(batch: Batch) -> Float[Tensor, "batch node reading"]:
    """All that was read of each sensor, and 1 where it was."""
    pairs = [
        (batch.history, batch.history_observed),
        (batch.past, batch.past_observed),
        (batch.anchors, batch.anchors_observed),
    ]
    read = [torch.cat([values, observed.to(values.dtype)], -1) for values, observed in pairs]
    return torch.cat([part.transpose(1, 2).flatten(2) for part in read], -1)
