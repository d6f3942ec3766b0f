"""STMGT: blocks that read the neighbours and the past side by side, weather, and any head.

    u_t   = clock(slot_t, day_t) + step_t                                  one vector a step      [B, L, d]
    x     = embedding(readings, masks, lagged readings, sensor) + u                               [B, N, L, d]
    for each block:
        s = spatial(x)                                                     sensors at one time (its own norm)
        m = LayerNorm(x + Dropout(SelfAttention(x)))                       times of one sensor
        m = LayerNorm(m + Dropout(W_2 GELU(W_1 m)))
        a = sigmoid(W [s ; m])
        x = LayerNorm(a * s + (1 - a) * m + x)                             `sum`: LayerNorm(s + m + x)
    z     = mean of x over the steps                                                              [B, N, d]
    z     = LayerNorm(z + Dropout(CrossAttention(z ; W_w weather_t + u_t)))
    forecast = head(z, window)                                             a correction, in z-units

    clock(slot, day) = W [sin, cos of 2 pi slot / slots a day ; vector of the day ; vector of the weekend]

All windows, steps and sensors go through one call: nothing loops over time or sensors. Weather is what
`windows.covariates` names, at the history steps, and what `windows.future_covariates` and `windows.holidays` name,
one horizon later: what is observed after the origin is not known there. Where training is too short to tell days
apart both clocks leave them out.

Source: brief B's network (models.md 3b). Its clock knows whole hours, so the steps of an hour look alike to it;
ours knows minutes, and `step_t`, a learned vector, says which reading is the newest. Masks, lagged readings,
the sensor's own vector and the correction of an anchor mix are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Interval
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from headway.data.calendar import SATURDAY
from headway.models.parts import Parts, check_divides
from headway.nn.dropout import StepDropout
from headway.nn.embedding import DAYS, WindowEmbedding
from headway.nn.neighbor_table import NeighborTable
from headway.nn.slices import SpatialBlock
from headway.types import Batch, Forecast

STEP_STD = 0.02  # of the step vectors at the start, as of the other embeddings


@dataclass(frozen=True, slots=True, kw_only=True)
class STMGTParams:
    """Section `stmgt` of params.yaml.

    Attributes:
        layers: blocks.
        heads: of the attention over time and over weather; divides the stream width.
        expand: inner width of the feed-forward layer in stream widths.
        dropout: on the output of each attention and feed-forward layer.
        gate: gated, a learned share of space and time for each number; sum, both as they are.
        weather: read the covariates; without any the model has no such layer.
        clock: smooth, a daily wave and vectors of day and weekend; slots, a vector of each slot of the day and
            each day; none.
        step_embedding: a vector of each history step.
        node_embedding: who the sensor is.
    """

    layers: Annotated[int, Ge(1)]
    heads: Annotated[int, Ge(1)]
    expand: Annotated[int, Ge(1)]
    dropout: Annotated[float, Interval(ge=0, lt=1)]
    gate: Literal["gated", "sum"]
    weather: bool
    clock: Literal["smooth", "slots", "none"]
    step_embedding: bool
    node_embedding: bool


class STMGT(nn.Module):
    """The whole model in z-units.

    Args:
        params: section `stmgt`.
        d: width of the residual stream.
        embedding: Batch -> h, of readings and sensors; made by `headway.models.build`.
        spatial: makes one spatial operator, (h, table) -> h.
        head: (state, batch) -> Forecast.
        table: the sensor graph.
        history: steps read. covariates: columns of weather; 0 leaves the weather attention out.
        slots_per_day: of the calendar. knows_weeks: whether training is long enough for a vector of each day.
    """

    def __init__(
        self,
        params: STMGTParams,
        *,
        d: int,
        embedding: WindowEmbedding,
        spatial: Callable[[], nn.Module],
        head: nn.Module,
        table: NeighborTable,
        history: int,
        covariates: int,
        slots_per_day: int,
        knows_weeks: bool,
    ) -> None:
        super().__init__()
        self.table = table
        self.embedding = embedding
        self.time = TimeEncoding(params, d, history, slots_per_day, knows_weeks)
        self.blocks = nn.ModuleList(Block(params, d, spatial()) for _ in range(params.layers))
        self.weather = Weather(params, d, covariates) if params.weather and covariates else None
        self.head = head
        self.recompute = False  # set by the planner: keep the input of each block only

    def forward(self, batch: Batch) -> Forecast:
        time = self.time(batch.history_calendar)
        readings = replace(batch, covariates=batch.covariates[..., :0])  # weather enters below or not at all
        h = self.embedding(readings) + time.unsqueeze(1)
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():  # draws the same dropout the second time
                h = checkpoint(block, h, self.table, use_reentrant=False)
            else:
                h = block(h, self.table)
        state = h.mean(2)
        if self.weather is not None:
            state = self.weather(state, batch.covariates, time)
        return self.head(state, batch)


def assemble(params: STMGTParams, parts: Parts) -> STMGT:
    """The model with fresh weights.

    Raises: InputError where widths do not fit.
    """
    check_divides("stmgt.heads", params.heads, parts.width, parts.width_key)
    embedding = parts.embedding(
        covariates=0, node=params.node_embedding, time_of_day=False, day_of_week=False
    )
    return STMGT(
        params,
        d=parts.width,
        embedding=embedding,
        spatial=parts.spatial,
        head=parts.head,
        table=parts.table,
        history=parts.meta.history,
        covariates=len(parts.meta.covariates),
        slots_per_day=parts.meta.slots_per_day,
        knows_weeks=parts.meta.knows_weeks(),
    )


class TimeEncoding(nn.Module):
    """One vector per history step: what the clock says, and how far back the step lies."""

    def __init__(
        self, params: STMGTParams, d: int, history: int, slots_per_day: int, knows_weeks: bool
    ) -> None:
        super().__init__()
        self.d, self.slots_per_day = d, slots_per_day
        self.smooth = params.clock == "smooth"
        if self.smooth:
            self.day = nn.Embedding(DAYS, d // 2) if knows_weeks else None
            self.weekend = nn.Embedding(2, d // 4) if knows_weeks else None
            self.clock = nn.Linear(2 + (d // 2 + d // 4 if knows_weeks else 0), d)
        self.slots = SlotClock(d, slots_per_day, knows_weeks) if params.clock == "slots" else None
        self.steps = nn.Parameter(STEP_STD * torch.randn(history, d)) if params.step_embedding else None

    def forward(self, calendar: Int[Tensor, "batch time 2"]) -> Float[Tensor, "batch time d"]:
        slot, day = calendar.unbind(-1)
        vectors = torch.zeros(*slot.shape, self.d, device=slot.device)
        if self.smooth:
            angle = 2 * math.pi * slot.float() / self.slots_per_day
            known = [torch.stack([angle.sin(), angle.cos()], -1)]
            if self.day is not None and self.weekend is not None:
                known += [self.day(day), self.weekend((day >= SATURDAY).long())]
            vectors = vectors + self.clock(torch.cat(known, -1))
        if self.slots is not None:
            vectors = vectors + self.slots(slot, day)
        return vectors if self.steps is None else vectors + self.steps


class SlotClock(nn.Module):
    """A vector of each slot of the day and, where training is long enough to learn them, of each day."""

    def __init__(self, d: int, slots_per_day: int, knows_weeks: bool) -> None:
        super().__init__()
        self.slot = nn.Embedding(slots_per_day, d)
        self.day = nn.Embedding(DAYS, d) if knows_weeks else None
        for table in (self.slot, self.day):
            if table is not None:
                nn.init.normal_(table.weight, std=STEP_STD)

    def forward(
        self, slot: Int[Tensor, "batch time"], day: Int[Tensor, "batch time"]
    ) -> Float[Tensor, "batch time d"]:
        return self.slot(slot) if self.day is None else self.slot(slot) + self.day(day)


class Block(SpatialBlock):
    """Sensors at each time and times of each sensor, read side by side and mixed."""

    def __init__(self, params: STMGTParams, d: int, spatial: nn.Module) -> None:
        super().__init__(spatial)
        self.temporal = Temporal(params, d)
        self.gate = nn.Linear(2 * d, d) if params.gate == "gated" else None
        self.norm = nn.LayerNorm(d)

    def forward(
        self, x: Float[Tensor, "batch node time d"], table: NeighborTable
    ) -> Float[Tensor, "batch node time d"]:
        space, time = self.over_sensors(x, table), self.temporal(x)
        if self.gate is None:
            return self.norm(space + time + x)
        share = torch.sigmoid(self.gate(torch.cat([space, time], -1)).float())
        return self.norm(torch.lerp(time, space, share) + x)


class Temporal(nn.Module):
    """Self-attention over the steps of one sensor, then a feed-forward layer; both with residual and norm."""

    def __init__(self, params: STMGTParams, d: int) -> None:
        super().__init__()
        self.attention = Attention(d, params.heads)
        self.attention_norm = nn.LayerNorm(d)
        self.widen = nn.Linear(d, params.expand * d)
        self.narrow = nn.Linear(params.expand * d, d)
        self.norm = nn.LayerNorm(d)
        self.dropout = StepDropout(params.dropout)

    def forward(self, x: Float[Tensor, "batch node time d"]) -> Float[Tensor, "batch node time d"]:
        steps = x.flatten(0, 1)
        x = self.attention_norm(x + self.dropout(self.attention(steps, steps).view_as(x)))
        return self.norm(x + self.dropout(self.narrow(F.gelu(self.widen(x)))))


class Weather(nn.Module):
    """Each sensor's state looks back at the weather of the history steps, which all sensors share."""

    def __init__(self, params: STMGTParams, d: int, covariates: int) -> None:
        super().__init__()
        self.tokens = nn.Linear(covariates, d)
        self.attention = Attention(d, params.heads)
        self.dropout = nn.Dropout(params.dropout)
        self.norm = nn.LayerNorm(d)

    def forward(
        self,
        state: Float[Tensor, "batch node d"],
        weather: Float[Tensor, "batch time covariate"],
        time: Float[Tensor, "batch time d"],
    ) -> Float[Tensor, "batch node d"]:
        read = self.attention(state, self.tokens(weather) + time)
        return self.norm(state + self.dropout(read))


class Attention(nn.Module):
    """softmax(q k / sqrt(width of a head)) v, scores and softmax in float32.

    Written out: a fused kernel is no faster at histories of tens of steps, and some of them launch one block a row.
    """

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(d, d)
        self.key_value = nn.Linear(d, 2 * d)
        self.out = nn.Linear(d, d)

    def forward(
        self, reader: Float[Tensor, "row reader d"], read: Float[Tensor, "row read d"]
    ) -> Float[Tensor, "row reader d"]:
        query = self._by_head(self.query(reader))
        key, value = (self._by_head(x) for x in self.key_value(read).chunk(2, -1))
        with torch.autocast(query.device.type, enabled=False):
            scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
            mixed = scores.softmax(-1) @ value  # row head reader width
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _by_head(self, x: Float[Tensor, "row step d"]) -> Float[Tensor, "row head step width"]:
        return x.float().unflatten(-1, (self.heads, -1)).transpose(1, 2)
