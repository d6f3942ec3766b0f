"""Heads: from the state of each sensor to what is said about its next steps.

A head gives a *correction* in z-units; `Standardized` adds it to the anchor mix. The last layer starts at
zero, so an untrained model forecasts the mix itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from headway.types import Batch, Forecast


@dataclass(frozen=True, slots=True, kw_only=True)
class PointParams:
    """Section `point` of params.yaml.

    Attributes:
        hidden_dim: width of the layer between state and forecast.
    """

    hidden_dim: Annotated[int, Ge(1)]


class PointHead(nn.Module):
    """[state ; anchors and their masks at every target step] -> hidden -> one number per step."""

    def __init__(self, params: PointParams, d: int, horizon: int, anchors: int) -> None:
        super().__init__()
        self.state = nn.Linear(d, params.hidden_dim)
        self.context = nn.Linear(2 * horizon * anchors, params.hidden_dim, bias=False)
        self.out = nn.Linear(params.hidden_dim, horizon)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, state: Float[Tensor, "batch node d"], batch: Batch) -> Forecast:
        context = torch.cat([batch.anchors, batch.anchors_observed.to(batch.anchors.dtype)], -1)
        context = context.permute(0, 2, 1, 3).flatten(2)  # batch node (horizon 2 anchor)
        hidden = torch.relu(self.state(state) + self.context(context))
        return Forecast(point=self.out(hidden).float().transpose(1, 2))
