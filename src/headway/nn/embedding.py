"""Readings, masks, clock and identity into the residual stream.

Enters: a Batch in z-units. Leaves: h [batch, node, time, d]. Inside a model node precedes time, so that the
history of one sensor is contiguous. Who the sensor is and what time it is are the cheapest known gains
(Shao et al. 2022, STID); each is a switch. Theirs is a vector for each slot of the day; here it is a few waves of it,
so that what a few days have shown of one slot holds for the slots beside it.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headway.types import Batch

NODE_DIM = 32
DAYS = 7
WAVES = 8  # of a day: the shortest is three hours long
STD = 0.02  # of what the clock says at the start


class WindowEmbedding(nn.Module):
    """Sum of linear maps: of readings and their masks, of the time of day, the day of week, the sensor."""

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
        self.time_of_day = DayWaves(slots_per_day, d) if time_of_day else None
        self.day = nn.Embedding(DAYS, d) if day_of_week else None
        self.node = nn.Embedding(nodes, NODE_DIM) if node else None
        self.node_map = nn.Linear(NODE_DIM, d, bias=False) if node else None
        if self.day is not None:
            nn.init.normal_(self.day.weight, std=STD)

    def forward(self, batch: Batch) -> Float[Tensor, "batch node time d"]:
        nodes = batch.history.shape[2]
        covariates = batch.covariates.unsqueeze(2).expand(-1, -1, nodes, -1)
        features = [batch.history, batch.history_observed, batch.past, batch.past_observed, covariates]
        readings = torch.cat([feature.float() for feature in features], -1).transpose(1, 2)
        h = self.readings(readings).float()  # the residual stream is float32 under autocast too
        slot, day = batch.history_calendar.unbind(-1)
        if self.time_of_day is not None:
            h.add_(self.time_of_day(slot).unsqueeze(1))
        if self.day is not None:
            h.add_(self.day(day).unsqueeze(1))
        if self.node is not None and self.node_map is not None:
            h.add_(self.node_map(self.node.weight).unsqueeze(1))
        return h


class DayWaves(nn.Module):
    """W [sin w a ; cos w a] for w = 1 ... 8 waves of a day, where a = 2 pi slot / slots of a day."""

    def __init__(self, slots_per_day: int, d: int) -> None:
        super().__init__()
        self.slots_per_day = slots_per_day
        self.map = nn.Linear(2 * WAVES, d, bias=False)
        nn.init.normal_(self.map.weight, std=STD)

    def forward(self, slot: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time d"]:
        waves = torch.arange(1, WAVES + 1, device=slot.device)
        # whole turns are taken out of the angle in integers, where nothing is rounded
        angle = (slot.unsqueeze(-1) * waves % self.slots_per_day).float() * (2 * math.pi / self.slots_per_day)
        return self.map(torch.cat([angle.sin(), angle.cos()], -1))
