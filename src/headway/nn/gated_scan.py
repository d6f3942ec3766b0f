"""The inside of a Mamba-2 block as one operator: convolution, SiLU, scan, gate and norm, with its own gradient.

    c = causal depthwise conv(mixed)        x, B, C = split(silu(c))        d = softplus(dt + dt_bias)
    M_ts = exp(sum_{r=s+1..t} d_r A) (C_t . B_s) d_s + D [t = s]            for s <= t, else 0
    y = M x                                 out = g / rms(g)   with g = y * silu(z)

`M` is the matrix of `headway.nn.selective_scan` with the step size and the skip D folded in, so that one product
does all. As single operations this is most of a block's time and memory: each passes over tensors larger than the
cache, and nearly all of them are kept. Here a few sequences at a time go all the way while they are in the cache,
and the gradient computes them anew from z, mixed and dt, which are all that is kept. Sums run in a fixed order.

Glossary: r sequences, l steps, q the newest steps that are wanted (q <= l), h heads of width p, d = h p, n state
width, c = d + 2 n channels that the convolution mixes, w its taps. All of one floating type, float32 in use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

EPS = 1e-5  # under the root of the norm, as in mamba_ssm
BLOCK_STEPS = 5000  # sequences times steps that go through together on a CPU: 1.3 MB of the widest tensors


def gated_scan(
    z: Float[Tensor, "r q d"],
    mixed: Float[Tensor, "r l c"],
    dt: Float[Tensor, "r l h"],
    taps: Float[Tensor, "c 1 w"],
    bias: Float[Tensor, " c"],
    dt_bias: Float[Tensor, " h"],
    A: Float[Tensor, " h"],
    D: Float[Tensor, " h"],
) -> Float[Tensor, "r q d"]:
    """The normalized outputs of the newest q steps, before the weight of the norm.

    Args:
        z, mixed, dt: parts of the input projection. taps, bias: of the convolution, the newest step's tap last.
        A: decay rates, negative. D: weight of the skip.
    """
    return _GatedScan.apply(z, mixed, dt, taps, bias, dt_bias, A, D)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """What a few sequences hold on their way."""

    conv: Float[Tensor, "r l c"]
    x: Float[Tensor, "r h l p"]
    B: Float[Tensor, "r l n"]
    C: Float[Tensor, "r q n"]
    d: Float[Tensor, "r h 1 l"]
    decay: Float[Tensor, "r h q l"]
    scores: Float[Tensor, "r 1 q l"]
    M: Float[Tensor, "r h q l"]
    y: Float[Tensor, "r q d"]
    gate: Float[Tensor, "r q d"]
    scale: Float[Tensor, "r q 1"]


class _GatedScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, mixed: Tensor, dt: Tensor, *constants: Tensor) -> Tensor:
        ctx.save_for_backward(z, mixed, dt, *constants)
        out = torch.empty_like(z, memory_format=torch.contiguous_format)
        for rows in _blocks(mixed):
            block = _run(z[rows], mixed[rows], dt[rows], *constants)
            torch.mul(block.y, block.gate, out=out[rows]).mul_(block.scale)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        z, mixed, dt, *constants = ctx.saved_tensors
        grad_parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (z, mixed, dt)]
        grad_constants = [torch.zeros_like(x) for x in constants]
        for rows in _blocks(mixed):
            parts = [x[rows] for x in (z, mixed, dt)]
            _run_back(grads[0][rows], parts, constants, [x[rows] for x in grad_parts], grad_constants)
        return *grad_parts, *grad_constants


def _blocks(mixed: Tensor) -> list[slice]:
    """Few sequences at a time on a CPU; on a GPU, whose memory is fast and whose launches cost, all at once."""
    rows, steps, _ = mixed.shape
    size = rows if mixed.is_cuda else max(1, BLOCK_STEPS // steps)
    return [slice(first, first + size) for first in range(0, rows, size)]


def _run(z: Tensor, mixed: Tensor, dt: Tensor, *constants: Tensor) -> _Block:
    taps, bias, dt_bias, A, D = constants
    heads, (wanted, width), steps = len(D), z.shape[1:], mixed.shape[1]
    state = (mixed.shape[2] - width) // 2
    conv = _convolve(mixed, taps, bias)
    x, B, C = F.silu(conv).split([width, state, state], -1)
    x, C = x.unflatten(-1, (heads, -1)).transpose(1, 2), C[:, -wanted:]
    d = F.softplus(dt + dt_bias).transpose(1, 2).contiguous()  # r h l
    total = torch.cumsum(d * A.unsqueeze(-1), -1)
    future = torch.full((wanted, steps), float("-inf"), dtype=d.dtype, device=d.device).triu(
        steps - wanted + 1
    )
    # The segment sums below the diagonal are <= 0: a difference decides, never a product of exponentials.
    decay = (total[:, :, -wanted:, None] - total.unsqueeze(2)).add_(future).exp_()
    scores = torch.bmm(C, B.transpose(1, 2)).unsqueeze(1)
    M = (decay * d.unsqueeze(2)).mul_(scores)
    M.diagonal(steps - wanted, 2, 3).add_(D.unsqueeze(-1))
    y = (M @ x).transpose(1, 2).flatten(2)
    gate = F.silu(z)
    scale = (y * gate).square_().mean(-1, keepdim=True).add_(EPS).rsqrt_()
    return _Block(
        conv=conv,
        x=x,
        B=B,
        C=C,
        d=d.unsqueeze(2),
        decay=decay,
        scores=scores,
        M=M,
        y=y,
        gate=gate,
        scale=scale,
    )


def _run_back(
    grad: Tensor,
    parts: list[Tensor],
    constants: list[Tensor],
    grad_parts: list[Tensor],
    grad_constants: list[Tensor],
) -> None:
    """Write the gradients of z, mixed and dt; add those of the constants to what other blocks gave."""
    (z, mixed, dt), (taps, _, dt_bias, A, _) = parts, constants
    (grad_z, grad_mixed, grad_dt), (grad_taps, grad_bias, grad_dt_bias, grad_A, grad_D) = (
        grad_parts,
        grad_constants,
    )
    block = _run(*parts, *constants)
    grad_y = _gate_back(grad, z, block, grad_z)
    grad_silu, grad_d = _scan_back(grad_y, block, A, grad_A, grad_D)
    grad_conv = torch.ops.aten.silu_backward(grad_silu, block.conv)
    grad_bias.add_(grad_conv.sum((0, 1)))
    _convolve_back(grad_conv, mixed, taps, grad_mixed, grad_taps)
    torch.mul(grad_d.transpose(1, 2), torch.sigmoid(dt + dt_bias), out=grad_dt)
    grad_dt_bias.add_(grad_dt.sum((0, 1)))


def _gate_back(grad: Tensor, z: Tensor, block: _Block, grad_z: Tensor) -> Float[Tensor, "r q d"]:
    """Through norm and gate: writes the gradient of z, returns that of y."""
    normed = (block.y * block.gate).mul_(block.scale)
    along = (grad * normed).mean(-1, keepdim=True)
    grad_g = torch.addcmul(grad, normed, along, value=-1).mul_(block.scale)
    torch.ops.aten.silu_backward.grad_input(grad_g * block.y, z, grad_input=grad_z)
    return grad_g.mul_(block.gate)


def _scan_back(
    grad_y: Tensor, block: _Block, A: Tensor, grad_A: Tensor, grad_D: Tensor
) -> tuple[Float[Tensor, "r l c"], Float[Tensor, "r h l"]]:
    """Through y = M x and the making of M: the gradients of silu(conv) and of d."""
    heads, (wanted, steps), d = len(A), block.M.shape[2:], block.d
    grad_y = grad_y.unflatten(-1, (heads, -1)).transpose(1, 2)  # r h q p
    grad_x = (block.M.transpose(2, 3) @ grad_y).transpose(1, 2).flatten(2)
    grad_M = grad_y @ block.x.transpose(2, 3)
    grad_D.add_(grad_M.diagonal(steps - wanted, 2, 3).sum((0, 2)))
    by_decay = grad_M.mul_(block.decay)  # gradient of scores * d; 0 in the future from here on
    grad_scores = (by_decay * d).sum(1)
    grad_B = torch.bmm(grad_scores.transpose(1, 2), block.C)
    grad_C = F.pad(torch.bmm(grad_scores, block.B), (0, 0, steps - wanted, 0))
    by_scores = by_decay.mul_(block.scores)
    grad_d = by_scores.sum(2)  # r h l
    d = d.squeeze(2)
    grad_total = -grad_d * d  # of the sums of decays: each segment is a later one less an earlier one
    grad_total[:, :, -wanted:] += (by_scores @ d.unsqueeze(-1)).squeeze(-1)
    grad_rate = grad_total.flip(-1).cumsum(-1).flip(-1)  # of d A
    grad_A.add_((grad_rate * d).sum((0, 2)))
    return torch.cat([grad_x, grad_B, grad_C], -1), grad_d.addcmul_(grad_rate, A.unsqueeze(-1))


def _convolve(x: Float[Tensor, "r l c"], taps: Tensor, bias: Tensor) -> Float[Tensor, "r l c"]:
    """Causal depthwise convolution: a multiply-add a tap. What lies before the first step is 0.

    Steps and channels are one dimension, and each tap is written out for it: loops of l c elements instead of c.
    """
    rows, steps, channels = x.shape
    x, out = x.reshape(rows, -1), bias.repeat(rows, steps)
    for lag in range(min(taps.shape[-1], steps)):
        first, tap = lag * channels, taps[:, 0, -1 - lag].repeat(steps - lag)
        out[:, first:].addcmul_(x[:, : len(tap)], tap)
    return out.view(rows, steps, channels)


def _convolve_back(
    grad: Float[Tensor, "r l c"], x: Float[Tensor, "r l c"], taps: Tensor, grad_x: Tensor, grad_taps: Tensor
) -> None:
    rows, steps, channels = x.shape
    x, grad, grad_x = x.reshape(rows, -1), grad.view(rows, -1), grad_x.view(rows, -1).zero_()
    for lag in range(min(taps.shape[-1], steps)):
        first, tap = lag * channels, taps[:, 0, -1 - lag].repeat(steps - lag)
        later, earlier = grad[:, first:], slice(0, len(tap))
        grad_x[:, earlier].addcmul_(later, tap)
        by_step = (later * x[:, earlier]).sum(0)
        grad_taps[:, 0, -1 - lag].add_(by_step.view(-1, channels).sum(0))
