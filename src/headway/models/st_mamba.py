"""ST-Mamba with HA-GAT: interleaved blocks of reading the past and reading the neighbors.

    h = embedding(readings, masks, clock, sensor)                          [B, N, L, d]
    for each block:  h = LayerNorm(h + Dropout(Mamba2(h)))                 times of one sensor, causal
                     h = spatial(h)                                        sensors at one time (its own norm)
    state = last step of h                                                 [B, N, d]
    forecast = head(state, window)                                         a correction, in z-units

With a history of 48 or more the embedded steps are read at three scales of twelve steps each - the last 12,
24 by twos, 48 by fours - through the same blocks, and their states are mixed by softmax(w . state_scale).

Source: brief A's interleaved block, with its dense attention replaced by HA-GAT on a neighbor table, and in the
other order (theirs: spatial attention at each time, then Mamba along time): a sensor reads what its neighbors have
made of their whole past, and of the last block only the newest step is needed, a twelfth of the work;
models.md 2 and 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Interval
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from headway.models.parts import Parts, check_divides
from headway.nn.dropout import StepDropout
from headway.nn.embedding import WindowEmbedding
from headway.nn.mamba import Mamba2
from headway.nn.neighbor_table import NeighborTable
from headway.nn.slices import SpatialBlock
from headway.types import Batch, Forecast

SCALE_STEPS = 12
STRIDES = (1, 2, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class STMambaParams:
    """Section `st_mamba` of params.yaml.

    Attributes:
        layers: blocks.
        expand: inner width of the state-space operator in stream widths.
        head_dim: width of one state-space head; divides expand times the stream width.
        state_dim: size of the state of each channel.
        conv_width: steps of the causal convolution.
        dropout: on the output of each temporal operator.
        node_embedding, time_of_day_embedding, day_of_week_embedding: what the embedding knows.
        multi_scale: read a history of at least 48 steps at three scales.
    """

    layers: Annotated[int, Ge(1)]
    expand: Annotated[int, Ge(1)]
    head_dim: Annotated[int, Ge(1)]
    state_dim: Annotated[int, Ge(1)]
    conv_width: Annotated[int, Interval(ge=1, le=8)]
    dropout: Annotated[float, Interval(ge=0, lt=1)]
    node_embedding: bool
    time_of_day_embedding: bool
    day_of_week_embedding: bool
    multi_scale: bool


class STMamba(nn.Module):
    """The whole model in z-units.

    Args:
        params: section `st_mamba`.
        d: width of the residual stream.
        embedding: Batch -> h; made by `headway.models.build`.
        spatial: makes one spatial operator, (h, table) -> h.
        head: (state, batch) -> Forecast.
        table: the sensor graph.
        history: steps read.
    """

    def __init__(
        self,
        params: STMambaParams,
        *,
        d: int,
        embedding: WindowEmbedding,
        spatial: Callable[[], nn.Module],
        head: nn.Module,
        table: NeighborTable,
        history: int,
    ) -> None:
        super().__init__()
        self.table = table
        self.embedding = embedding
        self.blocks = nn.ModuleList(Block(params, d, spatial()) for _ in range(params.layers))
        self.multi_scale = params.multi_scale and history >= SCALE_STEPS * STRIDES[-1]
        self.scale_score = nn.Linear(d, 1, bias=False) if self.multi_scale else None
        self.head = head
        self.recompute = False  # set by the planner: keep the input of each block only

    def forward(self, batch: Batch) -> Forecast:
        h = self.embedding(batch)
        state = self.mixed_state(h) if self.multi_scale else self.state(h)
        return self.head(state, batch)

    def state(self, h: Float[Tensor, "batch node time d"]) -> Float[Tensor, "batch node d"]:
        """The state of every sensor after the last step."""
        steps, last = h.shape[2], len(self.blocks) - 1
        for number, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            wanted = 1 if number == last else steps
            if self.recompute and torch.is_grad_enabled():  # draws the same dropout the second time
                h = checkpoint(block.newest, h, self.table, wanted, use_reentrant=False)
            else:
                h = block.newest(h, self.table, wanted)
        return h.squeeze(2)

    def mixed_state(self, h: Float[Tensor, "batch node time d"]) -> Float[Tensor, "batch node d"]:
        """States at the three scales, mixed by softmax(w . state): each scale ends at the newest step."""
        assert self.scale_score is not None
        newest = h.shape[2] - 1
        age = torch.arange(SCALE_STEPS - 1, -1, -1, device=h.device)
        scales = torch.cat([h[:, :, newest - stride * age] for stride in STRIDES])  # (scale batch) node 12 d
        states = self.state(scales).unflatten(0, (len(STRIDES), -1))
        return (self.scale_score(states).float().softmax(0) * states).sum(0)


def assemble(params: STMambaParams, parts: Parts) -> STMamba:
    """The model with fresh weights.

    Raises: InputError where widths do not fit.
    """
    check_divides(
        "st_mamba.head_dim",
        params.head_dim,
        params.expand * parts.width,
        f"st_mamba.expand * {parts.width_key}",
    )
    embedding = parts.embedding(
        covariates=len(parts.meta.covariates),
        node=params.node_embedding,
        time_of_day=params.time_of_day_embedding,
        day_of_week=params.day_of_week_embedding,
    )
    return STMamba(
        params,
        d=parts.width,
        embedding=embedding,
        spatial=parts.spatial,
        head=parts.head,
        table=parts.table,
        history=parts.meta.history,
    )


class Block(SpatialBlock):
    """Each sensor reads its own past; then sensors read each other at each time."""

    def __init__(self, params: STMambaParams, d: int, spatial: nn.Module) -> None:
        super().__init__(spatial)
        self.temporal = Mamba2(
            d,
            expand=params.expand,
            head_dim=params.head_dim,
            state_dim=params.state_dim,
            conv_width=params.conv_width,
        )
        self.dropout = StepDropout(params.dropout)
        self.norm = nn.LayerNorm(d)

    def forward(
        self, h: Float[Tensor, "batch node time d"], table: NeighborTable
    ) -> Float[Tensor, "batch node time d"]:
        return self.newest(h, table, h.shape[2])

    def newest(
        self, h: Float[Tensor, "batch node time d"], table: NeighborTable, wanted: int
    ) -> Float[Tensor, "batch node {wanted} d"]:
        """The newest `wanted` steps: of the last block only one is ever read."""
        last = h if wanted == h.shape[2] else h[:, :, -wanted:]
        past = self.temporal.newest(h.flatten(0, 1), last.flatten(0, 1)).unflatten(0, h.shape[:2]).float()
        return self.over_sensors(self.norm(self.dropout(past).add_(last)), table)
