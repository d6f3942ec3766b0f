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
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from headway.nn.gated_scan import EPS, gated_scan
from headway.nn.selective_scan import CHUNK, selective_scan
from headway.nn.triton_scan import Scan, kernel_for

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
        self.norm = nn.RMSNorm(self.d_in, eps=EPS)  # its weight is applied by out_proj
        self.out_proj = nn.Linear(self.d_in, d, bias=False)

    def forward(self, u: Float[Tensor, "r l d"]) -> Float[Tensor, "r l d"]:
        return self.newest(u, u)

    def newest(self, u: Float[Tensor, "r l d"], last: Float[Tensor, "r q d"]) -> Float[Tensor, "r q d"]:
        """The output at the `last`, newest, steps of u alone, without the work that only earlier steps need."""
        of_z, of_mixed, of_dt = self.in_proj.weight.split([self.d_in, self.d_in + 2 * self.n, self.h])
        z, mixed, dt = F.linear(last, of_z), F.linear(u, of_mixed), F.linear(u, of_dt)
        kernel = kernel_for(u)
        scan = gated_scan if u.shape[1] <= CHUNK else _in_chunks
        if kernel is not None:
            scan = partial(_made_again, kernel)
        taps, bias = self.conv1d.weight, self.conv1d.bias
        assert bias is not None
        with torch.autocast(u.device.type, enabled=False):  # decay and sums of decays need float32
            d = F.softplus(dt.float() + self.dt_bias)
            y = scan(z.float(), mixed.float(), d, taps, bias, -torch.exp(self.A_log), self.D)
        return F.linear(y, self.out_proj.weight * self.norm.weight)


def _in_chunks(
    z: Float[Tensor, "r q d"],
    mixed: Float[Tensor, "r l c"],
    d: Float[Tensor, "r l h"],
    taps: Float[Tensor, "c 1 w"],
    bias: Float[Tensor, " c"],
    A: Float[Tensor, " h"],
    D: Float[Tensor, " h"],
    scan: Scan = selective_scan,
) -> Float[Tensor, "r q d"]:
    """What `gated_scan` gives, for histories longer than one chunk: plain operations, the state passed on."""
    width, state = z.shape[2], (mixed.shape[2] - z.shape[2]) // 2
    padded = F.pad(mixed.transpose(1, 2), (taps.shape[-1] - 1, 0))
    conv = F.conv1d(padded, taps, bias, groups=len(bias)).transpose(1, 2)
    x, B, C = F.silu(conv).split([width, state, state], -1)
    y = scan(x.unflatten(-1, (len(D), -1)), d, A, B, C, D)
    return F.rms_norm(y.flatten(2)[:, -z.shape[1] :] * F.silu(z), (width,), eps=EPS)


def _made_again(kernel: Scan, *given: Tensor) -> Tensor:
    """`_in_chunks` on a kernel for the scan, keeping for the backward pass no more than `gated_scan` does."""
    return checkpoint(_in_chunks, *given, kernel, use_reentrant=False, preserve_rng_state=False)
