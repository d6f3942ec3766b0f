"""The Mamba-2 block (Dao & Gu 2024), parameter for parameter that of `mamba_ssm.Mamba2` with one group.

    [z, xBC, dt] = u W_in        xBC = SiLU(causal depthwise conv(xBC))        x, B, C = split(xBC)
    dt = softplus(dt + dt_bias)  A = -exp(A_log)
    y = selective_scan(x, dt, A, B, C, D)        out = RMSNorm(y * SiLU(z)) W_out

Glossary: d stream width, d_in = expand * d, h heads of width p, n state width. A sequence is the history
of one sensor. At lengths below about 100 this costs more than attention on a CPU: what it buys is accuracy
and memory, not speed.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from headway.nn.selective_scan import selective_scan

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 0.1, 1e-4


class Mamba2(nn.Module):
    """Selective state-space mixing along time, causal.

    Args: d stream width; expand inner widths; head_dim p (divides expand * d); state_dim n; conv_width taps.
    """

    def __init__(self, d: int, *, expand: int, head_dim: int, state_dim: int, conv_width: int) -> None:
        super().__init__()
        self.d_in, self.n, self.p = expand * d, state_dim, head_dim
        assert self.d_in % head_dim == 0, f"heads of width {head_dim} do not fill {self.d_in}"
        self.h = self.d_in // head_dim
        mixed = self.d_in + 2 * state_dim
        self.in_proj = nn.Linear(d, self.d_in + mixed + self.h, bias=False)
        self.conv1d = nn.Conv1d(mixed, mixed, conv_width, groups=mixed, padding=conv_width - 1)
        dt = torch.exp(torch.empty(self.h).uniform_(math.log(DT_MIN), math.log(DT_MAX))).clamp(min=DT_FLOOR)
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
        self.A_log = nn.Parameter(torch.empty(self.h).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(self.h))
        self.norm = nn.RMSNorm(self.d_in, eps=1e-5)
        self.out_proj = nn.Linear(self.d_in, d, bias=False)

    def forward(self, u: Float[Tensor, "r l d"]) -> Float[Tensor, "r l d"]:
        z, mixed, dt = self.in_proj(u).split([self.d_in, self.d_in + 2 * self.n, self.h], -1)
        x, B, C = self._convolve(mixed).split([self.d_in, self.n, self.n], -1)
        with torch.autocast(u.device.type, enabled=False):  # decay and sums of decays need float32
            y = selective_scan(
                x.float().unflatten(-1, (self.h, self.p)),
                F.softplus(dt.float() + self.dt_bias),
                -torch.exp(self.A_log),
                B.float(),
                C.float(),
                self.D,
            )
        y = self.norm(y.flatten(-2) * F.silu(z.float()))
        return self.out_proj(y)

    def _convolve(self, x: Float[Tensor, "r l c"]) -> Float[Tensor, "r l c"]:
        """SiLU of the causal depthwise convolution: conv2d on a channels-last view, nothing is transposed."""
        weight = self.conv1d.weight.unsqueeze(2)  # c 1 1 w
        image = F.pad(x.transpose(1, 2).unsqueeze(2), (weight.shape[-1] - 1, 0))
        image = image.contiguous(memory_format=torch.channels_last)
        y = F.conv2d(image, weight, self.conv1d.bias, groups=weight.shape[0])
        return F.silu(y.squeeze(2).transpose(1, 2))
