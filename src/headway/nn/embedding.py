"""Readings, masks, clock and identity into the residual stream.

Enters: a Batch in z-units. Leaves: h [batch, node, time, d]. Inside a model node precedes time, so that the
history of one sensor is contiguous. Who the sensor is and what time it is are the cheapest known gains
(Shao et al. 2022, STID); each is a switch.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headway.types import Batch

NODE_DIM = 32
DAYS = 7


class WindowEmbedding(nn.Module):
    """Sum of linear maps: of readings and their masks, of the slot of day, the day of week, the sensor."""

    def __init__(
        self,
        d: int,
        *,
        nodes: int,
        channels: int,
        beside: int,
        covariates: int,
        slots_per_day: int,
        node: bool,
        time_of_day: bool,
        day_of_week: bool,
    ) -> None:
        super().__init__()
        self.readings = nn.Linear(2 * channels + 2 * beside + covariates, d)
        self.slot = nn.Embedding(slots_per_day, d) if time_of_day else None
        self.day = nn.Embedding(DAYS, d) if day_of_week else None
        self.node = nn.Embedding(nodes, NODE_DIM) if node else None
        self.node_map = nn.Linear(NODE_DIM, d, bias=False) if node else None
        for table in (self.slot, self.day):
            if table is not None:
                nn.init.normal_(table.weight, std=0.02)

    def forward(self, batch: Batch) -> Float[Tensor, "batch node time d"]:
        nodes = batch.history.shape[2]
        covariates = batch.covariates.unsqueeze(2).expand(-1, -1, nodes, -1)
        features = [batch.history, batch.history_observed, batch.past, batch.past_observed, covariates]
        readings = torch.cat([feature.float() for feature in features], -1).transpose(1, 2)
        h = self.readings(readings).float()  # the residual stream is float32 under autocast too
        slot, day = batch.history_calendar.unbind(-1)
        if self.slot is not None:
            h.add_(self.slot(slot).unsqueeze(1))
        if self.day is not None:
            h.add_(self.day(day).unsqueeze(1))
        if self.node is not None and self.node_map is not None:
            h.add_(self.node_map(self.node.weight).unsqueeze(1))
        return h
