"""The trend of the whole network: one curve of H steps from the average of all sensors.

    s_t    = mean over observed sensors of the reading, and of what stands beside it                [B, L, c]
    z      = branch(s)                                   linear | transformer | Mamba-2 | a language model
    curve  = W [z ; mean anchors of the target steps ; clock of the first of them] + b              [B, H]

W starts at zero, so an untrained trend says nothing. The clock is two daily waves, and the weekend where training
spans two weeks.

Source: brief D's temporal branch; models.md 3c. That the branch is exchangeable, and knows context, anchors and
clock, is this project's.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headway.data.calendar import SATURDAY
from headway.nn.mamba import Mamba2
from headway.types import Batch

WAVES = 2  # of a day, each a sine and a cosine
EXPAND = 2  # inner width of the feed-forward layer of a transformer block, in widths
STATE_DIM, CONV_WIDTH = 16, 4  # of Mamba-2, as in section st_mamba
STEP_STD = 0.02


class Trend(nn.Module):
    """From a batch to the curve.

    Args:
        branch: (series, calendar) -> state of `width` numbers.
        anchors: of a target step.
        slots_per_day: of the calendar. knows_weeks: whether training is long enough to tell the weekend.
    """

    def __init__(
        self,
        branch: nn.Module,
        width: int,
        *,
        horizon: int,
        anchors: int,
        slots_per_day: int,
        knows_weeks: bool,
    ) -> None:
        super().__init__()
        self.slots_per_day, self.knows_weeks = slots_per_day, knows_weeks
        self.branch = branch
        self.out = nn.Linear(width + horizon * anchors + 2 * WAVES + knows_weeks, horizon)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, batch: Batch) -> Float[Tensor, "batch horizon"]:
        state = self.branch(network_series(batch), batch.history_calendar)
        anchors = _mean(batch.anchors, batch.anchors_observed).flatten(1)
        clock = self.clock(batch.target_calendar[:, 0])
        return self.out(torch.cat([state, anchors, clock], -1)).float()

    def clock(self, now: Int[Tensor, "batch 2"]) -> Float[Tensor, "batch clock"]:
        """Two daily waves, and the weekend where it is known."""
        slot, day = now.unbind(-1)
        waves = torch.arange(1, WAVES + 1, device=now.device)
        angle = 2 * math.pi * waves * slot.float().unsqueeze(-1) / self.slots_per_day
        weekend = [(day >= SATURDAY).float().unsqueeze(-1)] if self.knows_weeks else []
        return torch.cat([angle.sin(), angle.cos(), *weekend], -1)


def network_series(batch: Batch) -> Float[Tensor, "batch time variable"]:
    """Means over the sensors observed at a step (0, the mean, without any): the target and what stands beside it."""
    now = _mean(batch.history[..., :1], batch.history_observed[..., :1])
    return torch.cat([now, _mean(batch.past, batch.past_observed)], -1)


def _mean(
    readings: Float[Tensor, "batch time node variable"], observed: Bool[Tensor, "batch time node variable"]
) -> Float[Tensor, "batch time variable"]:
    return (readings * observed).sum(2) / observed.sum(2).clamp(min=1)


class LinearBranch(nn.Module):
    """Every step as it is: with the map behind it, one linear layer."""

    def forward(
        self, series: Float[Tensor, "batch time variable"], calendar: Int[Tensor, "batch time 2"]
    ) -> Float[Tensor, "batch state"]:
        return series.flatten(1)


class TransformerBranch(nn.Module):
    """A small transformer over the steps; the state is that of the newest one."""

    def __init__(self, variables: int, history: int, d: int, layers: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(variables, d)
        self.steps = nn.Parameter(STEP_STD * torch.randn(history, d))
        self.blocks = nn.ModuleList(TransformerBlock(d, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(d)

    def forward(
        self, series: Float[Tensor, "batch time variable"], calendar: Int[Tensor, "batch time 2"]
    ) -> Float[Tensor, "batch state"]:
        h = self.embed(series).float() + self.steps
        for block in self.blocks:
            h = block(h)
        return self.norm(h[:, -1])


class TransformerBlock(nn.Module):
    """Attention, then a feed-forward layer; the norm stands before each."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.widen, self.narrow = nn.Linear(d, EXPAND * d), nn.Linear(EXPAND * d, d)

    def forward(self, h: Float[Tensor, "batch time d"]) -> Float[Tensor, "batch time d"]:
        qkv = self.qkv(self.attention_norm(h)).float().unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # batch head time width
        with torch.autocast(h.device.type, enabled=False):
            weights = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(-1)
            mixed = (weights @ value).transpose(1, 2).flatten(2)
        h = h + self.out(mixed).float()
        return h + self.narrow(F.gelu(self.widen(self.norm(h)))).float()


class MambaBranch(nn.Module):
    """Mamba-2 along the steps; the state is that of the newest one."""

    def __init__(self, variables: int, d: int, layers: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(variables, d)
        self.blocks = nn.ModuleList(
            Mamba2(d, expand=1, head_dim=d // heads, state_dim=STATE_DIM, conv_width=CONV_WIDTH)
            for _ in range(layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(d) for _ in range(layers))

    def forward(
        self, series: Float[Tensor, "batch time variable"], calendar: Int[Tensor, "batch time 2"]
    ) -> Float[Tensor, "batch state"]:
        h = self.embed(series).float()
        for block, norm in zip(self.blocks, self.norms, strict=True):
            assert isinstance(block, Mamba2)
            h = norm(h + block(h).float())
        return h[:, -1]
